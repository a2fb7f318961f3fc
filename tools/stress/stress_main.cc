// SPDX-License-Identifier: BSD-3-Clause
//
// pindax-stress: many processes on one tree, some of which map, pin and die. See docs/operations.md.
#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <random>

#include "stress/arena.h"
#include "stress/process.h"
#include "stress/random.h"
#include "stress/tree.h"

namespace pindax::stress {

void Shared::fail(const std::string& text) {
  if (failures.fetch_add(1) == 0) std::strncpy(failure.data(), text.c_str(), failure.size() - 1);
}

namespace {

struct Options {
  u64 seed = 0;
  bool seed_given = false;
  u64 seconds = 60;
  u32 gardeners = 4, clients = 3;
  u64 crash_every_seconds = 0;  // 0: the daemon is left alone
  u64 patience_seconds = 60;
  ArenaOptions arena;
};

class Stress {
 public:
  Stress(const Options& options, Arena& arena, Shared& shared) : o_(options), arena_(arena), shared_(shared), random_(options.seed) {}
  ~Stress() {
    for (std::vector<pid_t>* group : {&gardeners_, &breakers_, &clients_})
      for (pid_t& pid : *group) end(pid);
  }

  bool run();
  u64 kills() const { return kills_; }
  u64 crashes() const { return crashes_; }

 private:
  Place place(u32 number) { return {&shared_, arena_.path(), number, random_.next()}; }
  template <class Body>
  pid_t spawn(Body body) {
    const Place p = place(0);
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    install_fault_handlers();
    body(p);
    ::_exit(0);
  }
  void spawn_client(u32 i) {
    clients_[i] = spawn([i](Place p) { p.number = i; run_client(p); });
  }
  // SIGKILL and its end; the longest wait is the kernel's, behind a change that waits for somebody else.
  bool end(pid_t& pid) {
    if (pid <= 0) return true;
    ::kill(pid, SIGKILL);
    const u64 limit = now_ms() + o_.patience_seconds * 1000;
    while (::waitpid(pid, nullptr, WNOHANG) == 0) {
      if (now_ms() > limit) {
        shared_.fail("a killed process does not end\n" + arena_.waiters());
        arena_.abort_connection();
        return false;
      }
      sleep_ms(1);
    }
    pid = 0;
    return true;
  }
  bool alive(std::vector<pid_t>& group, const char* what);
  bool make_tree();
  void crash();
  bool finish();
  bool good() const { return shared_.failures.load() == 0; }

