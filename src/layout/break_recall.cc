// SPDX-License-Identifier: BSD-3-Clause
//
// Break: recalls (B3, B4). The lock is held from the clean scan to the change, so no pin can appear in between: every path
// to one needs an open gate or a shared hold. That is also why a scan here would prove nothing: a transient slot of
// a thread that is about to find the gate closed (P1) may show up at any time.
#include "base/steps.h"
#include "layout/break.h"

namespace pindax {

bool Mapping::send_recall(const std::vector<ByteRange>& pieces, RecallWhat what) {
  struct Run {
    ByteRange range;
    bool holes, punchable, pool;
  };
  std::vector<Run> runs;
  for (const ByteRange& piece : pieces) {
    bool first = true;  // of this piece: one recall spans all that is granted in it
    granted.each(piece, [&](ByteRange r, const Granted& g) {
      if (what == RecallWhat::kHoles && !g.hole) return true;
      if (what == RecallWhat::kWritable && !g.writable) return true;
      const bool join = !runs.empty() && !first && (what == RecallWhat::kAll || runs.back().range.end == r.begin);
      if (join) {
        runs.back().range.end = r.end;
        runs.back().holes |= g.hole;
        runs.back().punchable &= g.punchable();
        runs.back().pool |= g.punchable();
      } else {
        runs.push_back({r, g.hole, g.punchable(), g.punchable()});
      }
      first = false;
      return true;
    });
  }
  for (const Run& run : runs) {
    const u64 recall = inode->core->new_id();
    const auto now = Clock::now();
    granted.erase(run.range);
    if (what == RecallWhat::kWritable) granted.assign(run.range, {false, false, !run.punchable});
    pending.push_back({recall, run.range, run.holes, run.punchable, run.pool, now + inode->core->options.recall_deadline, now});
    {
      MutexLock lock(client->mutex);
      client->recalls.emplace(recall, shared_from_this());
    }
    client->port->send_recall(recall, id, run.range, what == RecallWhat::kWritable);
    inode->core->counts.recalls.fetch_add(1, std::memory_order_relaxed);
  }
  return !runs.empty();
}

void Mapping::forget_translations() {
  granted.clear();
  MutexLock lock(client->mutex);
  for (const PendingRecall& p : pending) client->recalls.erase(p.id);
  pending.clear();
}

// What a pin protects stays translated until the pin ends: the promise is the pin's, also under policy quarantine.
bool Break::exempt(const Mapping& mapping, ByteRange r) const {
  return std::any_of(exempt_.begin(), exempt_.end(), [&](const BusyPin& b) {
    return b.mapping.get() == &mapping && block_aligned(b.range).contains(r);
  });
}

IntervalMap<bool> Break::without_exempt(const Mapping& mapping, ByteRange r) const {
  IntervalMap<bool> rest;
  rest.assign(r, true);
  for (const BusyPin& b : exempt_)
    if (b.mapping.get() == &mapping) rest.erase(block_aligned(b.range));
  return rest;
}

// A client that sees stale zeros harms itself only: nobody waits for its answer longer than the recall's own deadline, and
// the writes that follow do not wait for it again.
bool Break::anything_pending() const NO_THREAD_SAFETY_ANALYSIS {
  if (!leaves_cache() && inode_->pages.draining(range_)) return true;
  if (kind_ == Kind::kFault && !write_) return false;
  const bool holes_only = kind_ == Kind::kFault && !request_.moves_blocks;
  bool pending = false;
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
    if (holes_only && &m == faulter_.get()) return;
    for (const Mapping::PendingRecall& p : m.pending) {
      const ByteRange r = intersect(p.range, range_);
      if (r.empty() || exempt(m, r) || (holes_only && !p.holes)) continue;
      if ((zeros_only() || (copies() && !p.pool)) && Clock::now() >= p.deadline) continue;
      if (overdue_ && p.punchable && punch_reaches(m, r)) continue;
      pending = true;
    }
  });
  return pending;
}

// Mutex held. The recalls may be an earlier break's.
Clock::time_point Break::latest_recall_deadline() const NO_THREAD_SAFETY_ANALYSIS {
  if (inode_->pages.draining(range_)) return Clock::now() + core_.options.recall_deadline;
  Clock::time_point latest{};
  inode_->mappings.each_overlapping(range_, [&](const Mapping& m) {
    for (const Mapping::PendingRecall& p : m.pending)
      if (p.range.overlaps(range_)) latest = std::max(latest, p.deadline);
  });
  return latest;
}

