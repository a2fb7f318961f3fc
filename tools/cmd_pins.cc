// SPDX-License-Identifier: BSD-3-Clause
//
// pindax pins MNT: who pins what, and who waits for it.
#include <fmt/format.h>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  ListingOptions listing;
  std::string file;
  u64 pid = 0;
  bool pages = false;
};

std::string blocks_text(const Json& row) {
  auto it = row.find("blocks");
  if (it == row.end() || !it->is_array() || it->empty()) return "-";
  std::string text;
  for (std::size_t i = 0; i < it->size() && i < 2; ++i) {
    const u64 block = number_field((*it)[i], "block");
    const u64 length = number_field((*it)[i], "length_blocks");
    text += fmt::format("{}{}{}", i == 0 ? "" : ",", block, length > 1 ? fmt::format("+{}", length) : "");
  }
  return it->size() > 2 ? text + ",…" : text;
}

std::string waiters_text(const Json& row) {
  auto it = row.find("waited_by");
  if (it == row.end() || !it->is_array() || it->empty()) return "-";
  const Json& first = (*it)[0];
  std::string text = fmt::format("{} by {} for {}", text_field(first, "operation"), number_field(first, "pid"),
                                 age_text(number_field(first, "waiting_ms")));
  if (it->size() > 1) text += fmt::format(" (+{})", it->size() - 1);
  return text;
}

std::string print(const Json& rows) {
  Table table({{"PATH", false, true}, {"RANGE"}, {"BLOCKS"}, {"PID", true}, {"THREAD", true}, {"COMMAND", false, true},
               {"KIND"}, {"AGE", true}, {"WAITED BY", false, true}});
  u64 hidden = 0;
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) {
      hidden += number_field(row, "hidden_rows");
      continue;
    }
    std::string kind = text_field(row, "kind");
    if (row.value("write", false)) kind += "+w";
    if (row.value("stuck", false)) kind += " STUCK";
    table.add({text_field(row, "path"), range_text(number_field(row, "offset_bytes"), number_field(row, "length_bytes")),
               blocks_text(row), text_field(row, "pid"), text_field(row, "thread"), text_field(row, "command"), kind,
               age_text(number_field(row, "age_ms")), waiters_text(row)});
  }
  std::string text = table.empty() ? "no pins\n" : table.text(terminal_width());
  if (hidden != 0) text += fmt::format("{} more of other users (shown to root and the mount's owner)\n", hidden);
  return text;
}

}  // namespace

void add_pins(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("pins", "List what is pinned, by whom, and who waits for it");
  add_listing_options(sub, o->listing);
  sub->add_option("--file", o->file, "only pins of this file (a path on the mount)")->type_name("FILE");
  sub->add_option("--pid", o->pid, "only pins of this process")->type_name("PID");
  sub->add_flag("--pages", o->pages, "one row a page, with its pool block");
  commands.run(sub, [o] {
    Json request = {{"op", "pins"}};
    if (!o->file.empty()) {
      auto path = split_mounted_path(o->file);
      if (!path.ok()) return fail("pins", path.status());
      request["path"] = path->inner;
    }
    if (o->pid != 0) request["pid"] = o->pid;
    if (o->pages) request["pages"] = true;
    return run_listing("pins", o->listing, request, print);
  });
}

}  // namespace pindax::tools
