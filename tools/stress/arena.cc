// SPDX-License-Identifier: BSD-3-Clause
#include "stress/arena.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "stress/process.h"

namespace pindax::stress {
namespace {

using Json = nlohmann::json;

Status failed(const char* what, const Finished& done) {
  return Status(Errc::kIo, fmt::format("{}: exit {}: {}", what, done.code, done.output));
}

Json info_of(const std::string& folder) {
  const Finished done = run_command({pindax_command(), "info", folder, "--json"}, 20);
  return done.code == 0 ? Json::parse(done.output, nullptr, false) : Json();
}

}  // namespace

std::string pindax_command() { return own_folder() + "/pindax"; }

Result<Arena> Arena::create(const ArenaOptions& options) {
  Arena arena;
  arena.mount_options_ = options.mount_options;
  if (!options.folder.empty()) {
    arena.folder_ = options.folder;
    arena.mounted_ = true;
    return arena;
  }
  const char* chosen = std::getenv("PINDAX_SCRATCH");
  std::string name = fmt::format("{}/pindax-stress-XXXXXX", chosen != nullptr ? chosen : "/dev/shm");
  if (::mkdtemp(name.data()) == nullptr) return Status(from_errno(errno), "no scratch folder " + name);
  arena.scratch_ = name;
  arena.pool_ = name + "/pool";
  arena.folder_ = name + "/mnt";
  ::mkdir(arena.folder_.c_str(), 0755);
  const Finished made = run_command({pindax_command(), "mkfs", arena.pool_, "--size", options.pool_size, "--quiet"});
  if (made.code != 0) return failed("pindax mkfs", made);
  PINDAX_TRY(arena.mount());
  return arena;
}

Arena::Arena(Arena&& o) noexcept
    : folder_(std::move(o.folder_)), scratch_(std::move(o.scratch_)), pool_(std::move(o.pool_)),
      mount_options_(std::move(o.mount_options_)), counters_(o.counters_), seen_(o.seen_), mounted_(o.mounted_) {
  o.scratch_.clear();
  o.mounted_ = false;
}

Arena::~Arena() {
  if (!owned()) return;
  if (mounted_ && !unmount().ok()) {
    abort_connection();
    ::umount2(folder_.c_str(), MNT_DETACH);
  }
  ::unlink(pool_.c_str());
  ::rmdir(folder_.c_str());
  ::rmdir(scratch_.c_str());
}

Status Arena::mount() {
  std::vector<std::string> words{pindax_command(), "mount", pool_, folder_};
  if (!mount_options_.empty()) words.insert(words.end(), {"-o", mount_options_});
  if (const Finished done = run_command(words); done.code != 0) return failed("pindax mount", done);
  mounted_ = true;
  seen_ = {};
  return {};
}

Status Arena::unmount() {
  count();
  const Finished done = run_command({pindax_command(), "umount", folder_}, 90);
  if (done.code != 0) return failed("pindax umount", done);
  mounted_ = false;
  return {};
}

Status Arena::kill_daemon() {
  count();
  const Json info = info_of(folder_);
  if (!info.is_object() || !info.contains("daemon_pid")) return Status(Errc::kNotConnected, "the daemon does not tell its process");
  const pid_t pid = info["daemon_pid"].get<pid_t>();
  ::kill(pid, SIGKILL);
  for (int i = 0; i < 20'000 && ::kill(pid, 0) == 0; ++i) sleep_ms(1);
  if (::umount2(folder_.c_str(), MNT_DETACH) != 0) return Status(from_errno(errno), "the dead mount stays");
  mounted_ = false;
  return {};
}

Result<std::string> Arena::check() {
  const Finished done = run_command({pindax_command(), "fsck", pool_}, 300);
  std::string text = done.output;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (done.code != 0) return Status(Errc::kCorrupt, fmt::format("pindax fsck: exit {}\n{}", done.code, text));
  return text.substr(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);
}

void Arena::abort_connection() const {
  // Not by stat(), which would ask the daemon.
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    unsigned id = 0, parent = 0, major = 0, minor = 0;
    char root[4096], point[4096];
    if (std::sscanf(line.c_str(), "%u %u %u:%u %4095s %4095s", &id, &parent, &major, &minor, root, point) != 6) continue;
    if (folder_ == point) std::ofstream(fmt::format("/sys/fs/fuse/connections/{}/abort", minor)) << "1";
  }
}

void Arena::count() {
  if (!mounted_) return;
  const Json info = info_of(folder_);
  if (!info.is_object()) return;
  const auto add = [&](const char* key, u64 Counters::*field) {
    const u64 value = info.value(key, u64{0});
    counters_.*field += value - seen_.*field;
    seen_.*field = value;
  };
  add("breaks", &Counters::breaks);
  add("breaks_that_waited", &Counters::waited);
  add("break_retries", &Counters::retries);
  add("scans", &Counters::scans);
  add("recalls", &Counters::recalls);
}

std::string Arena::waiters() const {
  return run_command({pindax_command(), "waiters", folder_}, 10).output + run_command({pindax_command(), "pins", folder_}, 10).output;
}

}  // namespace pindax::stress
