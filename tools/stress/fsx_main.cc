// SPDX-License-Identifier: BSD-3-Clause
//
// pindax-fsx: several processes on one file, every step held against a model. See docs/operations.md.
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cctype>
#include <random>

#include "stress/arena.h"
#include "stress/generate.h"
#include "stress/process.h"
#include "stress/runner.h"
#include "stress/shrink.h"

namespace pindax::stress {
namespace {

struct Options {
  u64 seed = 0;
  bool seed_given = false;
  u64 ops = 0;
  u64 seconds = 0;
  std::string replay, log = "pindax-fsx.log";
  ArenaOptions arena;
  RunnerOptions runner;
  bool no_restarts = false, no_shrink = false;
  u64 shrink_seconds = 180;
};

struct Outcome {
  std::vector<Step> steps;  // done, the failing one last
  std::string failure;
  std::string fsck;
  Tally tally;
  Counters counters;
};

// One run in a fresh arena. `next` gives steps until it gives none.
Outcome run_once(const Options& o, const std::function<std::optional<Step>(const Runner&)>& next) {
  Outcome out;
  auto arena = Arena::create(o.arena);
  if (!arena.ok()) {
    out.failure = std::string(arena.status().message());
    return out;
  }
  {
    Runner runner(*arena, o.runner);
    bool good = runner.start();
    while (good) {
      const auto step = next(runner);
      if (!step) break;
      out.steps.push_back(*step);
      good = runner.run(*step);
    }
    if (good) good = runner.finish();
    out.tally = runner.tally();
    if (!good) out.failure = runner.failure();
  }
  if (out.failure.empty() && arena->owned()) {
    if (const Status s = arena->unmount(); !s.ok()) out.failure = std::string(s.message());
    else if (auto clean = arena->check(); !clean.ok()) out.failure = std::string(clean.status().message());
    else out.fsck = *clean;
  } else {
    arena->count();
  }
  out.counters = arena->counters();
  return out;
}

Outcome run_log(const Options& o, const std::vector<Step>& steps) {
  std::size_t at = 0;
  return run_once(o, [&](const Runner&) { return at < steps.size() ? std::optional(steps[at++]) : std::nullopt; });
}

void print_summary(const Options& o, const Outcome& out) {
  const Tally& t = out.tally;
  fmt::print("seed {}: {} operations ({} skipped), {} layout changes, {} waited for pins, {} refused, {} at the same time, {} kills, {} remounts, "
             "{} crashes of the daemon, {} MiB compared\n",
             o.seed, t.steps, t.skipped, t.changes, t.waited, t.refused, t.pairs, t.kills, t.remounts, t.crashes, t.compared_bytes >> 20);
  fmt::print("daemon: {} breaks, {} waited, {} retries, {} scans, {} recalls\n", out.counters.breaks, out.counters.waited, out.counters.retries,
             out.counters.scans, out.counters.recalls);
  if (out.failure.empty()) fmt::print("lost updates 0; fsck: {}\n", out.fsck.empty() ? "not run (not our pool)" : out.fsck);
}

// What a failure says, without its numbers: shrinking must not wander off to another one.
std::string kind_of(const std::string& failure) {
  std::string kind;
  const std::size_t colon = failure.find("): ");
  for (const char c : failure.substr(colon == std::string::npos ? 0 : colon + 3, failure.find('\n')))
    if (std::isalpha(static_cast<unsigned char>(c)) != 0 && kind.size() < 16) kind += c;
  return kind;
}

int report_failure(const Options& o, Outcome out) {
  fmt::print("FAILED: {}\n", out.failure);
  const std::string head = fmt::format("# pindax-fsx, seed {}, workers {}\n# {}\n", o.seed, o.runner.workers, out.failure.substr(0, out.failure.find('\n')));
  if (out.steps.empty() || !write_log(o.log, head, out.steps)) return 1;
  fmt::print("log of {} steps: {}\nagain: pindax-fsx --replay {} --workers {}\n", out.steps.size(), o.log, o.log, o.runner.workers);
  std::fflush(stdout);
  if (o.no_shrink) return 1;
  Options quick = o;
  quick.runner.trace = false;
  quick.runner.patience_ms = std::min<u64>(o.runner.patience_ms, 5000);
  u64 runs = 0;
  std::string failure = out.failure;
  const auto fails = [&](const std::vector<Step>& steps) {
    ++runs;
    Outcome again = run_log(quick, steps);
    const bool same = !again.failure.empty() && kind_of(again.failure) == kind_of(out.failure);
    if (same) failure = again.failure;
    return same;
  };
  const std::vector<Step> steps = shrink(out.steps, fails, now_ms() + o.shrink_seconds * 1000);
  const std::string path = o.log + ".short";
  write_log(path, head + fmt::format("# shrunk in {} runs: {}\n", runs, failure.substr(0, failure.find('\n'))), steps);
  fmt::print("shrunk to {} steps in {} runs: {}\n", steps.size(), runs, path);
  u64 number = 0;
  for (const Step& s : steps) {
    if (++number > 60) break;
    fmt::print("  {:3} {}\n", number, step_line(s));
  }
  fmt::print("  {}\n", failure);
  return 1;
}

int run(Options o) {
  if (!o.seed_given) o.seed = std::random_device{}() | (u64{std::random_device{}()} << 32);
  fmt::print("seed {}\n", o.seed);
  std::fflush(stdout);
  std::vector<Step> log;
  if (!o.replay.empty()) {
    std::string error;
    log = read_log(o.replay, error);
    if (!error.empty()) {
      fmt::print(stderr, "pindax-fsx: {}\n", error);
      return 2;
    }
    o.log = o.replay + ".again";
  }
  Outcome out;
  if (!log.empty()) {
    out = run_log(o, log);
  } else {
    Generator generator(o.seed, {.restarts = !o.no_restarts && o.arena.folder.empty()});
    const u64 end = o.seconds != 0 ? now_ms() + o.seconds * 1000 : 0;
    const u64 ops = o.ops != 0 ? o.ops : o.seconds != 0 ? ~u64{0} : 10'000;
    u64 done = 0;
    out = run_once(o, [&](const Runner& runner) -> std::optional<Step> {
      if (done == ops || (end != 0 && now_ms() >= end)) return std::nullopt;
      ++done;
      return generator.next(runner);
    });
  }
  print_summary(o, out);
  return out.failure.empty() ? 0 : report_failure(o, out);
}

}  // namespace
}  // namespace pindax::stress

