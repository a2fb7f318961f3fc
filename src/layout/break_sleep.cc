// SPDX-License-Identifier: BSD-3-Clause
//
// Break: everything between "busy" and the retake of the lock (B2, U3). A waker takes the machine only from a waiting
// phase and only to send it back to the lock's queue; the scan that follows decides.
#include "base/steps.h"
#include "layout/break.h"
#include "layout/slot_scan.h"

namespace pindax {

// A message pin ends in the daemon itself, which wakes its waiters then.
WaitGraph::Holder Break::holder_of(const BusyPin& b) {
  WaitGraph::Holder holder{{b.mapping->client->port->identity().pid, b.pin.thread}};
  if (b.message_pin != 0) return holder;
  holder.lasts = [port = b.mapping->client->port, pin = b.pin] { return port->slots() == nullptr || still_pinned(port->slots(), pin); };
  return holder;
}

// The lock is held; the pins of `busy` (if it is for pins) are marked, and this break is registered with their clients.
// From here on a wake that comes early is kept in woken_.
void Break::sleep(std::vector<BusyPin> busy, bool for_recall) {
  std::vector<WaitGraph::Holder> holders;
  bool soon = false;
  for (const BusyPin& b : busy) {
    if (b.mapping == nullptr) soon = true;
    // A transferable pin counts for its client: who of its threads will end it is not known.
    else if ((b.pin.kind & proto::kPinTransferable) == 0) holders.push_back(holder_of(b));
  }
  std::vector<WaitGraph::Node> nodes;
  {
    MutexLock lock(inode_->mutex);
    if (request_.kernel_setattr) core_.graph.add(inode_->kernel_node, id_);
    // A clean page goes without write-back.
    if (for_recall && inode_->pages.draining(range_) && inode_->pages.may_be_dirty()) nodes.push_back(inode_->kernel_node);
  }
  if (!core_.graph.sleep(id_, {requester().pid, requester().tid}, std::move(holders), std::move(nodes)))
    return finish(Status(Errc::kDeadlock, "a pin in the way is held by a thread that waits for this operation"), false);
  PINDAX_STEP("break.sleeping");
  lock_held_ = false;
  inode_->range_lock.release(lock_request_);  // B2, R4: faults go on
  bool again = false;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ == Phase::kDone) return;
    if (retries_++ == 0) core_.counts.waited.fetch_add(1, std::memory_order_relaxed);
    core_.counts.retries.fetch_add(1, std::memory_order_relaxed);
    ++step_;
    if (request_.kernel_setattr && !counts_as_sleeping_setattr_) {
      counts_as_sleeping_setattr_ = true;  // C6; until the end of the operation
      ++inode_->sleeping_setattrs;
      // A page that became dirty between the verdict and now: decide again.
      again = must_not_sleep();
    }
    sleeps_for_recall_ = for_recall;
    again = again || woken_ || interrupted_ || (for_recall && !anything_pending());
    phase_ = again ? Phase::kQueued : Phase::kSleeping;
    if (!again) {
      auto when = Clock::now() + core_.options.rescan_period;  // U3
      if (soon) when = Clock::now() + std::chrono::milliseconds(1);
      if (look_again_) when = std::min(when, std::max(*look_again_, Clock::now() + std::chrono::milliseconds(1)));
      // One that is over has had its say about recalls already.
      if (deadline_ && (!for_recall || !expired()))
        when = std::min(when, std::max(*deadline_, Clock::now() + std::chrono::milliseconds(1)));
      if (for_recall && recall_deadline_) when = std::min(when, std::max(*recall_deadline_, Clock::now()));
      arm(when);
    }
  }
  if (again) {
    core_.graph.wake(id_);
    request_lock();
  }
}

// Mutex held.
void Break::arm(Clock::time_point when) {
  if (timer_ != 0) core_.executor.cancel(timer_);
  timer_ = core_.executor.post_at(when, [self = shared_from_this(), step = step_] { self->timer_fired(step); });
}

void Break::timer_fired(u64 step) {
  Phase at;
  {
    MutexLock lock(inode_->mutex);
    if (step != step_) return;
    at = phase_;
    if (at == Phase::kRecalling || at == Phase::kParked) {
      phase_ = Phase::kScanning;
      ++step_;
    } else if (at == Phase::kSettling) {
      phase_ = Phase::kApplying;
      ++step_;
    }
  }
  if (at == Phase::kSettling) return settled();
  if (at == Phase::kRecalling) return bound_passed();
  if (at == Phase::kParked) return outstay();
  if (at != Phase::kSleeping) return;
  poll_clients();
  wake();
}

// D1: a client that hangs in its exit gives neither hang-up nor pidfd event.
void Break::poll_clients() {
  std::vector<std::shared_ptr<ClientState>> clients;
  {
    MutexLock lock(inode_->mutex);
    inode_->mappings.each_overlapping(range_, [&](const Mapping& m) {
      if (clients.empty() || clients.back() != m.client) clients.push_back(m.client);
    });
  }
  for (const auto& c : clients)
    if (!c->gone.load() && c->time_to_poll(Clock::now(), core_.options.rescan_period) && c->port->poll_dead())
      core_.client_gone(*c);
}

void Break::wake() {
  {
    MutexLock lock(inode_->mutex);
    woken_ = true;
    if (phase_ != Phase::kSleeping) return;
    phase_ = Phase::kQueued;
    ++step_;
  }
  core_.graph.wake(id_);
  PINDAX_STEP("break.woken");
  post(&Break::request_lock);  // B1: FIFO again
}

void Break::interrupt() {
  bool claimed = false, queued = false;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ == Phase::kDone || phase_ == Phase::kApplying || phase_ == Phase::kSettling) return;
    interrupted_ = true;
    queued = phase_ == Phase::kQueued;
    claimed = phase_ == Phase::kSleeping || phase_ == Phase::kRecalling || phase_ == Phase::kParked;
    if (claimed) {
      phase_ = Phase::kScanning;
      ++step_;
    }
  }
  // Still in the lock's queue: it will not be granted any more. Else its owner sees the flag at its next step.
  if (queued) claimed = inode_->range_lock.cancel(lock_request_);
  if (claimed)
    core_.executor.post([self = shared_from_this()] { self->finish(Status(Errc::kInterrupted), false); });
}

// C6: nobody waits without end behind a truncate that waits for a pin, perhaps his own, and a fill that fails is a SIGBUS. So
// after the fill's deadline the truncate decides as if the page were there and dirty. The machine is ours (timer_fired).
void Break::outstay() {
  std::vector<std::shared_ptr<Break>> setattrs;
  {
    MutexLock lock(inode_->mutex);
    phase_ = Phase::kParked;
    for (const auto& b : inode_->breaks) {
      if (!b->counts_as_sleeping_setattr_) continue;
      b->outstayed_ = true;
      setattrs.push_back(b);
    }
  }
  for (const auto& b : setattrs) b->wake();
  park();
}

// C6: not answered while a SETATTR sleeps, so that no page of the inode becomes dirty.
void Break::park() {
  MutexLock lock(inode_->mutex);
  if (phase_ != Phase::kParked) return;
  if (inode_->sleeping_setattrs == 0) {  // it has ended meanwhile
    phase_ = Phase::kQueued;
    post(&Break::request_lock);
    return;
  }
  ++step_;
  arm(expired() ? Clock::now() + kFillDeadline : deadline_.value_or(Clock::now() + kFillDeadline));
}

}  // namespace pindax
