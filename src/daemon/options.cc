// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "fs/policy.h"

namespace pindax {
namespace {

Status invalid(std::string text) { return Status(Errc::kInvalid, std::move(text)); }

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> words(1);
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] == '\\' && i + 1 < list.size() && (list[i + 1] == ',' || list[i + 1] == '\\'))
      words.back().push_back(list[++i]);
    else if (list[i] == ',')
      words.emplace_back();
    else
      words.back().push_back(list[i]);
  }
  std::erase(words, std::string());
  return words;
}

// "2", "0.5", "30s", "200ms", "2m"; seconds if there is no unit.
std::optional<std::chrono::milliseconds> parse_time(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string_view unit(end);
  const double factor = unit.empty() || unit == "s" ? 1e3 : unit == "ms" ? 1 : unit == "m" ? 60e3 : 0;
  if (end == text.c_str() || factor == 0 || !(value >= 0) || value * factor > 1e12) return std::nullopt;
  return std::chrono::milliseconds(static_cast<i64>(value * factor));
}

constexpr std::array kKernelOptions = {"suid",   "nosuid", "dev",   "nodev",  "exec",
                                       "noexec", "sync",   "async", "dirsync"};
// Words of mount(8) and fstab that mean nothing to us, or what we do anyway.
constexpr std::array kIgnored = {
    "defaults",      "rw",    "auto",        "noauto",     "user",     "nouser",     "users",
    "owner",         "group", "nofail",      "_netdev",    "silent",   "loud",       "norelatime",
    "lazytime",      "nolazytime", "default_permissions"};

template <class Array>
bool contains(const Array& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

Status time_option(const std::string& name, const std::string& value, std::chrono::milliseconds* out) {
  const auto time = parse_time(value);
  if (!time) return invalid(fmt::format("option {}={}: a time like 5, 0.5 or 200ms is needed", name, value));
  *out = *time;
  return {};
}

Status busy_policy(DaemonOptions& o, const std::string& value) {
  auto words = parse_policy_words(value);
  if (!words.ok()) return invalid(fmt::format("option on_busy={}: {}", value, words.status().message()));
  o.fs.layout.policy = words->policy;
  if (words->deadline) o.fs.layout.deadline = words->deadline;
  return {};
}

// "16M": powers of 1024.
Status size_option(const std::string& name, const std::string& value, u64* out) {
  constexpr std::string_view kUnits = "KMGT";
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  double factor = 1;
  if (*end != '\0') {
    const auto unit = kUnits.find(*end);
    factor = unit == kUnits.npos || end[1] != '\0' ? 0 : static_cast<double>(u64{1} << (10 * (unit + 1)));
  }
  if (end == value.c_str() || factor == 0 || !(number >= 0) || number * factor > 1e18)
    return invalid(fmt::format("option {}={}: a size like 65536, 64K or 1.5G is needed", name, value));
  *out = static_cast<u64>(number * factor);
  return {};
}

Status valued_option(DaemonOptions& o, const std::string& name, const std::string& value) {
  std::chrono::milliseconds time{};
  if (name == "on_busy") return busy_policy(o, value);
  if (name == "busy_deadline") {
    PINDAX_TRY(time_option(name, value, &time));
    o.fs.layout.deadline = time;
  } else if (name == "recall_deadline") {
    PINDAX_TRY(time_option(name, value, &o.fs.layout.recall_deadline));
  } else if (name == "lease_deadline") {
    PINDAX_TRY(time_option(name, value, &o.fs.layout.lease_deadline));
  } else if (name == "stuck_after") {
    PINDAX_TRY(time_option(name, value, &o.fs.layout.stuck_after));
  } else if (name == "long_term_pins") {
    PINDAX_TRY(size_option(name, value, &o.fs.layout.longterm_quota_bytes));
    o.fs.layout.allow_longterm = true;
  } else if (name == "commit_interval" || name == "commit") {
    PINDAX_TRY(time_option(name, value, &o.fs.commit_interval));
    if (o.fs.commit_interval < std::chrono::milliseconds(1))
      return invalid("option commit_interval: more than 0 is needed");
  } else if (name == "attr_timeout") {
    PINDAX_TRY(time_option(name, value, &time));
    o.attr_timeout_s = static_cast<double>(time.count()) / 1e3;
  } else if (name == "fsname") {
    o.source = value;
  } else if (name == "subtype") {
    if (value != "pindax") return invalid("option subtype=" + value + ": it is always pindax");
  } else if (name == "logfile") {
    o.log_file = absolute_path(value);
  } else if (name == "loglevel") {
    if (!contains(std::array{"trace", "debug", "info", "warn", "err", "off"}, value))
      return invalid("option loglevel=" + value + ": trace, debug, info, warn, err or off is needed");
    o.log_level = value;
  } else if (name == "socket") {
    o.socket_path = absolute_path(value);
  } else if (name == "threads") {
    const long n = std::strtol(value.c_str(), nullptr, 10);
    if (n < 2 || n > 256) return invalid("option threads=" + value + ": 2 to 256 is needed");
    o.threads = static_cast<unsigned>(n);
  } else if (name != "comment") {
    return invalid(fmt::format("unknown mount option {}=", name));
  }
  return {};
}

Status plain_option(DaemonOptions& o, const std::string& name) {
  using AccessTimes = MountOptions::AccessTimes;
  if (name == "strict")
    o.sync = SyncMode::kStrict;
  else if (name == "posix")
    o.sync = SyncMode::kPosix;
  else if (name == "ro")
    o.fs.read_only = true;
  else if (name == "norecovery")
    o.no_recovery = true;
  else if (name == "noatime")
    o.fs.access_times = AccessTimes::kNever;
  else if (name == "strictatime")
    o.fs.access_times = AccessTimes::kAlways;
  else if (name == "relatime" || name == "atime" || name == "nostrictatime")
    o.fs.access_times = AccessTimes::kRelative;
  else if (name == "nodiratime" || name == "diratime")
    o.fs.nodiratime = name == "nodiratime";
  else if (name == "allow_other")
    o.allow_other = true;
  else if (name == "share_userfaultfd")
    o.share_userfaultfd = true;
  else if (name == "long_term_pins")
    o.fs.layout.allow_longterm = true;
  else if (name == "debug")
    o.log_level = "debug";
  else if (contains(kKernelOptions, name))
    o.kernel_options.push_back(name);
  else if (!contains(kIgnored, name))
    return invalid(fmt::format("unknown mount option {}; see pindaxd --help", name));
  return {};
}

}  // namespace