int main(int argc, char** argv) {
  using namespace pindax::stress;
  CLI::App app{"Differential stress of a Pindax mount: processes read, write, map, pin and change one file; a model checks every step", "pindax-fsx"};
  Options o;
  auto* seed = app.add_option("--seed", o.seed, "of the random run; printed");
  app.add_option("--ops", o.ops, "steps (10000)");
  app.add_option("--seconds", o.seconds, "run for so long instead");
  app.add_option("--replay", o.replay, "do the steps of a log");
  app.add_option("--log", o.log, "where a failing run's steps go")->capture_default_str();
  app.add_option("--workers", o.runner.workers, "processes")->capture_default_str()->check(CLI::Range(2, 16));
  app.add_option("--file-size", o.runner.file_size_max, "largest size of a file, bytes")->capture_default_str();
  app.add_option("--dir", o.arena.folder, "a folder of an existing mount (without restarts and fsck)");
  app.add_option("--pool-size", o.arena.pool_size, "of the pool that it makes otherwise")->capture_default_str();
  app.add_option("-o", o.arena.mount_options, "mount options");
  app.add_option("--patience", o.runner.patience_ms, "milliseconds after which silence is a hang")->capture_default_str();
  app.add_flag("--no-restarts", o.no_restarts, "no remounts, no crashes of the daemon");
  app.add_flag("--no-shrink", o.no_shrink, "leave a failing log as long as it is");
  app.add_option("--shrink-seconds", o.shrink_seconds, "time for that")->capture_default_str();
  app.add_flag("--trace", o.runner.trace, "print each step");
  app.footer("Exit codes: 0 good, 1 the system under test failed, 2 usage.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  o.seed_given = seed->count() != 0;
  return run(std::move(o));
}
