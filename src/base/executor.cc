// SPDX-License-Identifier: BSD-3-Clause
#include "base/executor.h"

#include <pthread.h>

#include "base/check.h"

namespace pindax {

Executor::Executor(unsigned threads, const char* name) {
  PINDAX_ASSERT(threads > 0);
  threads_.reserve(threads);
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this, name] { run(name); });
}

Executor::~Executor() { stop(); }

void Executor::post(Task task) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(task));
  work_.notify_one();
}

Executor::TimerId Executor::post_at(Clock::time_point when, Task task) {
  MutexLock lock(mutex_);
  TimerId id = next_timer_++;
  timers_.emplace(std::pair{when, id}, std::move(task));
  timer_index_.emplace(id, when);
  work_.notify_one();
  return id;
}

bool Executor::cancel(TimerId id) {
  Task dropped;  // destroyed outside the lock: it may own what takes other locks
  MutexLock lock(mutex_);
  auto it = timer_index_.find(id);
  if (it == timer_index_.end()) return false;
  auto timer = timers_.find({it->second, id});
  PINDAX_ASSERT(timer != timers_.end());
  dropped = std::move(timer->second);
  timers_.erase(timer);
  timer_index_.erase(it);
  return true;
}

void Executor::run(const char* name) {
  ::pthread_setname_np(::pthread_self(), name);
  mutex_.lock();
  for (;;) {
    const auto now = Clock::now();
    Task task;
    if (!timers_.empty() && timers_.begin()->first.first <= now) {
      task = std::move(timers_.begin()->second);
      timer_index_.erase(timers_.begin()->first.second);
      timers_.erase(timers_.begin());
    } else if (!queue_.empty()) {
      task = std::move(queue_.front());
      queue_.pop_front();
    } else if (stopping_) {
      break;
    } else if (!timers_.empty()) {
      work_.wait_for(mutex_, timers_.begin()->first.first - now);
      continue;
    } else {
      work_.wait(mutex_);
      continue;
    }
    ++busy_;
    mutex_.unlock();
    task();
    task = nullptr;
    mutex_.lock();
    if (--busy_ == 0 && queue_.empty()) idle_.notify_all();
  }
  mutex_.unlock();
}

void Executor::drain() {
  MutexLock lock(mutex_);
  while (busy_ != 0 || !queue_.empty()) idle_.wait(mutex_);
}

void Executor::stop() {
  decltype(timers_) dropped;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    dropped.swap(timers_);
    timer_index_.clear();
    work_.notify_all();
  }
  for (auto& t : threads_)
    if (t.joinable()) t.join();
}

}  // namespace pindax
