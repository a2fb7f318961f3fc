// SPDX-License-Identifier: BSD-3-Clause
//
// pindax clients MNT: which processes have a session, and what they hold.
#include <fmt/format.h>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

// How its loads and stores get at the file's blocks.
std::string data_text(const Json& row) {
  if (!row.value("direct", false)) return "mount";
  return row.value("faults", "") == "signals" ? "direct, signals" : "direct";
}

std::string print(const Json& rows) {
  Table table({{"SESSION", true}, {"PID", true}, {"UID", true, false, 2}, {"COMMAND", false, true}, {"DATA", false, false, 1},
               {"MAPPINGS", true}, {"MAPPED", true}, {"PINS", true}, {"STUCK", true}, {"RECALLS", true}, {"AGE", true, false, 3}});
  u64 hidden = 0;
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) {
      hidden += number_field(row, "hidden_rows");
      continue;
    }
    table.add({text_field(row, "session"), text_field(row, "pid"), text_field(row, "uid"), text_field(row, "command"),
               data_text(row), text_field(row, "mappings"),
               size_text(number_field(row, "mapped_bytes")), text_field(row, "pins"), text_field(row, "stuck_pins"), text_field(row, "recalls_pending"),
               age_text(number_field(row, "age_ms"))});
  }
  std::string text = table.empty() ? "no clients\n" : table.text(terminal_width());
  if (hidden != 0) text += fmt::format(kHiddenText, hidden);
  return text;
}

}  // namespace

void add_clients(Commands& commands) {
  struct Options {
    ListingOptions listing;
    u64 pid = 0;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("clients", "List the processes that use the client library");
  add_listing_options(sub, o->listing);
  sub->add_option("--pid", o->pid, "only this process")->type_name("PID");
  commands.run(sub, [o] {
    Json request = {{"op", "clients"}};
    if (o->pid != 0) request["pid"] = o->pid;
    return run_listing("clients", o->listing, request, print);
  });
}

}  // namespace pindax::tools
