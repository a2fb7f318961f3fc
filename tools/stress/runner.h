// SPDX-License-Identifier: BSD-3-Clause
//
// Carries out the steps of pindax-fsx and holds each result against the model.
//
// A change that meets a pin is *pending*: its worker is busy, and the model changes when its answer comes, which must not be before the
// pins over blocks that it frees are gone, and must be soon after nobody is in its way. Meanwhile other workers go on with what
// the kernel lets through (a change through the mount holds the inode's lock in the kernel). A change that may or may not have to
// wait (a pin over a hole, or over a block that is only cleared) makes the file *uncertain*: only unpins go on there.
//
// Two steps written together run at the same time, on ranges that do not touch, so that either order gives one result.
// A step whose ground is missing is skipped. The same steps give the same model, whatever the timing.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "stress/arena.h"
#include "stress/model.h"
#include "stress/worker.h"

namespace pindax::stress {

struct RunnerOptions {
  u32 workers = 3;
  u64 file_size_max = 512 << 10;  // bytes
  u64 patience_ms = 60'000;       // an answer that takes longer is a hang
  u64 glance_ms = 30;             // how long a change that may wait is looked at
  bool trace = false;             // print each step
};

struct Tally {
  u64 steps = 0, skipped = 0, changes = 0, waited = 0, refused = 0, pairs = 0, kills = 0, remounts = 0, crashes = 0, compared_bytes = 0;
};

class Runner {
 public:
  Runner(Arena& arena, const RunnerOptions& options) : arena_(arena), options_(options), workers_(options.workers), models_(options.workers) {}
  ~Runner();
  Runner(const Runner&) = delete;

  bool start();                 // files made empty, workers started
  bool run(const Step& step);   // false: the system under test failed; failure() says how
  bool finish();                // what is pending ends, everything is compared
  const std::string& failure() const { return failure_; }

  const RunnerOptions& options() const { return options_; }
  const Tally& tally() const { return tally_; }
  const FileModel& file(u32 i) const { return files_[i]; }
  const WorkerModel& worker(u32 i) const { return models_[i]; }
  std::optional<u32> changing(u32 file) const { return changing_[file]; }

 private:
  bool fail(const Step& step, const std::string& text);
  bool start_worker(u32 w);
  bool busy(u32 w) const { return models_[w].pending.has_value(); }
  i64 ask(const Step& step);  // sends and awaits; a hang is kHang
  i64 await(u32 w);

  // Steps. runner.cc
  bool run_one(const Step& step);
  std::optional<Step> ground(Step step) const;  // clipped to what makes sense now; nothing: skip
  std::optional<Step> ground_memory(Step step) const;
  bool allowed_while_changing(const Step& step) const;
  bool judge(const Step& step, i64 result);
  bool judge_bytes(const Step& step, i64 result);
  bool gone_in_the_end(const Step& step);
  bool compare(const Step& step, u64 offset, u64 length);
  bool check_all(const Step& step);
  bool check_file(const Step& step, u32 file);

  // Changes and pins that wait. runner_waits.cc
  bool run_change(const Step& step);
  bool run_pin(const Step& step);
  bool end_of_change(u32 w, i64 result);
  bool end_of_pin(const Step& step, i64 result);
  bool poll_pending();
  bool certain(u32 file) const;    // the pending change of the file waits
  bool must_wait(u32 file) const;  // a block that it frees is pinned
  bool blocked(u32 file) const;  // a pin is, perhaps, in the way of the pending change
  bool overlaps_pins(const Step& change) const;
  bool drain(u32 file);
  bool drain_all();
  bool unpin_all(u32 file, ByteRange range);

  // Pairs, deaths, restarts. runner_events.cc
  bool run_pair(const Step& a, const Step& b);
  bool can_pair(const Step& a, const Step& b) const;
  bool run_appends(const Step& a, const Step& b);
  bool run_hold(const Step& hold, const Step& change);
  bool run_kill(const Step& step);
  bool run_restart(const Step& step);
  bool stop_workers(bool kill);

  static constexpr i64 kHang = -100'000;
  static constexpr u64 kLeftBehindMs = 5000;

  Arena& arena_;
  const RunnerOptions options_;
  std::vector<std::optional<Worker>> workers_;
  std::vector<WorkerModel> models_;
  std::array<FileModel, kFiles> files_{};
  std::array<std::optional<u32>, kFiles> changing_{};  // the worker whose change of the file is pending
  std::optional<Step> first_;                          // of a pair
  u64 number_ = 0;                                     // of the step under way
  Tally tally_;
  std::string failure_;
};

}  // namespace pindax::stress
