// SPDX-License-Identifier: BSD-3-Clause
//
// pindax waiters MNT: the waits-for graph: each operation that waits, since when, for whom, and what would end the wait.
#include <fmt/format.h>

#include <map>
#include <tuple>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

constexpr std::size_t kManyHolders = 10;  // more are summed up by process and kind

std::string range_of(const Json& row) { return range_text(number_field(row, "offset_bytes"), number_field(row, "length_bytes")); }

std::string holder_text(const Json& holder) {
  std::string text = fmt::format("  -> {} (pid {}, thread {}, uid {}) pins {}: {}, {}", text_field(holder, "command"),
                                 text_field(holder, "pid"), text_field(holder, "thread"), text_field(holder, "uid"), range_of(holder),
                                 text_field(holder, "kind"), age_text(number_field(holder, "age_ms")));
  if (holder.value("stuck", false)) text += ", STUCK";
  if (holder.contains("asked_ms") && holder["asked_ms"].is_number())
    text += fmt::format(", asked to end it {} ago", age_text(number_field(holder, "asked_ms")));
  return text;
}

std::string holders_text(const Json& holders, unsigned width) {
  std::string text;
  if (holders.size() <= kManyHolders) {
    for (const Json& holder : holders) text += wrap(holder_text(holder), width, 5);
    return text;
  }
  std::map<std::tuple<std::string, std::string, std::string>, std::pair<u64, u64>> groups;  // pid, command, kind -> pins, oldest
  for (const Json& holder : holders) {
    auto& [count, oldest] = groups[{text_field(holder, "pid"), text_field(holder, "command"), text_field(holder, "kind")}];
    ++count;
    oldest = std::max(oldest, number_field(holder, "age_ms"));
  }
  for (const auto& [who, sum] : groups)
    text += wrap(fmt::format("  -> {} (pid {}) holds {} {} pins, the oldest for {}", std::get<1>(who), std::get<0>(who), sum.first,
                             std::get<2>(who), age_text(sum.second)), width, 5);
  return text;
}

// Policy, deadline, and how often the range was looked at.
std::string state_text(const Json& row) {
  std::string text = fmt::format("  policy {}", text_field(row, "policy"));
  const Json& deadline = row["deadline_ms"];
  if (deadline.is_number() && deadline.get<i64>() >= 0) {
    const i64 left = deadline.get<i64>() - static_cast<i64>(number_field(row, "waiting_ms"));
    text += fmt::format(", deadline in {}", age_text(static_cast<u64>(std::max<i64>(left, 0))));
  }
  const auto count = [&](const char* key, const char* one, const char* many) {
    const u64 n = number_field(row, key);
    return fmt::format(", {} {}", n, n == 1 ? one : many);
  };
  text += count("scans", "scan", "scans") + count("retries", "retry", "retries");
  if (!row["busy_page_offset_bytes"].is_null()) text += fmt::format(", busy at {}", size_text(number_field(row, "busy_page_offset_bytes")));
  return text;
}

std::string print_one(const Json& row, const std::map<u64, std::string>& names, unsigned width) {
  const u64 pid = number_field(row, "pid");
  const std::string who = pid == 0 ? std::string("the kernel or the daemon")
                                   : fmt::format("{} (pid {}, thread {}, uid {})", text_field(row, "command"), pid,
                                                 text_field(row, "thread"), text_field(row, "uid"));
  std::string text = wrap(fmt::format("{} {} {} by {}: {} for {}", text_field(row, "operation"), text_field(row, "path"), range_of(row),
                                      who, text_field(row, "phase"), age_text(number_field(row, "waiting_ms"))), width, 2);
  if (!row.value("behind", Json::array()).empty()) {
    for (const Json& id : row["behind"])
      if (auto it = names.find(id.is_number() ? id.get<u64>() : 0); it != names.end()) text += wrap("  -> " + it->second, width, 5);
  } else {
    text += wrap(state_text(row), width, 4);
  }
  text += holders_text(row.value("waits_for", Json::array()), width);
  for (const Json& recall : row.value("recalls", Json::array()))
    text += wrap(fmt::format("  -> {} (pid {}, uid {}) was asked for its translation of {} {} ago", text_field(recall, "command"),
                             text_field(recall, "pid"), text_field(recall, "uid"), range_of(recall),
                             age_text(number_field(recall, "age_ms"))), width, 5);
  if (row.value("waits_for_kernel", false)) text += "  -> the kernel, which drops its pages of the range\n";
  if (const u64 hidden = number_field(row, "hidden_holders"); hidden != 0)
    text += fmt::format("  -> {} of other users\n", hidden);
  if (const std::string hint = text_field(row, "hint"); !hint.empty()) text += wrap("  " + hint, width, 4);
  bool first = true;
  for (const Json& command : row.value("ends_with", Json::array()))
    if (command.is_string()) text += fmt::format("  {} {}\n", std::exchange(first, false) ? "ends with:" : "       or:", escape(command.get<std::string>()));
  return text;
}

std::string print(const Json& rows) {
  std::string text;
  u64 hidden = 0;
  std::map<u64, std::string> names;
  for (const Json& row : rows)
    if (row.contains("id"))
      names.emplace(number_field(row, "id"), fmt::format("the {} by pid {}", text_field(row, "operation"), text_field(row, "pid")));
  for (const Json& row : rows) {
    if (row.contains("hidden_rows")) hidden += number_field(row, "hidden_rows");
    else text += print_one(row, names, terminal_width());
  }
  if (text.empty()) text = "nobody waits\n";
  if (hidden != 0) text += fmt::format(kHiddenText, hidden);
  return text;
}

}  // namespace

void add_waiters(Commands& commands) {
  struct Options {
    ListingOptions listing;
    std::string file;
    u64 pid = 0;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("waiters", "Show which operations wait, since when, for whom, and what ends the wait");
  add_listing_options(sub, o->listing);
  sub->add_option("--file", o->file, "only operations on this file (a path on the mount)")->type_name("FILE");
  sub->add_option("--pid", o->pid, "only operations of this process")->type_name("PID");
  commands.run(sub, [o] {
    Json request = {{"op", "waiters"}};
    if (!o->file.empty()) {
      auto path = split_mounted_path(o->file);
      if (!path.ok()) return fail("waiters", path.status());
      request["path"] = path->inner;
    }
    if (o->pid != 0) request["pid"] = o->pid;
    return run_listing("waiters", o->listing, request, print);
  });
}

}  // namespace pindax::tools
