// SPDX-License-Identifier: BSD-3-Clause
//
// What goes on behind the calls: tasks on the executor (counted, so that the file system outlives them) and the commit
// timer, which has a thread of its own because it waits for the media.
#include <malloc.h>
#include <pthread.h>

#include "fs/file_system_impl.h"

namespace pindax {

struct FileSystemImpl::TaskCount {
  Mutex mutex{LockRank::kLeaf};
  CondVar idle;
  u64 count GUARDED_BY(mutex) = 0;
};

std::shared_ptr<FileSystemImpl::TaskCount> FileSystemImpl::make_task_count() { return std::make_shared<TaskCount>(); }

std::shared_ptr<void> FileSystemImpl::count_task() {
  std::shared_ptr<TaskCount> tasks = tasks_;
  {
    MutexLock lock(tasks->mutex);
    ++tasks->count;
  }
  return std::shared_ptr<void>(nullptr, [tasks](void*) {
    MutexLock lock(tasks->mutex);
    if (--tasks->count == 0) tasks->idle.notify_all();
  });
}

void FileSystemImpl::post(std::function<void()> task) {
  // The token must go last: what the task holds may still need the file system when it is destroyed.
  struct Counted {
    std::shared_ptr<void> token;
    std::function<void()> task;
  };
  auto counted = std::make_shared<Counted>(Counted{count_task(), std::move(task)});
  executor_.post([counted] { counted->task(); });
}

void FileSystemImpl::wait_for_tasks() {
  MutexLock lock(tasks_->mutex);
  while (tasks_->count != 0) tasks_->idle.wait(tasks_->mutex);
}

void FileSystemImpl::stop_timer() {
  {
    MutexLock lock(timer_mutex_);
    timer_stop_ = true;
    timer_wake_.notify_all();
  }
  if (timer_.joinable()) timer_.join();
}

// What had not begun to be freed stays on the orphan list.
void FileSystemImpl::end_tasks(Phase phase) {
  phase_ = phase;
  std::vector<std::shared_ptr<Change>> waiting;
  {
    MutexLock lock(changes_mutex_);
    for (auto& [inode, change] : changes_) waiting.push_back(change);
  }
  for (auto& change : waiting) change->interrupt();
  waiting.clear();
  if (executor_.cancel(collector_timer_.exchange(0))) clean_up_collected(true);
  wait_for_tasks();
}

void FileSystemImpl::stop_background() {
  stop_timer();
  end_tasks(Phase::kStopped);
  executor_.drain();  // what layout posted for itself
}

void FileSystemImpl::start_commit_timer() {
  timer_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "pindax-commit");
    run_commit_timer();
  });
}

// Inodes come and go by the hundred thousand, and what they leave between others' memory the C library keeps: it is given back once
// most of them are gone.
void FileSystemImpl::give_back_memory() {
  constexpr u64 kWorthIt = 20'000;
  const u64 cached = cached_inodes();
  most_cached_ = std::max(most_cached_, cached);
  if (most_cached_ < kWorthIt || cached > most_cached_ / 2) return;
  most_cached_ = cached;
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

void FileSystemImpl::run_commit_timer() {
  for (;;) {
    {
      MutexLock lock(timer_mutex_);
      const auto deadline = std::chrono::steady_clock::now() + options_.commit_interval;
      while (!timer_stop_ && !bad_news_) {
        const auto left = deadline - std::chrono::steady_clock::now();
        if (left <= left.zero()) break;
        timer_wake_.wait_for(timer_mutex_, left);
      }
      if (timer_stop_) return;
      bad_news_ = false;
    }
    // What fails, for want of space perhaps, is tried again with the next commit.
    static_cast<void>(tend_bad_blocks().ok());
    // An error shows again at the next fsync, and as health() at the next change.
    static_cast<void>(sync_all().ok());
    static_cast<void>(watch_former_clients().ok());
    give_back_memory();
  }
}

}  // namespace pindax