void Break::recall() {
  if (interrupted_now()) return;
  std::vector<PageCacheOwners::Drop> drops;
  bool pending = false;
  {
    MutexLock lock(inode_->mutex);
    inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
      const bool holes_only = kind_ == Kind::kFault && !request_.moves_blocks;
      if (kind_ == Kind::kFault && (!write_ || (holes_only && &m == faulter_.get()))) return;
      IntervalMap<bool> wanted = without_exempt(m, intersect(range_, m.range));
      // Blocks that a punch takes away after the change need no message.
      m.granted.each(range_, [&](ByteRange r, const Mapping::Granted& g) {
        if (g.punchable() && revokes_at_once(m, r)) wanted.erase(r);
        return true;
      });
      std::vector<ByteRange> pieces;
      wanted.each(range_, [&](ByteRange r, bool) { pieces.push_back(r); return true; });
      const auto what = holes_only            ? Mapping::RecallWhat::kHoles
                        : request_.downgrade  ? Mapping::RecallWhat::kWritable
                                              : Mapping::RecallWhat::kAll;
      if (m.send_recall(pieces, what)) recall_sent_ = true;
    });
    if (!leaves_cache()) drops = inode_->pages.begin_drop(range_);
    pending = anything_pending();
    if (pending) {
      phase_ = Phase::kRecalling;
      ++step_;
      if (!recall_deadline_) recall_deadline_ = latest_recall_deadline();
      arm(Clock::now() + (must_not_sleep() ? core_.options.setattr_recall_bound : core_.options.recall_bound));
    }
  }
  PINDAX_STEP("break.recalled");
  inode_->issue(drops);
  if (!pending) apply();
}

// InodeLayout::recheck(): the inode's mutex is held.
void Break::recheck_locked() NO_THREAD_SAFETY_ANALYSIS {
  if (phase_ == Phase::kRecalling && !anything_pending()) {
    phase_ = Phase::kScanning;
    ++step_;
    post(&Break::recall_answered);
  } else if (phase_ == Phase::kSettling && !anything_pending()) {
    phase_ = Phase::kApplying;
    ++step_;
    post(&Break::settled);
  } else if (phase_ == Phase::kSleeping && sleeps_for_recall_ && !anything_pending()) {
    woken_ = true;
    phase_ = Phase::kQueued;
    ++step_;
    core_.graph.wake(id_);
    post(&Break::retake_lock);
  }
}

void Break::retake_lock() {
  PINDAX_STEP("break.retake");
  request_lock();
}

// The change is done, whoever answered.
void Break::settled() { finish(Status(), true); }

void Break::recall_answered() {
  PINDAX_STEP("break.answered");
  if (!interrupted_now()) apply();
}

// B4: the acknowledgements take too long to hold the lock meanwhile.
void Break::bound_passed() {
  if (interrupted_now()) return;
  Verdict v;
  {
    MutexLock lock(inode_->mutex);
    v = verdict_for_recall();
    if (v == Verdict::kQuarantine) forced_ = unacknowledged();
  }
  if (v == Verdict::kQuarantine) return apply();
  if (v == Verdict::kRefuse) return finish(Status(Errc::kTextBusy), false);
  bool revocable = false;
  {
    MutexLock lock(inode_->mutex);
    overdue_ = true;
    revocable = may_revoke() && !anything_pending();
  }
  if (revocable) return apply();
  const bool in_time = recall_deadline_ && Clock::now() < *recall_deadline_;
  if (in_time && !expired()) return keep_waiting_for_recall();
  if (evict_silent_clients()) {
    for (const auto& [client, until] : evicted_) recall_deadline_ = std::max(*recall_deadline_, until);
    return keep_waiting_for_recall();
  }
  force_or_refuse();
}

// The recall's own deadline is over, and nobody was or could be evicted. Stale zeros are acceptable, stale blocks only where the operation
// gives them up: it ends, and the blocks stay in quarantine or, if others own them too, as they are (F4). The kernel cannot be forced.
void Break::force_or_refuse() {
  bool kernel = false, own_memory = false;
  {
    MutexLock lock(inode_->mutex);
    kernel = !leaves_cache() && inode_->pages.draining(range_);
    own_memory = copies() && !anything_pending();
    const bool frees = kind_ == Kind::kChange && !request_.recall_only && request_.only_frees;
    if (!kernel && (frees || copies()) && policy_ != BusyPolicy::kRefuse) forced_ = unacknowledged();
  }
  if (kind_ == Kind::kFill) return finish(Status(Errc::kTimedOut), false);
  // A store cannot fail because the kernel writes a page back: it waits.
  if (kind_ == Kind::kFault && kernel) {
    recall_deadline_.reset();
    return keep_waiting_for_recall();
  }
  if (!kernel && (zeros_only() || own_memory || !forced_.empty())) return apply();
  finish(Status(Errc::kTextBusy, "a client does not give up its translation"), false);
}

void Break::keep_waiting_for_recall() { sleep({}, true); }

// Mutex held.
std::vector<HeldBack::Spec> Break::unacknowledged() const NO_THREAD_SAFETY_ANALYSIS {
  std::vector<HeldBack::Spec> specs;
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
    for (const Mapping::PendingRecall& p : m.pending) {
      const ByteRange r = intersect(p.range, range_);
      if (p.punchable && punch_reaches(m, r)) continue;  // punched before reuse, and out of reach from then on
      if (copies() && !p.pool) continue;                 // in the client's own memory
      if (!r.empty() && !exempt(m, r)) specs.push_back({m.shared_from_this(), r, std::nullopt, 0});
    }
  });
  return specs;
}

std::vector<HeldBack::Spec> Break::held_back_specs() const {
  std::vector<HeldBack::Spec> specs = forced_;
  for (const BusyPin& b : exempt_) {
    HeldBack::Spec spec{b.mapping, intersect(block_aligned(b.range), range_), std::nullopt, b.message_pin};
    if (b.message_pin == 0) spec.pin = b.pin;
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace pindax