std::string absolute_path(const std::string& path) {
  std::error_code error;
  auto absolute = std::filesystem::absolute(path, error).lexically_normal().string();
  if (error) return path;
  if (absolute.size() > 1 && absolute.back() == '/') absolute.pop_back();
  return absolute;
}

Status add_mount_options(DaemonOptions& options, std::string_view list) {
  for (const std::string& word : split(list)) {
    if (word.starts_with("x-") || word.starts_with("X-")) continue;  // comments of mount(8)
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos)
      PINDAX_TRY(plain_option(options, word));
    else
      PINDAX_TRY(valued_option(options, word.substr(0, equals), word.substr(equals + 1)));
  }
  return {};
}

Result<DaemonOptions> parse_arguments(std::span<const std::string> arguments) {
  DaemonOptions options;
  bool no_mount = false;
  std::vector<std::string> operands;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& a = arguments[i];
    const auto value = [&]() -> const std::string* {
      return i + 1 < arguments.size() ? &arguments[++i] : nullptr;
    };
    if (a == "--help" || a == "-h")
      options.help = true;
    else if (a == "--version" || a == "-V")
      options.version = true;
    else if (a == "--foreground" || a == "-f")
      options.foreground = true;
    else if (a == "--no-mount")
      no_mount = true;
    else if (a == "-o" || a == "--socket") {
      const std::string* v = value();
      if (v == nullptr) return invalid(a + " needs a value");
      if (a == "-o")
        PINDAX_TRY(add_mount_options(options, *v));
      else
        options.socket_path = absolute_path(*v);
    } else if (a.starts_with("--socket="))
      options.socket_path = absolute_path(a.substr(9));
    else if (a.starts_with("-o") && a.size() > 2)
      PINDAX_TRY(add_mount_options(options, std::string_view(a).substr(2)));
    else if (a.starts_with("-"))
      return invalid("unknown option " + a + "; see pindaxd --help");
    else
      operands.push_back(a);
  }
  if (options.help || options.version) return options;
  if (operands.empty()) return invalid("which pool? " + usage_text().substr(0, usage_text().find('\n')));
  if (no_mount && operands.size() > 1) return invalid("--no-mount takes no mount point");
  if (no_mount && options.socket_path.empty()) return invalid("--no-mount needs --socket SOCKET");
  if (!no_mount && operands.size() != 2)
    return invalid(operands.size() < 2 ? "where to? a mount point (or --no-mount --socket SOCKET) is missing"
                                       : "too many arguments: " + operands[2]);
  if (options.no_recovery && !options.fs.read_only)
    return invalid("norecovery goes with ro: a pool that is written to must be recovered first");
  for (const std::string& path : operands) {
    if (path.empty()) return invalid("an empty path");
  }
  options.pool = absolute_path(operands[0]);
  if (!no_mount) options.mount_point = absolute_path(operands[1]);
  return options;
}

std::string usage_text() {
  return R"(usage: pindaxd POOL MOUNTPOINT [-o OPTIONS] [--foreground]
       pindaxd --no-mount --socket SOCKET POOL [-o OPTIONS] [--foreground]

Serves a Pindax pool: to ordinary programs through a mount, to the client library directly.

  --foreground      stay in the foreground, log to standard error
  --no-mount        serve the client library and the pindax command only
  --socket SOCKET   where clients connect; with a mount, one is chosen
  -o OPTIONS        comma list:
    strict | posix        durable when a call returns | after fsync (default: by the pool)
    ro                    read-only: nothing is written to the pool, recovery happens in memory
    norecovery            the same, said as xfs says it; only with ro
    on_busy=POLICY[=TIME] what truncate and punch do about pinned pages (after that time): wait,
                          refuse (ETXTBSY), quarantine, evict; wait=TIME refuses then
    busy_deadline=TIME    the same time, as an option of its own
    recall_deadline=TIME  how long a client may take to drop a mapping (default 5)
    lease_deadline=TIME   how long a lease may go on once its holder was asked (default 5)
    stuck_after=TIME      when a transient pin is called stuck (default 10)
    long_term_pins[=SIZE] allow long-term pins, up to SIZE bytes of each client
    noatime, strictatime  update access times never, always (default: relatime)
    nodiratime            do not update those of directories
    commit_interval=TIME  posix mode and lazy times (default 5)
    allow_other           let other users in (always, for root's mounts)
    attr_timeout=TIME     how long the kernel may keep attributes (default 1)
    fsname=NAME           what mount(8) shows (default: the pool)
    share_userfaultfd     hand /dev/userfaultfd to clients
    logfile=FILE, loglevel=LEVEL, socket=SOCKET, threads=N
    suid, dev, noexec, sync, dirsync and their opposites: as for mount(8)

Exit codes: 0 the pool is served, 2 usage, 4 failed.
)";
}

}  // namespace pindax
