// SPDX-License-Identifier: BSD-3-Clause
//
// One list holds every request, held and queued, in order of arrival. A request may be held when no earlier request
// conflicts with it, whether that one is held or still queued: this alone gives fairness (B1), since a shared request
// that comes after a queued writer conflicts with the writer and waits, and a writer that drops the lock to sleep comes back
// as the youngest.
//
// A request leaves the list by release or cancel. Only requests that conflicted with the one that left can become
// ready, so no other is looked at; the look at a candidate stops at its first conflict, which for a pile of writers is
// the head of the list.
#include "layout/range_lock.h"

#include "base/check.h"
#include "base/steps.h"

namespace pindax {
namespace {

bool conflict(const RangeLock::Request& a, const RangeLock::Request& b) {
  if (a.range().empty() || b.range().empty()) return false;
  if (a.mode() == RangeLock::Mode::kShared && b.mode() == RangeLock::Mode::kShared) return false;
  return a.range().overlaps(b.range());
}

}  // namespace

RangeLock::~RangeLock() { PINDAX_ASSERT(requests_.empty()); }

bool RangeLock::blocked(const Request& r) const {
  for (const Request& earlier : requests_) {
    if (&earlier == &r) return false;
    if (conflict(earlier, r)) return true;
  }
  return false;
}

bool RangeLock::acquire(Request& r, ByteRange range, Mode mode, std::function<void()> granted) {
  MutexLock lock(mutex_);
  PINDAX_ASSERT(r.state_ == State::kIdle);
  r.range_ = range;
  r.mode_ = mode;
  requests_.push_back(r);
  if (!blocked(r)) {
    r.state_ = State::kHeld;
    return true;
  }
  r.state_ = State::kQueued;
  r.granted_ = std::move(granted);
  return false;
}

void RangeLock::remove(Request& r, std::vector<std::function<void()>>& ready) {
  auto next = requests_.erase(requests_.iterator_to(r));
  r.state_ = State::kIdle;
  for (; next != requests_.end(); ++next) {
    Request& candidate = *next;
    if (candidate.state_ != State::kQueued || !conflict(candidate, r) || blocked(candidate)) continue;
    candidate.state_ = State::kHeld;
    ready.push_back(std::move(candidate.granted_));
    candidate.granted_ = nullptr;
  }
}

bool RangeLock::cancel(Request& r) {
  std::vector<std::function<void()>> ready;
  std::function<void()> dropped;  // destroyed without the lock: it may own what takes other locks
  {
    MutexLock lock(mutex_);
    if (r.state_ != State::kQueued) return false;
    dropped = std::move(r.granted_);
    r.granted_ = nullptr;
    remove(r, ready);
  }
  for (auto& task : ready) executor_.post(std::move(task));
  return true;
}

void RangeLock::release(Request& r) {
  PINDAX_STEP("range_lock.release");
  std::vector<std::function<void()>> ready;
  {
    MutexLock lock(mutex_);
    PINDAX_ASSERT(r.state_ == State::kHeld);
    remove(r, ready);
  }
  for (auto& task : ready) executor_.post(std::move(task));
}

bool RangeLock::held(const Request& r) const {
  MutexLock lock(mutex_);
  return r.state_ == State::kHeld;
}

std::size_t RangeLock::queued() const {
  MutexLock lock(mutex_);
  std::size_t n = 0;
  for (const Request& r : requests_) n += r.state_ == State::kQueued ? 1 : 0;
  return n;
}

}  // namespace pindax
