// SPDX-License-Identifier: BSD-3-Clause
#include "alloc/resting.h"

#include <algorithm>

#include "base/interrupt.h"
#include "base/steps.h"

namespace pindax {

Resting::Resting(Media& media, const format::Geometry& geometry, std::function<void(BlockRun)> release)
    : media_(media), geometry_(geometry), release_(std::move(release)) {}

void Resting::stop() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    work_.notify_all();
    while (running_) {
      disturb();
      progress_.wait_for(mutex_, kDisturbPeriod);
    }
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

void Resting::disturb() {
  if (punching_ && running_) interrupt(thread_);
}

void Resting::give_back(BlockRun run) {
  release_(run);
  // In this order: whoever sees that nothing rests any more also sees that something was given back.
  given_back_.fetch_add(1, std::memory_order_release);
  blocks_.fetch_sub(run.length, std::memory_order_release);
}

void Resting::wake_thread() {
  if (!thread_.joinable() && !stop_) {
    running_ = true;
    thread_ = std::thread([this] { run(); });
  }
  work_.notify_one();
}

void Resting::queue_punch(const Entry& entry) {
  to_punch_.push_back(entry);
  wake_thread();
}

void Resting::add(const Entry& entry, Lsn durable) {
  blocks_.fetch_add(entry.run.length, std::memory_order_relaxed);
  if (durable >= entry.lsn && !entry.mapped) {
    give_back(entry.run);
    return;
  }
  MutexLock lock(mutex_);
  if (durable >= entry.lsn) {
    if (entry.claimed) claimed_.push_back(entry);
    else queue_punch(entry);
  } else {
    waiting_.push_back(entry);
    waiting_.back().claimed = false;
    waiting_count_.store(waiting_.size(), std::memory_order_release);
  }
}

bool Resting::punch_claimed(BlockRun run) {
  Entry entry;
  {
    MutexLock lock(mutex_);
    const auto it = std::find_if(claimed_.begin(), claimed_.end(), [&](const Entry& e) { return e.run == run; });
    if (it == claimed_.end()) return false;
    entry = *it;
    claimed_.erase(it);
  }
  lock_check::assert_none_held();
  Status s;
  do s = media_.punch(block_offset(run.start), run.length * kBlockSize);
  while (s.code() == Errc::kInterrupted);
  if (s.ok()) {
    give_back(run);
    return true;
  }
  entry.claimed = false;
  MutexLock lock(mutex_);
  fail_later(entry, s);
  wake_thread();
  return false;
}

// A page that is pinned or in use is no failure of the media: its blocks rest until it is not.
void Resting::fail_later(const Entry& entry, const Status& why) {
  failed_.push_back(entry);
  retry_at_ = Clock::now() + kRetryPeriod;
  if (why.code() != Errc::kNotSupported && why.code() != Errc::kBusy) last_failure_ = why.with_context("punching freed blocks");
}

void Resting::advance(Lsn durable) {
  if (waiting_count_.load(std::memory_order_acquire) == 0) return;
  std::vector<BlockRun> ready;
  {
    MutexLock lock(mutex_);
    // Parallel commits may have queued out of order: the tail waits for the next turn then.
    while (!waiting_.empty() && waiting_.front().lsn <= durable) {
      if (waiting_.front().mapped) queue_punch(waiting_.front());
      else ready.push_back(waiting_.front().run);
      waiting_.pop_front();
    }
    waiting_count_.store(waiting_.size(), std::memory_order_release);
  }
  for (const BlockRun& r : ready) give_back(r);
}

void Resting::former_clients_gone() {
  std::vector<BlockRun> ready;
  {
    MutexLock lock(mutex_);
    for (auto* list : {&to_punch_, &failed_}) {
      std::erase_if(*list, [&](const Entry& e) {
        if (e.former) ready.push_back(e.run);
        return e.former;
      });
    }
    former_gone_ = true;
    disturb();
  }
  for (const BlockRun& r : ready) give_back(r);
}

void Resting::wait_for_progress(u64 seen, std::chrono::milliseconds bound) {
  MutexLock lock(mutex_);
  if (punching_ && Clock::now() - punch_began_ > 2 * bound) return;  // somebody has waited in vain before
  auto end = Clock::now() + bound;
  for (u64 steps = steps_; given_back() == seen && (punching_ || !to_punch_.empty());) {
    if (Clock::now() >= end) return;
    (void)progress_.wait_for(mutex_, end - Clock::now());
    if (steps_ == steps) continue;
    steps = steps_;
    end = Clock::now() + bound;
  }
}

Status Resting::drain(std::chrono::milliseconds bound) {
  const auto end = Clock::now() + bound;
  MutexLock lock(mutex_);
  last_failure_ = Status();
  retry_at_ = Clock::now();
  work_.notify_one();
  bool retried = failed_.empty();
  while (punching_ || !to_punch_.empty() || !retried) {
    if (Clock::now() >= end) return Status(Errc::kTryAgain, "the kernel still uses pages of the pool: freed blocks wait");
    progress_.wait_for(mutex_, end - Clock::now());
    if (to_punch_.empty() && !punching_) retried = true;
  }
  return last_failure_;
}

std::chrono::milliseconds Resting::punching_for() const {
  MutexLock lock(mutex_);
  if (!punching_) return {};
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - punch_began_);
}

