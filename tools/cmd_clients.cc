// SPDX-License-Identifier: BSD-3-Clause
//
// pindax clients MNT: which processes have a session, and what they hold.
#include <fmt/format.h>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

std::string print(const Json& rows) {
  Table table({{"SESSION", true}, {"PID", true}, {"UID", true}, {"COMMAND", false, true}, {"PATH TO DATA"}, {"MAPPINGS", true},
               {"MAPPED", true}, {"PINS", true}, {"RECALLS", true}, {"AGE", true}});
  u64 hidden = 0;
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) {
      hidden += number_field(row, "hidden_rows");
      continue;
    }
    table.add({text_field(row, "session"), text_field(row, "pid"), text_field(row, "uid"), text_field(row, "command"),
               row.value("direct", false) ? "direct" : "mount", text_field(row, "mappings"),
               size_text(number_field(row, "mapped_bytes")), text_field(row, "pins"), text_field(row, "recalls_pending"),
               age_text(number_field(row, "age_ms"))});
  }
  std::string text = table.empty() ? "no clients\n" : table.text(terminal_width());
  if (hidden != 0) text += fmt::format("{} more of other users (shown to root and the mount's owner)\n", hidden);
  return text;
}

}  // namespace

void add_clients(Commands& commands) {
  auto o = std::make_shared<ListingOptions>();
  auto* sub = commands.add("clients", "List the processes that use the client library");
  add_listing_options(sub, *o);
  commands.run(sub, [o] { return run_listing("clients", *o, {{"op", "clients"}}, print); });
}

}  // namespace pindax::tools