  const Options& o_;
  Arena& arena_;
  Shared& shared_;
  Random random_;
  std::vector<pid_t> gardeners_, breakers_, clients_;
  u64 kills_ = 0, crashes_ = 0;
};

bool Stress::make_tree() {
  for (const char* name : {"/shared", "/shared/0", "/shared/1", "/shared/2"})
    if (::mkdir((arena_.path() + name).c_str(), 0755) != 0) return shared_.fail("mkdir of the shared folders"), false;
  const Place p = place(0);
  for (u32 i = 0; i < o_.clients; ++i)
    for (const bool broken : {false, true})
      if (const std::string path = client_file(p, i, broken); run_command({"truncate", "-s", std::to_string(kClientFileBytes), path}).code != 0)
        return shared_.fail("truncate " + path), false;
  return true;
}

bool Stress::alive(std::vector<pid_t>& group, const char* what) {
  for (pid_t& pid : group) {
    int status = 0;
    if (pid <= 0 || ::waitpid(pid, &status, WNOHANG) != pid) continue;
    pid = 0;
    if (good()) shared_.fail(fmt::format("a {} ended by itself: status {:#x}", what, status));
  }
  return good();
}

// kill -9 of the daemon. Clients go on storing meanwhile; they end before the next daemon comes, or after it (R43).
void Stress::crash() {
  shared_.phase.store(Phase::kCrashing);
  ++crashes_;
  Status s = arena_.kill_daemon();
  const bool outlive = random_.chance(50);
  if (!outlive)
    for (pid_t& pid : clients_) end(pid);
  if (s.ok()) s = arena_.mount();
  if (outlive)
    for (pid_t& pid : clients_) end(pid);
  if (!s.ok()) shared_.fail(std::string(s.message()));
  shared_.life.fetch_add(1);
  shared_.phase.store(Phase::kRun);
  for (u32 i = 0; i < o_.clients; ++i) spawn_client(i);
}

bool Stress::finish() {
  shared_.phase.store(Phase::kVerify);
  for (pid_t& pid : clients_)
    if (!end(pid)) return false;
  const u64 limit = now_ms() + o_.patience_seconds * 1000;
  const auto ended = [&] {
    bool all = shared_.verified.load() == o_.gardeners;
    for (const pid_t pid : breakers_)
      if (pid > 0 && ::waitid(P_PID, static_cast<id_t>(pid), nullptr, WEXITED | WNOHANG | WNOWAIT) == 0) {
        siginfo_t info{};
        ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT);
        all = all && info.si_pid == pid;
      }
    return all;
  };
  while (good() && !ended()) {
    if (now_ms() > limit) shared_.fail("the processes do not finish\n" + arena_.waiters());
    sleep_ms(5);
  }
  for (pid_t& pid : breakers_)
    if (!end(pid)) return false;
  for (u32 i = 0; i < o_.clients && good(); ++i) verify_client(place(i), i);
  if (!good()) return false;
  if (arena_.owned()) {
    Status s = arena_.unmount();
    if (s.ok()) {
      auto clean = arena_.check();
      s = clean.status();
      if (clean.ok()) fmt::print("fsck: {}\n", *clean);
    }
    if (s.ok()) s = arena_.mount();
    if (!s.ok()) return shared_.fail(std::string(s.message())), false;
  }
  shared_.phase.store(Phase::kEnd);
  for (u32 i = 0; i < o_.clients && good(); ++i) verify_client(place(i), i);
  for (pid_t& pid : gardeners_) {
    const u64 end_ms = now_ms() + o_.patience_seconds * 1000;
    while (pid > 0 && ::waitpid(pid, nullptr, WNOHANG) == 0 && now_ms() < end_ms) sleep_ms(2);
    if (now_ms() >= end_ms) return shared_.fail("a gardener does not end"), false;
    pid = 0;
  }
  return good();
}

bool Stress::run() {
  if (!make_tree()) return false;
  clients_.resize(o_.clients);
  for (u32 i = 0; i < o_.gardeners; ++i) gardeners_.push_back(spawn([i](Place p) { p.number = i; run_gardener(p); }));
  for (u32 i = 0; i < o_.clients; ++i) spawn_client(i);
  if (o_.clients != 0) breakers_.push_back(spawn([n = o_.clients](const Place& p) { run_breaker(p, n); }));
  const u64 finish_ms = now_ms() + o_.seconds * 1000;
  u64 next_kill = now_ms() + 300, next_crash = o_.crash_every_seconds != 0 ? now_ms() + o_.crash_every_seconds * 1000 : ~u64{0};
  while (now_ms() < finish_ms && alive(gardeners_, "gardener") && alive(breakers_, "breaker") && alive(clients_, "client")) {
    sleep_ms(10);
    if (now_ms() >= next_kill && o_.clients != 0) {
      const u32 i = static_cast<u32>(random_.below(o_.clients));
      ++kills_;
      if (!end(clients_[i])) return false;
      spawn_client(i);
      next_kill = now_ms() + random_.between(50, 600);
    }
    if (now_ms() >= next_crash) {
      crash();
      next_crash = now_ms() + o_.crash_every_seconds * (500 + random_.below(1000));
    }
  }
  return good() && finish();
}

int run(Options o) {
  if (!o.seed_given) o.seed = std::random_device{}() | (u64{std::random_device{}()} << 32);
  fmt::print("seed {}\n", o.seed);
  std::fflush(stdout);
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  Shared& shared = *new (memory) Shared;
  auto arena = Arena::create(o.arena);
  if (!arena.ok()) {
    fmt::print("FAILED: {}\n", arena.status().message());
    return 1;
  }
  bool good = false;
  u64 kills = 0, crashes = 0;
  {
    Stress stress(o, *arena, shared);
    good = stress.run();
    kills = stress.kills();
    crashes = stress.crashes();
  }
  if (good && arena->owned())
    if (const Status s = arena->unmount(); !s.ok()) {
      shared.fail(std::string(s.message()));
      good = false;
    }
  const Counters& c = arena->counters();
  fmt::print("seed {}: {} operations, {} pins, {} layout changes of pinned files, {} clients lived, {} killed, {} crashes of the daemon, {} MiB verified\n",
             o.seed, shared.operations.load(), shared.pins.load(), shared.changes.load(), shared.client_lives.load(), kills, crashes,
             shared.verified_bytes.load() >> 20);
  fmt::print("daemon: {} breaks, {} waited, {} retries, {} scans, {} recalls\nlost updates {}\n", c.breaks, c.waited, c.retries, c.scans, c.recalls,
             shared.lost_updates.load());
  if (!good) fmt::print("FAILED: {}\n", shared.failure.data());
  return good ? 0 : 1;
}

}  // namespace
}  // namespace pindax::stress

int main(int argc, char** argv) {
  using namespace pindax::stress;
  CLI::App app{"Stress of a Pindax mount: processes change a tree whose contents they know; clients map, pin, store and are killed", "pindax-stress"};
  Options o;
  auto* seed = app.add_option("--seed", o.seed, "of the random choices; printed. The timing is not repeated");
  app.add_option("--seconds", o.seconds, "how long")->capture_default_str();
  app.add_option("--gardeners", o.gardeners, "processes that own a folder")->capture_default_str()->check(CLI::Range(1, 32));
  app.add_option("--clients", o.clients, "processes that map, pin and die")->capture_default_str()->check(CLI::Range(0, 32));
  app.add_option("--crash-every", o.crash_every_seconds, "kill -9 of the daemon about every so many seconds (0: never)")->capture_default_str();
  app.add_option("--dir", o.arena.folder, "a folder of an existing mount (without crashes and fsck)");
  app.add_option("--pool-size", o.arena.pool_size, "of the pool that it makes otherwise")->capture_default_str();
  app.add_option("-o", o.arena.mount_options, "mount options");
  app.add_option("--patience", o.patience_seconds, "seconds after which silence is a hang")->capture_default_str();
  app.footer("Exit codes: 0 good, 1 the system under test failed, 2 usage.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  o.seed_given = seed->count() != 0;
  if (!o.arena.folder.empty()) o.crash_every_seconds = 0;
  return run(std::move(o));
}
