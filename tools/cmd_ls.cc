// SPDX-License-Identifier: BSD-3-Clause
//
// pindax ls and pindax stat: look at names without a mount (or through one).
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <ctime>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string path, socket;
  ListingOptions listing;
  bool totals = false;
};

void add_options(CLI::App* sub, Options& o) {
  sub->add_option("PATH", o.path, "a path on a mount; with --socket a path inside the file system")->required();
  sub->add_option("--socket", o.socket, "ask this daemon (pindaxd --no-mount --socket SOCKET POOL)")->type_name("SOCKET");
  add_watch_options(sub, o.listing);
}

std::string mode_text(u64 mode) {
  static constexpr char kTypes[] = "?pc?d?b?-?l?s???";
  std::string text(1, kTypes[(mode >> 12) & 15]);
  for (int shift = 6; shift >= 0; shift -= 3) {
    const auto bits = (mode >> shift) & 7;
    text += (bits & 4) != 0 ? 'r' : '-';
    text += (bits & 2) != 0 ? 'w' : '-';
    text += (bits & 1) != 0 ? 'x' : '-';
  }
  if ((mode & S_ISUID) != 0) text[3] = text[3] == 'x' ? 's' : 'S';
  if ((mode & S_ISGID) != 0) text[6] = text[6] == 'x' ? 's' : 'S';
  if ((mode & S_ISVTX) != 0) text[9] = text[9] == 'x' ? 't' : 'T';
  return text;
}

std::string time_text(const Json& row) {
  auto it = row.find("mtime_s");
  if (it == row.end() || !it->is_number()) return "-";
  const auto seconds = static_cast<std::time_t>(it->get<i64>());
  std::tm local{};
  if (::localtime_r(&seconds, &local) == nullptr) return it->dump();
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", local);
}

std::string print_ls(const Json& rows) {
  Table table({{"MODE"}, {"UID", true}, {"GID", true}, {"SIZE", true}, {"MODIFIED"}, {"INODE", true}, {"NAME", false, true}});
  for (const Json& row : rows)
    table.add({mode_text(number_field(row, "mode")), text_field(row, "uid"), text_field(row, "gid"), text_field(row, "size_bytes"),
               time_text(row), text_field(row, "inode"), text_field(row, "name")});
  return table.empty() ? "" : table.text(terminal_width());
}

std::string print_stat(const Json& row) {
  std::string text;
  for (const auto& [key, value] : row.items())
    text += fmt::format("{:>22}  {}\n", key,
                        key == "mode" && value.is_number() ? fmt::format("{:o} {}", value.get<u64>(), mode_text(value.get<u64>()))
                        : value.is_string()                ? escape(value.get<std::string>())
                                                           : value.dump());
  return text;
}

int run(const char* command, const char* op, Options& o, std::string (*print)(const Json&)) {
  std::string inner;
  if (Status s = locate(o.path, o.socket, o.listing, inner); !s.ok()) return fail(command, s);
  if (o.totals) return run_listing(command, o.listing, {{"op", "info"}}, print);
  return run_listing(command, o.listing, {{"op", op}, {"path", inner}}, print);
}

}  // namespace

void add_ls(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("ls", "List a directory, with or without a mount");
  add_options(sub, *o);
  commands.run(sub, [o] { return run("ls", "ls", *o, print_ls); });
}

void add_stat(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("stat", "Show an inode: times with birth, flags, blocks, policy, who maps, pins and waits");
  add_options(sub, *o);
  sub->add_flag("--totals", o->totals, "show the daemon's counters instead: breaks, scans, pins, stuck pins, evictions, …");
  commands.run(sub, [o] { return run("stat", "stat", *o, print_stat); });
}

}  // namespace pindax::tools
