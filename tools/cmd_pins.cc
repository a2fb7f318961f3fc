// SPDX-License-Identifier: BSD-3-Clause
//
// pindax pins MNT: who pins what, and who waits for it.
#include <fmt/format.h>

#include <map>
#include <tuple>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  ListingOptions listing;
  std::string file, kind;
  u64 pid = 0;
  bool pages = false, waited = false, stuck = false, all = false;
};

// More rows than this are summed up, one row for each process, file and kind, unless --all is given.
constexpr std::size_t kManyRows = 100;

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
  std::string text = fmt::format("{} by {}", text_field(first, "operation"), number_field(first, "pid"));
  if (it->size() > 1) text += fmt::format(" +{}", it->size() - 1);
  return text;
}

std::string kind_text(const Json& row) {
  std::string kind = text_field(row, "kind");
  if (row.value("write", false)) kind += "+w";
  if (row.value("transferable", false)) kind += "+t";
  if (row.value("stuck", false)) kind += " STUCK";
  else if (row.contains("asked_ms") && row["asked_ms"].is_number()) kind += " asked";
  return kind;
}

std::string each_row(const Json& rows) {
  Table table({{"PATH", false, true}, {"RANGE"}, {"BLOCKS", false, false, 1}, {"PID", true}, {"THREAD", true, false, 3},
               {"COMMAND", false, true, 2}, {"KIND"}, {"AGE", true}, {"WAITED BY"}, {"SINCE", true, false, 4}});
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) continue;
    u64 since = 0;
    for (const Json& waiter : row.value("waited_by", Json::array())) since = std::max(since, number_field(waiter, "waiting_ms"));
    table.add({text_field(row, "path"), range_text(number_field(row, "offset_bytes"), number_field(row, "length_bytes")),
               blocks_text(row), text_field(row, "pid"), text_field(row, "thread"), text_field(row, "command"), kind_text(row),
               age_text(number_field(row, "age_ms")), waiters_text(row), since != 0 ? age_text(since) : "-"});
  }
  return table.text(terminal_width());
}

std::string summed_up(const Json& rows) {
  struct Group {
    u64 count = 0, stuck = 0, waited = 0, begin = ~u64{0}, end = 0, bytes = 0, oldest_ms = 0;
    std::string command;
  };
  std::map<std::tuple<std::string, std::string, std::string>, Group> groups;  // path, pid, kind
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) continue;
    Group& g = groups[{text_field(row, "path"), text_field(row, "pid"), text_field(row, "kind")}];
    const u64 begin = number_field(row, "offset_bytes"), length = number_field(row, "length_bytes");
    ++g.count;
    g.stuck += row.value("stuck", false) ? 1 : 0;
    g.waited += row.contains("waited_by") && !row["waited_by"].empty() ? 1 : 0;
    g.begin = std::min(g.begin, begin);
    g.end = std::max(g.end, begin + length);
    g.bytes += length;
    g.oldest_ms = std::max(g.oldest_ms, number_field(row, "age_ms"));
    g.command = text_field(row, "command");
  }
  Table table({{"PATH", false, true}, {"PID", true}, {"COMMAND", false, true, 2}, {"KIND"}, {"PINS", true}, {"STUCK", true},
               {"WAITED FOR", true}, {"PINNED", true}, {"WITHIN", false, false, 1}, {"OLDEST", true}});
  for (const auto& [key, g] : groups)
    table.add({std::get<0>(key), std::get<1>(key), g.command, std::get<2>(key), std::to_string(g.count), std::to_string(g.stuck),
               std::to_string(g.waited), size_text(g.bytes), range_text(g.begin, g.end - g.begin), age_text(g.oldest_ms)});
  return table.text(terminal_width());
}

std::string print(const Json& rows, bool all) {
  u64 hidden = 0, count = 0;
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) hidden += number_field(row, "hidden_rows");
    else ++count;
  }
  std::string text = "no pins\n";
  if (count > kManyRows && !all)
    text = summed_up(rows) + fmt::format("{} pins: --all shows each, --file, --pid, --kind, --waited and --stuck choose\n", count);
  else if (count != 0)
    text = each_row(rows);
  if (hidden != 0) text += fmt::format(kHiddenText, hidden);
  return text;
}

}  // namespace

void add_pins(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("pins", "List what is pinned, by whom, and who waits for it");
  add_listing_options(sub, o->listing);
  sub->add_option("--file", o->file, "only pins of this file (a path on the mount)")->type_name("FILE");
  sub->add_option("--pid", o->pid, "only pins of this process")->type_name("PID");
  sub->add_option("--kind", o->kind, "only pins of this kind")->check(CLI::IsMember({"transient", "lease", "longterm"}));
  sub->add_flag("--waited", o->waited, "only pins that an operation waits for");
  sub->add_flag("--stuck", o->stuck, "only pins that outlast their soft deadline");
  sub->add_flag("--pages", o->pages, "one row a page, with its pool block");
  sub->add_flag("--all", o->all, "one row a pin, however many there are");
  commands.run(sub, [o] {
    Json request = {{"op", "pins"}};
    if (!o->file.empty()) {
      auto path = split_mounted_path(o->file);
      if (!path.ok()) return fail("pins", path.status());
      request["path"] = path->inner;
    }
    if (o->pid != 0) request["pid"] = o->pid;
    if (!o->kind.empty()) request["kind"] = o->kind;
    if (o->waited) request["waited"] = true;
    if (o->stuck) request["stuck"] = true;
    if (o->pages) request["pages"] = true;
    return run_listing("pins", o->listing, request, [o](const Json& rows) { return print(rows, o->all || o->pages); });
  });
}

}  // namespace pindax::tools
