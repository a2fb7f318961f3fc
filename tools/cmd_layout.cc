// SPDX-License-Identifier: BSD-3-Clause
//
// pindax layout FILE: extents, their alignment, who shares them, and what is mapped and pinned. pindax layout --block N: whose it is.
#include <fmt/format.h>

#include <optional>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

constexpr std::size_t kMostPins = 100;  // shown here

std::string print(const Json& reply) {
  std::string text = fmt::format("{} (inode {}), {}\n", text_field(reply, "path"), text_field(reply, "inode"),
                                 size_text(number_field(reply, "size_bytes")));
  Table extents({{"FILE RANGE"}, {"POOL BLOCK", true}, {"BLOCKS", true}, {"STATE"}, {"SHARED"}, {"2 MIB ALIGNED"}});
  for (const Json& e : reply.value("extents", Json::array()))
    extents.add({range_text(number_field(e, "offset_bytes"), number_field(e, "length_bytes")), text_field(e, "block"),
                 text_field(e, "length_blocks"), text_field(e, "state"), e.value("shared", false) ? "maybe" : "no", e.value("huge_aligned", false) ? "yes" : "no"});
  text += extents.empty() ? "no blocks\n" : extents.text(terminal_width());
  Table mappings({{"MAPPED RANGE"}, {"SESSION", true}, {"PID", true}, {"COMMAND", false, true, 1}, {"RIGHTS"}, {"GRANTED", true}, {"RECALLS", true, false, 2}});
  for (const Json& m : reply.value("mappings", Json::array()))
    mappings.add({range_text(number_field(m, "offset_bytes"), number_field(m, "length_bytes")), text_field(m, "session"),
                  text_field(m, "pid"), text_field(m, "command"), m.value("writable", false) ? "read, write" : "read",
                  m.value("direct", true) ? size_text(number_field(m, "granted_bytes")) : "by the mount", text_field(m, "recalls_pending")});
  if (!mappings.empty()) text += "\n" + mappings.text(terminal_width());
  Table pins({{"PINNED RANGE"}, {"PID", true}, {"THREAD", true, false, 2}, {"COMMAND", false, true, 1}, {"KIND"}, {"AGE", true}});
  const Json all_pins = reply.value("pins", Json::array());
  for (const Json& p : all_pins) {
    if (pins.rows() == kMostPins) break;
    pins.add({range_text(number_field(p, "offset_bytes"), number_field(p, "length_bytes")), text_field(p, "pid"),
              text_field(p, "thread"), text_field(p, "command"), text_field(p, "kind") + (p.value("stuck", false) ? " STUCK" : ""), age_text(number_field(p, "age_ms"))});
  }
  if (!pins.empty()) text += "\n" + pins.text(terminal_width());
  if (all_pins.size() > kMostPins) text += fmt::format("{} more: pindax pins shows all\n", all_pins.size() - kMostPins);
  return text;
}

std::string print_block(const Json& reply) {
  const Json files = reply.value("files", Json::array());
  const char* const bad = reply.value("bad", false) ? "the block is bad: what it held is lost\n" : "";
  if (files.empty()) return fmt::format("block {}: no file has it\n{}", text_field(reply, "block"), bad);
  Table table({{"FILE"}, {"INODE", true}, {"OFFSET", true}, {"SHARED"}, {"PID", true}, {"COMMAND", false, true}, {"RIGHTS"}, {"PINNED"}});
  for (const Json& f : files) {
    const std::string path = f.value("path", std::string());
    std::vector<std::string> row{path.empty() ? "(no name)" : escape(path), text_field(f, "inode"), text_field(f, "offset_bytes"),
                                 f.value("shared", false) ? "maybe" : "no"};
    const Json clients = f.value("clients", Json::array());
    if (clients.empty()) {
      row.insert(row.end(), {"", "", "", ""});
      table.add(row);
    }
    for (const Json& c : clients) {
      auto with = row;
      with.insert(with.end(), {text_field(c, "pid"), text_field(c, "command"), c.value("writable", false) ? "read, write" : "read",
                               c.value("pinned", false) ? "yes" : "no"});
      table.add(with);
    }
  }
  return table.text(terminal_width()) + bad;
}

}  // namespace

void add_layout(Commands& commands) {
  struct Options {
    ListingOptions listing;
    std::string file, socket;
    std::optional<u64> block;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("layout", "Show a file's extents, mappings and pins, or which files have a block");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  sub->add_option("--block", o->block, "show which files have this block of the pool, where, and who maps or pins it; FILE is then "
                                       "the mount or anything on it")->type_name("N");
  sub->add_option("--socket", o->socket, "ask this daemon")->type_name("SOCKET");
  add_watch_options(sub, o->listing);
  commands.run(sub, [o] {
    std::string inner;
    if (o->block) {
      o->listing.where = o->socket.empty() ? o->file : o->socket;
      return run_listing("layout", o->listing, {{"op", "block"}, {"block", *o->block}}, print_block);
    }
    if (Status s = locate(o->file, o->socket, o->listing, inner); !s.ok()) return fail("layout", s);
    return run_listing("layout", o->listing, {{"op", "layout"}, {"path", inner}}, print);
  });
}

}  // namespace pindax::tools
