// SPDX-License-Identifier: BSD-3-Clause
//
// pindax waiters MNT: the waits-for graph: each operation that waits, since when, and for whom.
#include <fmt/format.h>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

std::string print_one(const Json& row) {
  std::string text =
      fmt::format("{} {} {} by {} (pid {}, thread {}), {} for {}\n", text_field(row, "operation"), text_field(row, "path"),
                  range_text(number_field(row, "offset_bytes"), number_field(row, "length_bytes")), text_field(row, "command"),
                  text_field(row, "pid"), text_field(row, "thread"), text_field(row, "phase"),
                  age_text(number_field(row, "waiting_ms")));
  text += fmt::format("  policy {}, {} scans, {} retries", text_field(row, "policy"), number_field(row, "scans"),
                      number_field(row, "retries"));
  if (row.contains("busy_page_offset_bytes") && !row["busy_page_offset_bytes"].is_null())
    text += fmt::format(", busy at {}", size_text(number_field(row, "busy_page_offset_bytes")));
  if (auto it = row.find("deadline_ms"); it != row.end() && it->is_number() && it->get<i64>() >= 0)
    text += fmt::format(", gives up in {}", age_text(it->get<u64>()));
  text += '\n';
  for (const Json& holder : row.value("waits_for", Json::array()))
    text += fmt::format("  -> {} (pid {}, thread {}, uid {}) pins {} {} for {}\n", text_field(holder, "command"),
                        text_field(holder, "pid"), text_field(holder, "thread"), text_field(holder, "uid"),
                        range_text(number_field(holder, "offset_bytes"), number_field(holder, "length_bytes")),
                        text_field(holder, "kind"), age_text(number_field(holder, "age_ms")));
  if (row.contains("hint") && row["hint"].is_string()) text += fmt::format("  {}\n", text_field(row, "hint"));
  return text;
}

std::string print(const Json& rows) {
  std::string text;
  u64 hidden = 0;
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) hidden += number_field(row, "hidden_rows");
    else text += print_one(row);
  }
  if (text.empty()) text = "nobody waits\n";
  if (hidden != 0) text += fmt::format("{} more of other users (shown to root and the mount's owner)\n", hidden);
  return text;
}

}  // namespace

void add_waiters(Commands& commands) {
  auto o = std::make_shared<ListingOptions>();
  auto* sub = commands.add("waiters", "Show which operations wait, since when, and for whom");
  add_listing_options(sub, *o);
  commands.run(sub, [o] { return run_listing("waiters", *o, {{"op", "waiters"}}, print); });
}

}  // namespace pindax::tools
