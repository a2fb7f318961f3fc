// SPDX-License-Identifier: BSD-3-Clause
//
// Freed blocks on their way back: first they wait until the record that freed them is durable; those that a client may
// still translate are then punched out of the pool (F5) by this class's own thread, which holds no ranked lock meanwhile.
// A punch that fails is tried again later; its blocks rest until it works. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "alloc/allocator.h"
#include "base/mutex.h"

namespace pindax {

class Resting {
 public:
  struct Entry {
    BlockRun run;
    Lsn lsn;              // of the record that freed it
    bool mapped = false;  // punch first
    bool former = false;  // free already, but a former client may still map it; punch unless it is gone by then
  };
  // `release` gets runs that may be reused; no lock of this class is held then.
  Resting(Media& media, const format::Geometry& geometry, std::function<void(BlockRun)> release);
  ~Resting() { stop(); }
  // Ends the thread: what still rests stays clear in the bitmaps, the next mount may use it. `release` does not run after.
  void stop() EXCLUDES(mutex_);

  void add(const Entry& entry, Lsn durable) EXCLUDES(mutex_);
  // The journal is durable up to `durable`.
  void advance(Lsn durable) EXCLUDES(mutex_);
  void former_clients_gone() EXCLUDES(mutex_);

  u64 blocks() const { return blocks_.load(std::memory_order_acquire); }
  // Grows with each run that was given back, after it was.
  u64 given_back() const { return given_back_.load(std::memory_order_acquire); }
  // Waits until something was given back since `seen`, or there is nothing to punch, or for `bound` nothing has moved.
  void wait_for_progress(u64 seen, std::chrono::milliseconds bound) EXCLUDES(mutex_);
  // Waits until all that is durable is punched once more or failed; the failure.
  Status drain() EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kRetryPeriod{1000};
  static constexpr u64 kPunchBlocks = 4096;  // one step of progress

  void give_back(BlockRun run);
  void queue_punch(const Entry& entry) REQUIRES(mutex_);
  void run();
  void punch_batch(std::vector<Entry> batch) EXCLUDES(mutex_);

  Media& media_;
  const format::Geometry geometry_;
  const std::function<void(BlockRun)> release_;
  std::atomic<u64> blocks_{0};
  std::atomic<u64> waiting_count_{0};
  std::atomic<u64> given_back_{0};

  Mutex mutex_{LockRank::kLeaf};
  CondVar work_, progress_;
  std::deque<Entry> waiting_ GUARDED_BY(mutex_);   // for their record
  std::vector<Entry> to_punch_ GUARDED_BY(mutex_);
  std::vector<Entry> failed_ GUARDED_BY(mutex_);
  Clock::time_point retry_at_ GUARDED_BY(mutex_);
  Status last_failure_ GUARDED_BY(mutex_);
  u64 steps_ GUARDED_BY(mutex_) = 0;
  bool punching_ GUARDED_BY(mutex_) = false;
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_ GUARDED_BY(mutex_);  // started with the first punch
};

}  // namespace pindax
