// SPDX-License-Identifier: BSD-3-Clause
//
// The mmap-lock of an inode: who may look at or change which part of its layout.
//
// What it protects. The map from file offsets to blocks. Whoever looks an extent up and acts on the answer (reads the block, hands
// it to a client) holds the range shared from the look-up to the act; whoever changes the map holds it exclusively. Hence a
// translation is queued to a client either before a change begins, and is recalled by it, or after it ended (F1). It protects no
// pins: those live in shared memory and take no lock. What keeps them apart from changes is the gate:
//
//   a client                                       a layout change
//   reads the gate's word: open over the range     takes the range exclusively (B1)
//   publishes its slot                             closes the gates, fence (G1, G3)
//   reads the word again: unchanged, so pinned     scans the slots: nobody, or RELEASES THE LOCK and sleeps (B2, R4)
//   ...                                            retakes it, scans everything again (R2)
//   unpin: frees the slot, rings if awaited        recalls translations, changes the map, opens the gates, releases (B3, B5)
//
// The lock is never held over a sleep. A pin's holder may need a fault, a read or a write in the very range before it can unpin,
// and each of these needs the lock: held, it would close a cycle (R4); dropped, faults run while the change sleeps (A5, R38), and
// whatever they did is seen by the next scan and recall, because these start over. What a sleeping change keeps is not the lock
// but the closed gate: new pins of its range queue behind it (A3), so a stream of pins cannot starve it (R5).
//
// Who holds what for how long
//   read, write in place, read fault, map, slow pin   shared      a look-up and a copy
//   write fault, page-cache fill                      exclusive   a look-up; a recall for recall_bound at most
//   change                                            exclusive   scan, recall (recall_bound at most), apply
// so every wait in here is bounded by bounded waits, and nobody waits in here for a client.
//
// Order. One list holds every request, held and queued, in order of arrival. A request may be held when no earlier request
// conflicts with it, whether that one is held or still queued. This alone gives fairness (B1): a shared request that comes after
// a queued writer conflicts with the writer and waits; a writer that drops the lock to sleep comes back as the youngest; disjoint
// ranges never meet (R38). With n changes of overlapping ranges before it a request waits for n holds, never for n sleeps.
//
// Wake-ups. A request leaves the list by release or cancel. Only requests that conflicted with the one that left can become
// ready, so no other is looked at; the look at a candidate stops at its first conflict, which for a pile of writers is the head
// of the list. `granted` runs on the executor, never on the thread that released: no stack grows, no lock order is made.
//
// An interrupt takes a queued request out of the list (cancel, R8). There are no upgrades: release, acquire, and look again at all
// that was known. Two inodes are locked by (inode, offset) (T1).
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
