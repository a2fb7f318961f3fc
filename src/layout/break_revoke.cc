// SPDX-License-Identifier: BSD-3-Clause
//
// Break: revocation without the client ("Revocation" in docs/protocol.md). Where a change frees blocks that revocable clients
// translate, it is applied first, the blocks are punched out of the pool, and only then does anybody hear of it: the punch takes the
// entries out of every address space, and the next touch is a request that queues behind the range lock. No message, no answer.
//
// What makes it safe: a client's entries come from grants only. Those of the range were carried out (Mapping::revocable), no
// new ones are made while the lock is held, and the allocator reuses no block that was not punched (F5). What was not
// punched here (a part of a block that stays, a share given up, a record that is not durable yet) is recalled after the change.
#include "base/steps.h"
#include "layout/break.h"

namespace pindax {

void Mapping::forget_carried_out() {
  const u64 done = client->port->processed();
  while (!in_flight.empty() && in_flight.front().number <= done) in_flight.pop_front();
}

void Mapping::granted_as(u64 number, ByteRange r) {
  if (!client->port->revocable()) return;
  forget_carried_out();
  in_flight.push_back({number, r});
}

bool Mapping::revocable(ByteRange r) {
  if (removed || !client->port->revocable()) return false;
  forget_carried_out();
  return std::none_of(in_flight.begin(), in_flight.end(), [&](const InFlight& g) { return g.range.overlaps(r); });
}

void Mapping::revoked(ByteRange r) {
  std::vector<ByteRange> blocks;
  granted.each(r, [&](ByteRange piece, const Granted& g) {
    if (g.punchable()) blocks.push_back(piece);
    return true;
  });
  for (const ByteRange& piece : blocks) granted.erase(piece);
  std::erase_if(pending, [&](PendingRecall& p) {
    if (!p.punchable || !r.contains(p.range)) return false;
    MutexLock lock(client->mutex);
    client->recalls.erase(p.id);
    return true;
  });
}

// Mutex held. Not where the file shares blocks: others keep them, so there is nothing to punch.
bool Break::punch_reaches(Mapping& m, ByteRange r) const NO_THREAD_SAFETY_ANALYSIS {
  return may_revoke() && m.revocable(r) && !inode_->shared.any(r);
}

// Mutex held. Small ranges at once; a large one costs the punch more than an answer, and is revoked if none comes in time.
bool Break::revokes_at_once(Mapping& m, ByteRange r) const NO_THREAD_SAFETY_ANALYSIS {
  return r.length() <= kRevokeAtOnceBytes && punch_reaches(m, r);
}

bool Break::may_revoke() const {
  return kind_ == Kind::kChange && request_.reports_freed && request_.only_frees && !request_.recall_only &&
         core_.quarantine_owner.load() != nullptr;
}

// Mutex held, lock held, about to apply. What is to be punched, by mapping.
void Break::claim(ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS {
  claims_.clear();
  if (!may_revoke()) return;
  IntervalMap<bool> all;
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
    auto add = [&](ByteRange whole) {
      const IntervalMap<bool> wanted = without_exempt(m, whole);
      wanted.each(whole, [&](ByteRange r, bool) {
        if (!punch_reaches(m, r)) return true;
        claims_.push_back({m.shared_from_this(), r});
        all.assign(r, true);
        return true;
      });
    };
    m.granted.each(range_, [&](ByteRange r, const Mapping::Granted& g) {
      if (g.punchable()) add(r);
      return true;
    });
    for (const Mapping::PendingRecall& p : m.pending)
      if (p.punchable) add(intersect(p.range, range_));
  });
  for (const ByteRange& r : grant.to_quarantine) all.erase(block_aligned(r));
  all.each({0, kMaxOffset}, [&](ByteRange r, bool) { grant.claimed.push_back(r); return true; });
}

// After the change, lock held. True: some translations are still out, were recalled, and their answers are awaited.
bool Break::revoke(const std::vector<FreedRun>& freed, bool applied) {
  if (claims_.empty()) return false;
  PINDAX_STEP("break.freed");
  IntervalMap<bool> gone;
  QuarantineOwner* owner = core_.quarantine_owner.load();
  for (const FreedRun& f : freed)
    if (owner != nullptr && owner->punch_freed(f.block, f.length_blocks)) gone.assign(f.range, true);
  PINDAX_STEP("break.punched");
  MutexLock lock(inode_->mutex);
  for (const Claim& c : claims_) {
    std::vector<ByteRange> punched;
    gone.each(c.range, [&](ByteRange r, bool) { punched.push_back(r); return true; });
    for (const ByteRange& r : punched) c.mapping->revoked(r);
    if (!applied || c.mapping->removed) continue;
    core_.counts.revoked.fetch_add(punched.size(), std::memory_order_relaxed);
    IntervalMap<bool> left;
    left.assign(c.range, true);
    for (const ByteRange& r : punched) left.erase(r);
    std::vector<ByteRange> rest;
    left.each(c.range, [&](ByteRange r, bool) { rest.push_back(r); return true; });
    if (c.mapping->send_recall(rest, Mapping::RecallWhat::kAll)) recall_sent_ = true;
  }
  claims_.clear();
  if (!applied || !anything_pending()) return false;
  phase_ = Phase::kSettling;
  ++step_;
  arm(Clock::now() + core_.options.recall_bound);
  return true;
}

}  // namespace pindax
