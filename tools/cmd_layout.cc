// SPDX-License-Identifier: BSD-3-Clause
//
// pindax layout FILE: extents, their alignment, and what is mapped and pinned.
#include <fmt/format.h>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

constexpr std::size_t kMostPins = 100;  // shown here

std::string print(const Json& reply) {
  std::string text = fmt::format("{} (inode {}), {}\n", text_field(reply, "path"), text_field(reply, "inode"),
                                 size_text(number_field(reply, "size_bytes")));
  Table extents({{"FILE RANGE"}, {"POOL BLOCK", true}, {"BLOCKS", true}, {"STATE"}, {"2 MIB ALIGNED"}});
  for (const Json& e : reply.value("extents", Json::array()))
    extents.add({range_text(number_field(e, "offset_bytes"), number_field(e, "length_bytes")), text_field(e, "block"),
                 text_field(e, "length_blocks"), text_field(e, "state"), e.value("huge_aligned", false) ? "yes" : "no"});
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

}  // namespace

void add_layout(Commands& commands) {
  struct Options {
    ListingOptions listing;
    std::string file, socket;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("layout", "Show a file's extents, mappings and pins");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  sub->add_option("--socket", o->socket, "ask this daemon")->type_name("SOCKET");
  add_watch_options(sub, o->listing);
  commands.run(sub, [o] {
    std::string inner;
    if (Status s = locate(o->file, o->socket, o->listing, inner); !s.ok()) return fail("layout", s);
    return run_listing("layout", o->listing, {{"op", "layout"}, {"path", inner}}, print);
  });
}

}  // namespace pindax::tools