void Resting::run() {
  allow_interrupts();
  std::vector<Entry> batch;
  for (;;) {
    {
      MutexLock lock(mutex_);
      punching_ = false;
      ++steps_;
      progress_.notify_all();
      for (;;) {
        if (stop_) {
          running_ = false;
          return;
        }
        if (!failed_.empty() && Clock::now() >= retry_at_) {
          to_punch_.insert(to_punch_.end(), failed_.begin(), failed_.end());
          failed_.clear();
        }
        if (!to_punch_.empty()) break;
        if (failed_.empty()) work_.wait(mutex_);
        else work_.wait_for(mutex_, retry_at_ - Clock::now());
      }
      batch.swap(to_punch_);
      former_gone_ = false;
      punching_ = true;
      punch_began_ = Clock::now();
    }
    lock_check::assert_none_held();
    PINDAX_STEP("alloc.punch");
    punch_batch(std::move(batch));
    batch.clear();
  }
}

void Resting::punch_batch(std::vector<Entry> batch) {
  std::sort(batch.begin(), batch.end(), [](const Entry& a, const Entry& b) { return a.run.start < b.run.start; });
  std::vector<Entry> joined;
  for (const Entry& e : batch) {
    if (!joined.empty() && joined.back().run.end() == e.run.start && joined.back().former == e.former &&
        geometry_.ag_of(joined.back().run.start) == geometry_.ag_of(e.run.start))
      joined.back().run.length += e.run.length;
    else
      joined.push_back(e);
  }
  for (const Entry& e : joined)
    if (!punch(e)) return;
}

bool Resting::punch(const Entry& e) {
  for (BlockNo at = e.run.start; at < e.run.end();) {
    bool needed = true;
    {
      MutexLock lock(mutex_);
      if (stop_) return false;
      needed = !e.former || !former_gone_;
      punch_began_ = Clock::now();
    }
    const BlockRun piece{at, std::min(e.run.end() - at, kPunchBlocks)};
    Status s;
    if (needed) s = media_.punch(block_offset(piece.start), piece.length * kBlockSize);
    if (s.code() == Errc::kInterrupted) continue;
    // Where nothing can be punched, the recall's acknowledgement must do; a former client gave none.
    if (s.ok() || (s.code() == Errc::kNotSupported && !e.former)) {
      give_back(piece);
      at = piece.end();
      MutexLock lock(mutex_);
      ++steps_;
      progress_.notify_all();
      continue;
    }
    MutexLock lock(mutex_);
    Entry rest = e;
    rest.run = {at, e.run.end() - at};
    fail_later(rest, s);
    return true;
  }
  return true;
}

}  // namespace pindax
