// SPDX-License-Identifier: BSD-3-Clause
#include "layout/break.h"

#include "base/steps.h"
#include "layout/slow_pin.h"

namespace pindax {
namespace {

ByteRange hull(ByteRange a, ByteRange b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

ByteRange aligned(ByteRange r) { return r.empty() ? ByteRange{} : block_aligned(r); }

// Until when pins are waited for. Policy quarantine waits only if this very call says how long.
std::optional<Clock::time_point> deadline_of(const ChangeRequest& r, BusyPolicy policy, const LayoutOptions& o) {
  auto wait = r.deadline;
  if (!wait && policy != BusyPolicy::kQuarantine && policy != BusyPolicy::kEvict) wait = o.deadline;
  if (!wait) return std::nullopt;
  return Clock::now() + *wait;
}

}  // namespace

Break::Break(std::shared_ptr<InodeLayout> inode, Kind kind, const ChangeRequest& request)
    : inode_(std::move(inode)),
      core_(*inode_->core),
      kind_(kind),
      request_(request),
      policy_(request.policy == BusyPolicy::kInherit ? core_.options.policy : request.policy),
      range_(aligned(request.break_range)),
      id_(core_.graph.new_node()),
      deadline_(deadline_of(request, policy_, core_.options)) {}

std::shared_ptr<Break> Break::change(std::shared_ptr<InodeLayout> inode, const ChangeRequest& request, Apply apply,
                                     Done done) {
  auto b = std::make_shared<Break>(std::move(inode), Kind::kChange, request);
  b->apply_ = std::move(apply);
  b->done_ = std::move(done);
  return b;
}

std::shared_ptr<Break> Break::fill(std::shared_ptr<InodeLayout> inode, ByteRange range, bool writable, Go go) {
  ChangeRequest request;
  request.operation = "page-cache fill";
  request.lock_range = request.break_range = range;
  request.policy = BusyPolicy::kWait;
  request.deadline = kFillDeadline;
  auto b = std::make_shared<Break>(std::move(inode), Kind::kFill, request);
  b->write_ = writable;
  b->go_ = std::move(go);
  return b;
}

std::shared_ptr<Break> Break::fault(std::shared_ptr<InodeLayout> inode, std::shared_ptr<Mapping> mapping, ByteRange range,
                                    FaultKind kind, Go go) {
  ChangeRequest request;
  request.operation = kind == FaultKind::kCopy ? "copy-on-write" : "fault";
  request.lock_range = request.break_range = range;
  request.moves_blocks = kind == FaultKind::kCopy;
  auto b = std::make_shared<Break>(std::move(inode), Kind::kFault, request);
  b->write_ = kind != FaultKind::kRead;
  b->faulter_ = std::move(mapping);
  b->go_ = std::move(go);
  return b;
}

std::shared_ptr<Break> Break::access(std::shared_ptr<InodeLayout> inode, ByteRange range, Go go) {
  ChangeRequest request;
  request.operation = "read or write past the page cache";
  request.lock_range = request.break_range = range;
  auto b = std::make_shared<Break>(std::move(inode), Kind::kFault, request);
  b->go_ = std::move(go);
  return b;
}

void Break::begin() {
  core_.add(*this);
  bool parked = false;
  {
    MutexLock lock(inode_->mutex);
    inode_->breaks.push_back(shared_from_this());
    parked = kind_ == Kind::kFill && write_ && inode_->sleeping_setattrs > 0;
    if (parked) phase_ = Phase::kParked;
  }
  if (parked) park();
  else request_lock();
}

void Break::post(void (Break::*step)()) {
  core_.executor.post([self = shared_from_this(), step] { ((*self).*step)(); });
}

// Phase kQueued, nobody else owns the machine.
void Break::request_lock() {
  const ByteRange range = hull(aligned(request_.lock_range), range_);
  if (inode_->range_lock.acquire(lock_request_, range, RangeLock::Mode::kExclusive, [self = shared_from_this()] { self->locked(); }))
    locked();
}

// True: an interrupt (or the end of the inode's layout) came meanwhile, and the machine has ended.
bool Break::interrupted_now() {
  bool abandoned = false;
  {
    MutexLock lock(inode_->mutex);
    abandoned = phase_ == Phase::kDone;
    if (!abandoned && !interrupted_) return false;
  }
  if (!abandoned) finish(Status(Errc::kInterrupted), false);
  else if (lock_held_) inode_->range_lock.release(lock_request_);
  return true;
}

// C4: a fill queues behind what waited for its page to drain, also when that one had to drop the lock meanwhile and has not asked
// for it again: else a process that touches its page without end keeps a direct fault out for ever. Mutex held.
bool Break::behind_a_drain() const NO_THREAD_SAFETY_ANALYSIS {
  return std::any_of(inode_->breaks.begin(), inode_->breaks.end(), [&](const std::shared_ptr<Break>& b) {
    return b->kind_ != Kind::kFill && b->phase_ == Phase::kQueued && b->sleeps_for_recall_ && b->range_.overlaps(range_);
  });
}

void Break::locked() {
  lock_held_ = true;
  PINDAX_STEP("break.locked");
  bool parked = false, abandoned = false, yields = false;
  {
    MutexLock lock(inode_->mutex);
    abandoned = phase_ == Phase::kDone;
    if (!abandoned) {
      phase_ = Phase::kScanning;
      ++step_;
      woken_ = false;
      // C6: a fill that was under way when the SETATTR went to sleep is parked here, before its page can become dirty.
      parked = kind_ == Kind::kFill && write_ && inode_->sleeping_setattrs > 0 && !interrupted_;
      yields = kind_ == Kind::kFill && !parked && !interrupted_ && behind_a_drain();
      if (parked) phase_ = Phase::kParked;
      if (yields) phase_ = Phase::kQueued;
    }
  }
  if (abandoned || parked || yields) {
    lock_held_ = false;
    inode_->range_lock.release(lock_request_);
    if (parked) park();
    if (yields) post(&Break::request_lock);
    return;
  }
  if (interrupted_now()) return;
  if (range_.empty()) return apply();
  if (kind_ == Kind::kFault || request_.recall_only) return recall();
  close_gates();
  PINDAX_STEP("break.closed");
  std::vector<BusyPin> busy = scan();
  PINDAX_STEP("break.scanned");
  if (!busy.empty()) return on_busy(std::move(busy));
  exempt_.clear();
  recall();
}

void Break::on_busy(std::vector<BusyPin> busy) {
  switch (decide(busy)) {
    case Verdict::kSleep:
      return sleep(std::move(busy), false);
    case Verdict::kQuarantine:
      exempt_ = std::move(busy);
      return recall();
    case Verdict::kRefuse:
      return finish(Status(kind_ == Kind::kFill ? Errc::kTimedOut : Errc::kTextBusy), false);
  }
}

// What may outlive the operation, for whoever carries it out. The result, if any, is called once that is done, before the lock goes.
std::function<void()> Break::grant_leftovers(ChangeGrant& grant) {
  grant.was_mapped = inode_->ever_mapped.load();
  std::vector<HeldBack::Spec> specs = held_back_specs();
  if (specs.empty()) return {};
  const auto set = std::make_shared<HeldSet>(inode_->core);
  std::vector<std::shared_ptr<HeldBack>> leftovers;
  for (HeldBack::Spec& spec : specs) {
    grant.to_quarantine.push_back(spec.range);
    const u32 number = set->add(spec.range);
    leftovers.push_back(std::make_shared<HeldBack>(std::move(spec), set, number));
  }
  grant.quarantined = [set](ByteRange file_range, u64 block, u64 length_blocks) { set->quarantined(file_range, block, length_blocks); };
  return [inode = inode_, set, leftovers = std::move(leftovers)] {
    {
      MutexLock lock(inode->mutex);
      inode->held_back.insert(inode->held_back.end(), leftovers.begin(), leftovers.end());
    }
    for (const auto& leftover : leftovers) leftover->start();
    set->activate();
  };
}

// The lock is held, the range idle but for exempt_ and forced_.
void Break::apply() {
  Apply change;
  bool parked = false;
  if (interrupted_now()) return;
  {
    MutexLock lock(inode_->mutex);
    // C6 once more: from the moment in which the page is the cache's it may be dirty.
    parked = kind_ == Kind::kFill && write_ && inode_->sleeping_setattrs > 0;
    phase_ = parked ? Phase::kParked : Phase::kApplying;
    ++step_;
    if (kind_ == Kind::kFill && !parked) inode_->pages.record_fill(range_, write_);
    change = std::move(apply_);
  }
  if (parked) {
    lock_held_ = false;
    inode_->range_lock.release(lock_request_);
    return park();
  }
  PINDAX_STEP("break.applying");
  if (kind_ != Kind::kChange) return finish(Status(), true);
  ChangeGrant grant;
  const auto set_off = grant_leftovers(grant);
  std::vector<FreedRun> freed;
  {
    MutexLock lock(inode_->mutex);
    claim(grant);
  }
  if (!grant.claimed.empty())
    grant.freed = [&freed](ByteRange file_range, u64 block, u64 length_blocks) { freed.push_back({file_range, block, length_blocks}); };
  Status status = change(grant);
  PINDAX_STEP("break.applied");
  if (status.ok() && set_off) set_off();
  if (!revoke(freed, status.ok())) finish(std::move(status), status.ok());
}

// B5: count out, unlock, serve the queue in order, tell the caller. The machine is the caller's; it ends here.
void Break::finish(Status status, bool applied) {
  std::vector<std::shared_ptr<SlowPin>> pins;
  std::vector<std::shared_ptr<Break>> unparked;
  Done done;
  Go go;
  Apply apply;  // destroyed without locks
  std::shared_ptr<Break> self = shared_from_this();
  bool abandoned = false;
  {
    MutexLock lock(inode_->mutex);
    abandoned = phase_ == Phase::kDone;
  }
  if (abandoned) {
    if (lock_held_) inode_->range_lock.release(lock_request_);
    return;
  }
  {
    MutexLock lock(inode_->mutex);
    // G2: a completed change or a recall that was sent.
    const bool fresh = recall_sent_ || (applied && kind_ == Kind::kChange && !request_.recall_only);
    if (counted_in_ || fresh)
      inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
        m.gate.count_out(this, fresh ? core_.generations.next() : 0);
      });
    phase_ = Phase::kDone;
    ++step_;
    inode_->breaks.remove(self);
    if (counts_as_sleeping_setattr_ && --inode_->sleeping_setattrs == 0)
      for (const auto& b : inode_->breaks)
        if (b->phase_ == Phase::kParked) {
          b->phase_ = Phase::kQueued;
          ++b->step_;
          unparked.push_back(b);
        }
    if (counted_in_)
      for (const auto& p : inode_->queued_pins)
        if (p->range().overlaps(range_)) pins.push_back(p);
    if (timer_ != 0) core_.executor.cancel(timer_);
    done = std::move(done_);
    go = std::move(go_);
    apply = std::move(apply_);
  }
  core_.graph.wake(id_);
  if (request_.kernel_setattr) core_.graph.remove(inode_->kernel_node, id_);
  core_.remove(*this);
  stop_waiting();
  PINDAX_STEP("break.counted_out");
  const bool hand_over = go != nullptr && status.ok();
  if (lock_held_ && !hand_over) inode_->range_lock.release(lock_request_);
  for (const auto& b : unparked) b->post(&Break::request_lock);
  for (const auto& p : pins) p->wake();
  if (done) done(std::move(status));
  if (!go) return;
  if (!hand_over) return go(std::move(status));
  auto hold = std::make_unique<SharedHold::State>(inode_);
  hold->request = &lock_request_;
  hold->keeper = self;
  if (kind_ == Kind::kFault) hold->before_release = grant_leftovers(hold->grant);
  go(SharedHold(std::move(hold)));
}

