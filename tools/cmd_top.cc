// SPDX-License-Identifier: BSD-3-Clause
//
// pindax top MNT: what the protocol does just now, second by second: breaks, pins, faults, recalls, clients, and who waits.
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string where;
  u64 interval_ms = 1000, count = 0;
  bool json = false;
};

struct Sample {
  std::chrono::steady_clock::time_point at;
  Json info, clients, waiters;
};

// Keys without echo and line ends while it lives, if there is a terminal.
class Keys {
 public:
  Keys() {
    if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &old_) != 0) return;
    termios raw = old_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    on_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~Keys() {
    if (on_) ::tcsetattr(STDIN_FILENO, TCSANOW, &old_);
  }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;
  // Sleeps; true: q was typed.
  bool quit_within(u64 ms) const {
    if (!on_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(ms));
      return false;
    }
    pollfd in{STDIN_FILENO, POLLIN, 0};
    if (::poll(&in, 1, static_cast<int>(ms)) <= 0) return false;
    char key = 0;
    return ::read(STDIN_FILENO, &key, 1) == 1 && (key == 'q' || key == 'Q');
  }

 private:
  termios old_{};
  bool on_ = false;
};

Result<Sample> take(Daemon& daemon) {
  Sample s;
  s.at = std::chrono::steady_clock::now();
  PINDAX_ASSIGN(s.info, daemon.control({{"op", "info"}}));
  PINDAX_ASSIGN(s.clients, daemon.control({{"op", "clients"}}));
  PINDAX_ASSIGN(s.waiters, daemon.control({{"op", "waiters"}}));
  return s;
}

struct Rate {
  const char* key;
  const char* title;
};
constexpr std::array kRates{Rate{"breaks", "breaks"},   Rate{"breaks_that_waited", "waited"}, Rate{"scans", "scans"},
                            Rate{"pins_made", "pins"},  Rate{"faults", "faults"},             Rate{"recalls", "recalls"},
                            Rate{"lease_recalls", "leases"}, Rate{"evictions", "evicted"}};

double per_second(const Sample& before, const Sample& now, const char* key) {
  const double seconds = std::chrono::duration<double>(now.at - before.at).count();
  const u64 a = number_field(before.info, key), b = number_field(now.info, key);
  return seconds > 0 && b > a ? static_cast<double>(b - a) / seconds : 0;
}

