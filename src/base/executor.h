// SPDX-License-Identifier: BSD-3-Clause
//
// Runs continuations: what a lock grant, a wake-up, a timer or an acknowledgement sets off.
// Tasks are steps of state machines and must not block on a client, on the kernel, or on a range lock.
// Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pindax {

class Executor {
 public:
  using Task = std::function<void()>;
  using Clock = std::chrono::steady_clock;
  using TimerId = unsigned long long;

  explicit Executor(unsigned threads, const char* name = "pindax-exec");
  ~Executor();  // stop()
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void post(Task task) EXCLUDES(mutex_);
  // Runs `task` at `when` or soon after. The id stays valid until the task ran or was cancelled.
  TimerId post_at(Clock::time_point when, Task task) EXCLUDES(mutex_);
  // True if the task had not started and now never will.
  bool cancel(TimerId id) EXCLUDES(mutex_);
  // Runs what is queued, drops timers, joins. Idempotent.
  void stop() EXCLUDES(mutex_);
  // Waits until the queue is empty and every worker idle (timers not counted). For tests and unmount.
  void drain() EXCLUDES(mutex_);

 private:
  void run(const char* name);

  Mutex mutex_{LockRank::kExecutor};
  CondVar work_, idle_;
  std::deque<Task> queue_ GUARDED_BY(mutex_);
  std::map<std::pair<Clock::time_point, TimerId>, Task> timers_ GUARDED_BY(mutex_);
  std::map<TimerId, Clock::time_point> timer_index_ GUARDED_BY(mutex_);
  TimerId next_timer_ GUARDED_BY(mutex_) = 1;
  unsigned busy_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace pindax