void Break::abandon() {
  Done done;
  Go go;
  Apply apply;
  bool holds = false;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ == Phase::kDone) return;
    holds = phase_ == Phase::kRecalling || phase_ == Phase::kSettling;  // with the lock, but without an owner who would release it
    phase_ = Phase::kDone;
    ++step_;
    if (timer_ != 0) core_.executor.cancel(timer_);
    done = std::move(done_);
    go = std::move(go_);
    apply = std::move(apply_);
  }
  if (holds) inode_->range_lock.release(lock_request_);
  else inode_->range_lock.cancel(lock_request_);
  core_.graph.wake(id_);
  if (request_.kernel_setattr) core_.graph.remove(inode_->kernel_node, id_);
  core_.remove(*this);
}

const Requester& Break::requester() const {
  std::call_once(identified_, [this] { requester_.identify(); });
  return requester_;
}

ChangeRow Break::row() const NO_THREAD_SAFETY_ANALYSIS {
  ChangeRow row;
  row.id = id_;
  row.ino = inode_->ino;
  row.operation = request_.operation;
  row.range = range_.empty() ? request_.lock_range : range_;
  row.requester = requester();
  row.policy = policy_;
  const auto since = [](Clock::duration d) { return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count(); };
  row.waiting_ns = static_cast<u64>(since(Clock::now() - arrived_));
  if (deadline_)
    row.deadline_ms = std::chrono::duration_cast<std::chrono::milliseconds>(*deadline_ - arrived_).count();
  MutexLock lock(inode_->mutex);
  switch (phase_) {
    case Phase::kQueued: row.phase = retries_ == 0 ? "queued" : "waiting for pins"; break;
    case Phase::kScanning: row.phase = "scanning"; break;
    case Phase::kSleeping: row.phase = sleeps_for_recall_ ? "recalling" : "waiting for pins"; break;
    case Phase::kRecalling: row.phase = "recalling"; break;
    case Phase::kParked: row.phase = "parked"; break;
    case Phase::kApplying:
    case Phase::kSettling: row.phase = "applying"; break;
    case Phase::kDone: row.phase = "done"; break;
  }
  row.scans = scans_;
  row.retries = retries_;
  row.busy_offset = busy_offset_;
  row.quarantines = may_quarantine();
  row.waits_for_kernel = (phase_ == Phase::kRecalling || sleeps_for_recall_) && kind_ != Kind::kFill &&
                         !request_.kernel_setattr && inode_->pages.draining(range_);
  return row;
}

std::vector<RecallRow> Break::recall_rows() const {
  std::vector<RecallRow> rows;
  const auto now = Clock::now();
  MutexLock lock(inode_->mutex);
  if (phase_ != Phase::kRecalling && !(phase_ == Phase::kSleeping && sleeps_for_recall_)) return rows;
  inode_->mappings.each_overlapping(range_, [&](const Mapping& m) {
    for (const Mapping::PendingRecall& p : m.pending) {
      const ByteRange r = intersect(p.range, range_);
      if (r.empty() || exempt(m, r)) continue;
      RecallRow row{m.client->port->identity(), m.id, r, 0, 0};
      row.age_ns = static_cast<u64>(std::chrono::nanoseconds(now - p.sent).count());
      row.deadline_ms = std::chrono::duration_cast<std::chrono::milliseconds>(p.deadline - now).count();
      rows.push_back(std::move(row));
    }
  });
  return rows;
}

}  // namespace pindax
