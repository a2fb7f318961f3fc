// SPDX-License-Identifier: BSD-3-Clause
//
// The crash explorer. Its last line reads "N states explored, N violations"; exit code 1 if there are any.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "explorer.h"
#include "fmt/format.h"
#include "plants.h"

namespace pindax::crash {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::vector<unsigned> lengths;  // operations in a workload
  std::vector<std::string> settings;
  u64 seed = 0;
  unsigned jobs = 0;
  unsigned seconds = 0;  // 0: until all is done
  Limits limits;
  std::string replay;
  std::string plant;
  std::vector<OpKind> first, last;  // kinds that workloads begin and end with; empty: any
  bool all_plants = false;
  bool list = false;
};

struct Shared {
  std::atomic<u64> next, states, violations, workloads;
  std::atomic<bool> stop;
};

u64 environment_seed() {
  const char* text = std::getenv("PINDAX_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : 1;
}

std::vector<u32> enabled_settings(const Options& options) {
  std::vector<u32> out;
  for (u32 i = 0; i < std::size(kSettings); ++i) {
    bool wanted = options.settings.empty();
    for (const std::string& name : options.settings) wanted |= name == kSettings[i].name;
    if (wanted) out.push_back(i);
  }
  return out;
}

bool is_one_of(const std::vector<OpKind>& kinds, OpKind kind) {
  return kinds.empty() || std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

// Workloads of one operation take every one; longer ones the core. In an order that the seed shuffles, so that a run that
// ends early has seen a sample.
std::vector<Workload> generate_workloads(const Options& options) {
  const std::vector<Operation> all = generate_operations();
  std::vector<u32> every, core;
  for (u32 i = 0; i < all.size(); ++i) {
    every.push_back(i);
    if (all[i].core) core.push_back(i);
  }
  std::vector<Workload> out;
  for (unsigned length : options.lengths) {
    const std::size_t begin = out.size();
    for (u32 setting : enabled_settings(options)) {
      std::vector<std::vector<u32>> lists{{}};
      for (unsigned i = 0; i < length; ++i) {
        std::vector<std::vector<u32>> longer;
        for (const auto& list : lists)
          for (u32 op : length == 1 ? every : core) {
            longer.push_back(list);
            longer.back().push_back(op);
          }
        lists.swap(longer);
      }
      for (auto& list : lists)
        if (is_one_of(options.first, all[list.front()].kind) && is_one_of(options.last, all[list.back()].kind))
          out.push_back({setting, std::move(list)});
    }
    Random random(mix(options.seed, length));
    for (std::size_t i = out.size(); i > begin + 1; --i) std::swap(out[i - 1], out[begin + random.below(i - begin)]);
  }
  return out;
}

void print_violation(u64 seed, const Limits& limits, const Violation& v) {
  static const std::vector<Operation> all = generate_operations();
  std::string text = fmt::format("violation in {}:", kSettings[v.workload.setting].name);
  for (u32 op : v.workload.operations) text += " " + all[op].text();
  text += fmt::format("\n  {}\n  --replay {}\n", v.what, replay_text(seed, limits, v));
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

void work(const Options& options, const std::vector<BaseImage>& images, const std::vector<Workload>& workloads, Shared& shared) {
  Executor executor(1);
  Explorer explorer(images, options.seed, options.limits, executor);
  if (!options.plant.empty()) explorer.set_plant(find_plant(options.plant)->plant);
  wake_planted(options.plant);
  explorer.set_found([&](const Violation& v) {
    if (options.all_plants && shared.stop) return;
    print_violation(options.seed, options.limits, v);
    if (!options.plant.empty()) shared.stop = true;
  });
  u64 states = 0, violations = 0;
  for (;;) {
    const u64 i = shared.next.fetch_add(1);
    if (i >= workloads.size() || shared.stop) break;
    explorer.explore(workloads[i]);
    shared.states += explorer.states() - states;
    shared.violations += explorer.violations() - violations;
    states = explorer.states();
    violations = explorer.violations();
    ++shared.workloads;
  }
}

void show_progress(const Shared& shared, u64 total, bool last) {
  if (::isatty(STDERR_FILENO) == 0) return;
  constexpr unsigned kWidth = 40;
  const u64 done = std::min<u64>(shared.workloads, total);
  const unsigned filled = static_cast<unsigned>(total == 0 ? kWidth : done * kWidth / total);
  std::fprintf(stderr, "\r[%s%s] %llu of %llu workloads, %llu states, %llu violations%s", std::string(filled, '#').c_str(),
               std::string(kWidth - filled, ' ').c_str(), static_cast<unsigned long long>(done),
               static_cast<unsigned long long>(total), static_cast<unsigned long long>(shared.states.load()),
               static_cast<unsigned long long>(shared.violations.load()), last ? "\n" : "");
}

// True if every process ended well.
bool run_jobs(const Options& options, const std::vector<BaseImage>& images, const std::vector<Workload>& workloads, Shared& shared) {
  const auto end = Clock::now() + std::chrono::seconds(options.seconds);
  std::fflush(stdout);
  std::vector<pid_t> children;
  for (unsigned i = 0; i < options.jobs; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      work(options, images, workloads, shared);
      std::fflush(stdout);
      ::_exit(0);
    }
    if (child > 0) children.push_back(child);
  }
  bool good = children.size() == options.jobs;
  while (!children.empty()) {
    ::usleep(100'000);
    show_progress(shared, workloads.size(), false);
    if (options.seconds != 0 && Clock::now() > end) shared.stop = true;
    for (std::size_t i = 0; i < children.size();) {
      int status = 0;
      if (::waitpid(children[i], &status, WNOHANG) == 0) {
        ++i;
        continue;
      }
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::printf("a process of the explorer died with status %d\n", status);
        good = false;
      }
      children.erase(children.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  show_progress(shared, workloads.size(), true);
  return good;
}

// Every planted bug must be found, each by workloads that the same limits bound.
int run_plants(const Options& options, const std::vector<BaseImage>& images, Shared& shared) {
  unsigned found = 0, missed = 0;
#if defined(PINDAX_PLANTED_CODE)
  const auto& all = code_plants();
#else
  const auto& all = plants();
#endif
  for (const NamedPlant& plant : all) {
    Options one = options;
    one.plant = plant.name;
    one.settings.assign(plant.settings.begin(), plant.settings.end());
    one.lengths = plant.lengths;
    one.first = plant.first;
    one.last = plant.last;
    one.limits.recovery_every = plant.recovery_every;
    new (&shared) Shared();
    const bool good = run_jobs(one, images, generate_workloads(one), shared);
    const bool seen = good && shared.violations != 0;
    ++(seen ? found : missed);
    std::printf("%s %s (%s), %llu states\n", seen ? "found" : "MISSED", plant.name, plant.what,
                static_cast<unsigned long long>(shared.states.load()));
  }
  std::printf("%u passed, %u failed\n", found, missed);
  return missed != 0 ? 1 : 0;
}

// seed:limits:setting:operations:event:choice[:event:choice]
int replay(Options& options, const std::vector<BaseImage>& images) {
  std::vector<std::string> parts;
  std::stringstream stream(options.replay);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  if (parts.size() != 6 && parts.size() != 8) {
    std::fputs("crash-explore: a replay line has six or eight parts\n", stderr);
    return 2;
  }
  options.seed = std::strtoull(parts[0].c_str(), nullptr, 0);
  unsigned long long at_fence = 0, between = 0, in_recovery = 0;
  std::sscanf(parts[1].c_str(), "%llu.%llu.%llu", &at_fence, &between, &in_recovery);
  options.limits.at_fence = at_fence;
  options.limits.between = between;
  options.limits.in_recovery = in_recovery;
  Violation v;
  for (u32 i = 0; i < std::size(kSettings); ++i)
    if (parts[2] == kSettings[i].name) v.workload.setting = i;
  std::stringstream ops(parts[3]);
  for (std::string op; std::getline(ops, op, ',');)
    v.workload.operations.push_back(static_cast<u32>(std::strtoul(op.c_str(), nullptr, 10)));
  v.point.event = std::strtoull(parts[4].c_str(), nullptr, 10);
  v.point.memory = parts[5] == "kill";
  if (!v.point.memory) v.point.choice = std::strtoull(parts[5].c_str(), nullptr, 10);
  v.point.again = parts.size() == 8;
  if (v.point.again) {
    v.point.event2 = std::strtoull(parts[6].c_str(), nullptr, 10);
    v.point.choice2 = std::strtoull(parts[7].c_str(), nullptr, 10);
  }
  Executor executor(1);
  Explorer explorer(images, options.seed, options.limits, executor);
  if (!options.plant.empty()) explorer.set_plant(find_plant(options.plant)->plant);
  wake_planted(options.plant);
  v.what = explorer.replay(v.workload, v.point);
  if (explorer.violations() != 0) print_violation(options.seed, options.limits, v);
  else std::printf("%s\n", v.what.c_str());
  std::printf("%llu states explored, %llu violations\n", static_cast<unsigned long long>(explorer.states()),
              static_cast<unsigned long long>(explorer.violations()));
  return explorer.violations() != 0 ? 1 : 0;
}

int run(Options& options) {
  if (options.list) {
    const auto all = generate_operations();
    for (std::size_t i = 0; i < all.size(); ++i)
      std::printf("%4zu %s%s\n", i, all[i].text().c_str(), all[i].core ? "  (core)" : "");
    for (const auto* list : {&plants(), &code_plants()})
      for (const NamedPlant& p : *list) std::printf("plant %s: %s\n", p.name, p.what);
    return 0;
  }
  if (!options.plant.empty() && find_plant(options.plant) == nullptr) {
    std::fputs("crash-explore: no such plant; see --list\n", stderr);
    return 2;
  }
  std::vector<BaseImage> images;
  for (const Setting& setting : kSettings) {
    auto image = make_base_image(setting);
    if (!image.ok()) {
      std::fprintf(stderr, "crash-explore: %s: %s\n", setting.name, std::string(image.status().message()).c_str());
      return 2;
    }
    images.push_back(std::move(*image));
  }
  if (!options.replay.empty()) return replay(options, images);

  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  auto* shared = new (memory) Shared();
  if (options.all_plants) return run_plants(options, images, *shared);

  const std::vector<Workload> workloads = generate_workloads(options);
  std::printf("seed %llu, %zu workloads\n", static_cast<unsigned long long>(options.seed), workloads.size());
  const bool good = run_jobs(options, images, workloads, *shared);
  if (shared->workloads < workloads.size() && options.plant.empty())
    std::printf("the time was up after %llu workloads\n", static_cast<unsigned long long>(shared->workloads.load()));
  std::printf("%llu states explored, %llu violations\n", static_cast<unsigned long long>(shared->states.load()),
              static_cast<unsigned long long>(shared->violations.load()));
  if (!good) return 2;
  return shared->violations != 0 ? 1 : 0;
}

}  // namespace
}  // namespace pindax::crash

int main(int argc, char** argv) {
  using namespace pindax::crash;
  Options options;
  options.seed = environment_seed();
  options.jobs = static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_ONLN));
  CLI::App app("Explores what crashes may leave of a pool");
  app.add_option("--length", options.lengths, "operations in a workload: 1, 2, 3; may be repeated (default: 1)");
  app.add_option("--setting", options.settings, "line-strict, page-posix, page-strict, line-posix; may be repeated (default: all)");
  app.add_option("--seed", options.seed, "of samples and orders (default: PINDAX_SEED, else 1)");
  app.add_option("--jobs", options.jobs, "processes (default: one a processor)");
  app.add_option("--seconds", options.seconds, "stop after so long (default: when all is done)");
  app.add_option("--images", options.limits.at_fence, "images at a fence; more are sampled");
  app.add_option("--recovery-every", options.limits.recovery_every, "one state of so many crashes again in its recovery; 0: none");
  app.add_option("--replay", options.replay, "do one state again: what a violation printed");
  app.add_option("--plant", options.plant, "plant a bug, and stop when it is found");
  app.add_flag("--plants", options.all_plants, "plant every bug, one after the other: each must be found");
  app.add_flag("--list", options.list, "show the operations and plants");
  CLI11_PARSE(app, argc, argv);
  if (options.lengths.empty()) options.lengths = {1};
  return run(options);
}
