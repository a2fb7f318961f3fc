// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a workload on recording media and checks what every crash in it may leave.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "checker.h"
#include "crash_model.h"
#include "operations.h"

namespace pindax::crash {

// A pool with the base tree, unmounted cleanly; every free block holds the poison.
struct BaseImage {
  std::vector<std::byte> bytes;
  Model model;
  u64 data_blocks = 0;  // free ones and those of inodes, once everything is removed
};
Result<BaseImage> make_base_image(const Setting& setting);

struct Workload {
  u32 setting = 0;  // index in kSettings
  std::vector<u32> operations;
};

struct Limits {
  u64 at_fence = 48;      // images at a point before a fence; more are sampled
  u64 between = 2;        // images at other points
  u64 between_every = 6;  // one event of so many is such a point
  u64 recovery_every = 24;  // one state of so many crashes again, in its recovery or soon after
  u64 in_recovery = 6;      // images at each fence of that recovery
};

// One image of one crash: enough to make it again.
struct CrashPoint {
  u64 event = 0;
  u64 choice = 0;
  bool memory = false;  // the daemon died, the host did not
  // A second crash, in the recovery from the first or in the operation that follows it.
  bool again = false;
  u64 event2 = 0, choice2 = 0;
};

struct Violation {
  Workload workload;
  CrashPoint point;
  std::string what;
};

// Makes a filter that misbehaves as a bug would.
using Plant = std::function<RecordingMedia::Filter(const format::Geometry&)>;

class Explorer {
 public:
  Explorer(const std::vector<BaseImage>& images, u64 seed, const Limits& limits, Executor& executor);

  void set_plant(Plant plant) { plant_ = std::move(plant); }
  void set_found(std::function<void(const Violation&)> found) { found_ = std::move(found); }

  // False if some operation of it can only fail: nothing was explored.
  bool explore(const Workload& workload);
  // Only that state. Empty, or what is wrong with it.
  std::string replay(const Workload& workload, const CrashPoint& point);

  u64 states() const { return states_; }
  u64 violations() const { return violations_; }

 private:
  static constexpr u64 kViolationsPerWorkload = 3;
  static constexpr u64 kAckMark = 1;

  bool prepare(const Workload& workload);
  std::string record();
  void walk();
  void at_point(u64 event, u64 bound);
  void memory_state(u64 event);
  void host_crash_state(u64 event, u64 choice, u64 bound);
  static Expectation expectation(const History& history, u64 acked, const Setting& setting, bool memory);
  void crash_again(const CrashPoint& point, u64 hash);
  RecordingMedia::Filter planted() const;
  void judge(const CrashPoint& point, const std::string& problem);
  u64 workload_seed() const;
  bool wanted(const CrashPoint& point) const;

  // Mounts the image, cleans up, checks all; fsck before and after.
  std::string check_image(RecordingMedia& image, const Expectation& expected, char boot);
  std::string check_mounted(RecordingMedia& image, const Expectation& expected, char boot);
  // A daemon's life after the crash: recovery, and the workload's first operation once more.
  Status live_again(MediaLog& log, History& history);

  const std::vector<BaseImage>& images_;
  const u64 seed_;
  const Limits limits_;
  Executor& executor_;
  Plant plant_;
  std::function<void(const Violation&)> found_;
  const std::vector<Operation> all_ = generate_operations();

  // One of each granularity.
  struct Pools {
    Pools(u64 size, Granularity g) : run(size, g), durable(size, g), image(size, g), durable2(size, g), image2(size, g) {}
    RecordingMedia run, durable, image, durable2, image2;
  };
  std::vector<std::unique_ptr<Pools>> pools_;

  // The workload at hand.
  Workload workload_;
  const Setting* setting_ = nullptr;
  const BaseImage* base_ = nullptr;
  Pools* p_ = nullptr;
  MediaLog log_;
  History history_;
  u64 first_event_ = 0;
  u64 acked_ = 0;
  u64 workload_violations_ = 0;
  CrashModel* model_ = nullptr;
  std::unordered_set<u64> seen_;
  std::optional<CrashPoint> only_;
  std::string only_result_;

  u64 states_ = 0;
  u64 violations_ = 0;
};

std::string replay_text(u64 seed, const Limits& limits, const Violation& v);

}  // namespace pindax::crash