std::string number_text(double n) {
  if (n < 10) return fmt::format("{:.1f}", n);
  if (n < 100'000) return fmt::format("{:.0f}", n);
  return n < 1e8 ? fmt::format("{:.0f}k", n / 1e3) : fmt::format("{:.0f}M", n / 1e6);
}

Json as_json(const Sample& before, const Sample& now) {
  Json row = {{"free_bytes", number_field(now.info, "free_bytes")},
              {"quarantine_bytes", number_field(now.info, "quarantine_bytes")},
              {"stuck_pins", number_field(now.info, "stuck_pins")},
              {"clients", now.clients.size()},
              {"waiters", now.waiters.size()}};
  for (const Rate& r : kRates) row[fmt::format("{}_per_s", r.key)] = per_second(before, now, r.key);
  return row;
}

std::string screen(const Sample& before, const Sample& now, unsigned width, std::size_t lines) {
  std::string text = wrap(fmt::format("{}: {} free of {}, {} in quarantine, {} stuck pins", text_field(now.info, now.info.value("mount_point", "").empty() ? "socket" : "mount_point"),
                                      size_text(number_field(now.info, "free_bytes")), size_text(number_field(now.info, "size_bytes")),
                                      size_text(number_field(now.info, "quarantine_bytes")), text_field(now.info, "stuck_pins")),
                          width, 2) + '\n';
  std::string titles = "          ", rates = "per second", totals = "total     ";
  for (const Rate& r : kRates) {
    titles += fmt::format("{:>9}", r.title);
    rates += fmt::format("{:>9}", number_text(per_second(before, now, r.key)));
    totals += fmt::format("{:>9}", number_text(static_cast<double>(number_field(now.info, r.key))));
  }
  // The terminal's width cuts whole columns off.
  const auto cut = [&](const std::string& line) { return line.substr(0, 10 + (std::max(width, 28u) - 10) / 9 * 9) + '\n'; };
  text += cut(titles) + cut(rates) + cut(totals) + '\n';
  lines = lines > 6 ? lines - 6 : 0;

  Table waiting({{"WAITING", false, true}, {"RANGE"}, {"PID", true}, {"POLICY", false, false, 1}, {"PHASE", false, false, 2}, {"SINCE", true}, {"FOR"}});
  for (const Json& row : now.waiters) {
    if (row.contains("hidden_rows")) continue;
    std::string target = "-";
    const Json& pins = row["waits_for"];
    const Json& recalls = row["recalls"];
    if (!pins.empty()) target = fmt::format("pid {}", text_field(pins[0], "pid"));
    else if (!recalls.empty()) target = fmt::format("pid {}", text_field(recalls[0], "pid"));
    if (pins.size() > 1) target += fmt::format(" +{}", pins.size() - 1);
    waiting.add({text_field(row, "operation") + " " + text_field(row, "path"),
                 range_text(number_field(row, "offset_bytes"), number_field(row, "length_bytes")), text_field(row, "pid"),
                 text_field(row, "policy"), text_field(row, "phase"), age_text(number_field(row, "waiting_ms")), target});
  }
  Table clients({{"CLIENT", false, true}, {"PID", true}, {"UID", true, false, 1}, {"DATA", false, false, 2}, {"MAPPED", true}, {"PINS", true}, {"STUCK", true}, {"RECALLS", true}});
  for (const Json& row : now.clients)
    if (!row.contains("hidden_rows"))
      clients.add({text_field(row, "command"), text_field(row, "pid"), text_field(row, "uid"), row.value("direct", false) ? "direct" : "mount",
                   size_text(number_field(row, "mapped_bytes")), text_field(row, "pins"), text_field(row, "stuck_pins"), text_field(row, "recalls_pending")});
  std::string tables = (waiting.empty() ? "nobody waits\n" : waiting.text(width)) + "\n" + (clients.empty() ? "no clients\n" : clients.text(width));
  // What does not fit is said, not scrolled away.
  std::size_t shown = 0, at = 0;
  while (at < tables.size() && shown + 1 < lines) {
    at = tables.find('\n', at) + 1;
    ++shown;
  }
  text += tables.substr(0, at);
  if (at < tables.size()) text += fmt::format("… {} more lines\n", std::count(tables.begin() + static_cast<std::ptrdiff_t>(at), tables.end(), '\n'));
  return text;
}

std::size_t terminal_lines() {
  struct winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 8 ? size.ws_row : 100'000;
}

int run(const Options& o) {
  auto daemon = Daemon::connect(o.where);
  if (!daemon.ok()) return fail("top", daemon.status());
  auto before = take(*daemon);
  if (!before.ok()) return fail("top", before.status());
  const Keys keys;
  const bool clear = !o.json && ::isatty(STDOUT_FILENO) != 0;
  for (u64 i = 0; o.count == 0 || i < o.count; ++i) {
    if (keys.quit_within(o.interval_ms)) break;
    auto now = take(*daemon);
    if (!now.ok()) return fail("top", now.status());
    const std::string text = o.json ? as_json(*before, *now).dump() + "\n" : screen(*before, *now, terminal_width(), terminal_lines());
    if (clear) fmt::print("\x1b[H\x1b[2J");
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    before = std::move(now);
  }
  return kDone;
}

}  // namespace

void add_top(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("top", "Watch breaks, pins, faults, clients and who waits; q ends it");
  sub->add_option("MNT", o->where, "mount point, any path on the mount, or a daemon's socket")->required();
  add_duration(sub, "--interval", o->interval_ms, "time between two looks (1s)");
  sub->add_option("--count", o->count, "end after this many looks");
  sub->add_flag("--json", o->json, "print one JSON object a look");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
