// SPDX-License-Identifier: BSD-3-Clause
//
// Freed blocks on their way back: first they wait until the record that freed them is durable; those that a client may
// still translate are then punched out of the pool (F5) by this class's own thread, which holds no ranked lock meanwhile.
// A punch that fails is tried again later; its blocks rest until it works. Thread-safe.
//
// On fsdax the host's kernel holds a punch up while it uses any page of the pool for somebody's I/O: O_DIRECT, or a pipe that
// vmsplice(2) filled. That may last as long as somebody likes, so nobody waits for a punch without a bound, and what changes
// the thread's orders interrupts it.
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
    bool claimed = false;  // mapped; who frees it punches it himself
  };
  // `release` gets runs that may be reused; no lock of this class is held then.
  Resting(Media& media, const format::Geometry& geometry, std::function<void(BlockRun)> release);
  ~Resting() { stop(); }
  // Ends the thread: what still rests stays clear in the bitmaps, the next mount may use it. `release` does not run after.
  void stop() EXCLUDES(mutex_);

  void add(const Entry& entry, Lsn durable) EXCLUDES(mutex_);
  // Punches a claimed run on this thread. False: its record is not durable yet, or the punch failed; then the class's own thread
  // takes it from here.
  bool punch_claimed(BlockRun run) EXCLUDES(mutex_);
  // The journal is durable up to `durable`.
  void advance(Lsn durable) EXCLUDES(mutex_);
  void former_clients_gone() EXCLUDES(mutex_);

  u64 blocks() const { return blocks_.load(std::memory_order_acquire); }
  // Grows with each run that was given back, after it was.
  u64 given_back() const { return given_back_.load(std::memory_order_acquire); }
  // Waits until something was given back since `seen`, or there is nothing to punch, or for `bound` nothing has moved.
  void wait_for_progress(u64 seen, std::chrono::milliseconds bound) EXCLUDES(mutex_);
  // Waits until all that is durable is punched once more or failed; the failure. kTryAgain: the bound has passed.
  Status drain(std::chrono::milliseconds bound) EXCLUDES(mutex_);
  // For how long the punch that is under way has been: long means that the kernel holds it up. 0: there is none.
  std::chrono::milliseconds punching_for() const EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kRetryPeriod{1000};
  static constexpr std::chrono::milliseconds kDisturbPeriod{5};
  static constexpr u64 kPunchBlocks = 4096;  // one step of progress

  void give_back(BlockRun run);
  void wake_thread() REQUIRES(mutex_);  // there is something to punch
  void queue_punch(const Entry& entry) REQUIRES(mutex_);
  void fail_later(const Entry& entry, const Status& why) REQUIRES(mutex_);
  void run();
  void punch_batch(std::vector<Entry> batch) EXCLUDES(mutex_);
  // False: stopped.
  bool punch(const Entry& entry) EXCLUDES(mutex_);
  // Makes the thread look at its orders again: its system call ends.
  void disturb() REQUIRES(mutex_);

  Media& media_;
  const format::Geometry geometry_;
  const std::function<void(BlockRun)> release_;
  std::atomic<u64> blocks_{0};
  std::atomic<u64> waiting_count_{0};
  std::atomic<u64> given_back_{0};

  mutable Mutex mutex_{LockRank::kLeaf};
  CondVar work_, progress_;
  std::deque<Entry> waiting_ GUARDED_BY(mutex_);   // for their record
  std::vector<Entry> to_punch_ GUARDED_BY(mutex_);
  std::vector<Entry> failed_ GUARDED_BY(mutex_);
  std::vector<Entry> claimed_ GUARDED_BY(mutex_);
  Clock::time_point retry_at_ GUARDED_BY(mutex_);
  Status last_failure_ GUARDED_BY(mutex_);
  u64 steps_ GUARDED_BY(mutex_) = 0;
  bool punching_ GUARDED_BY(mutex_) = false;
  Clock::time_point punch_began_ GUARDED_BY(mutex_);  // of the piece that is being punched, while punching_
  bool former_gone_ GUARDED_BY(mutex_) = false;       // since what is being punched was queued
  bool stop_ GUARDED_BY(mutex_) = false;
  bool running_ GUARDED_BY(mutex_) = false;
  std::thread thread_ GUARDED_BY(mutex_);  // started with the first punch
};

}  // namespace pindax
