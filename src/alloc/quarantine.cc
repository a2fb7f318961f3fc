// SPDX-License-Identifier: BSD-3-Clause
//
// Quarantine: freed blocks that may not be reused yet. Their bits stay set; a tree in the StateRecord remembers them, so that a
// later mount knows which to free. The lock of this room's trees (share counts are the others) belongs to a transaction from its
// first change until its end: rank kQuarantine, so a transaction that also changes the orphan list does that first.
#include <algorithm>
#include <cstring>

#include "alloc/allocator_impl.h"
#include "alloc/media_counts.h"
#include "alloc/tree_nodes.h"
#include "base/clock.h"
#include "fmt/format.h"

namespace pindax {

using format::QuarantineReason;
using format::QuarantineValue;

namespace {

TreeRef quarantine_tree(BlockNo root) { return {root, format::TreeKind::kQuarantine, 0}; }

// False if the item makes no sense.
bool unpack(u64 key, TreeBytes value, Allocator::QuarantinedRun& out) {
  if (!format::check_value(format::TreeKind::kQuarantine, value).ok()) return false;
  QuarantineValue v;
  std::memcpy(&v, value.data(), sizeof v);
  out.run = {BlockNo(key), v.length_blocks};
  out.since_ns = v.since_ns;
  out.reason = static_cast<QuarantineReason>(v.reason.get());
  return true;
}

Status corrupt(BlockNo at) {
  return Status(Errc::kCorrupt, fmt::format("quarantine record of block {} is damaged: run fsck", at.value));
}

}  // namespace

void AllocatorImpl::lock_trees(Transaction& tx) {
  if (trees_holder_.load(std::memory_order_relaxed) == &tx) return;
  trees_mutex_.lock();
  trees_holder_.store(&tx, std::memory_order_relaxed);
  pending_root_ = quarantine_root_;
  pending_blocks_ = quarantine_blocks_;
  quarantine_changed_ = false;
  pending_shares_.clear();
  tx.at_commit([this](Transaction& t) -> Status {
    if (quarantine_changed_) {
      PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
      state->quarantine_root = pending_root_.value;
      state->quarantine_blocks = pending_blocks_;
    }
    for (const auto& [ag, root] : pending_shares_) PINDAX_TRY(media_counts::set_shares_root(t, ag, root));
    return {};
  });
  tx.on_commit([this](Lsn) {
    quarantine_root_ = pending_root_;
    quarantine_blocks_ = pending_blocks_;
    for (const auto& [ag, root] : pending_shares_) group(ag).shares_root = root.value;
  });
  tx.at_end([this]() NO_THREAD_SAFETY_ANALYSIS {
    trees_holder_.store(nullptr, std::memory_order_relaxed);
    trees_mutex_.unlock();
  });
}

// The lock is held.
Status AllocatorImpl::put_quarantined(Transaction& tx, const QuarantinedRun& q) {
  if (q.run.length == 0) return {};
  quarantine_changed_ = true;
  QuarantineValue v{};
  v.length_blocks = q.run.length;
  v.since_ns = q.since_ns;
  v.reason = static_cast<u32>(q.reason);
  TreeNodes nodes(*this);
  TreeRef ref = quarantine_tree(pending_root_);
  const Status s = TreeWriter(tx, ref, nodes).insert(q.run.start.value, std::as_bytes(std::span(&v, 1)));
  pending_root_ = ref.root;
  return s;
}

Status AllocatorImpl::quarantine(Transaction& tx, BlockRun run, QuarantineReason reason) {
  if (!geometry_.is_data(run.start, run.length))
    return Status(Errc::kCorrupt, fmt::format("block {} is to be freed but holds no data: run fsck", run.start.value));
  lock_trees(tx);
  PINDAX_ASSIGN(const auto before, TreeReader(tx, quarantine_tree(pending_root_)).at_or_before(run.end().value - 1));
  QuarantinedRun other;
  if (before && !unpack(before->key, before->value, other)) return corrupt(BlockNo(before->key));
  if (before && other.run.end() > run.start)
    return Status(Errc::kCorrupt, fmt::format("block {} is in quarantine twice: run fsck", run.start.value));
  PINDAX_TRY(put_quarantined(tx, {run, wall_clock_ns(), reason}));
  pending_blocks_ += run.length;
  return {};
}

// The lock is held.
Status AllocatorImpl::free_quarantined(Transaction& tx, BlockRun run) {
  if (run.length == 0) return {};
  if (pending_blocks_ < run.length) return corrupt(run.start);
  pending_blocks_ -= run.length;
  free_now(tx, run, true);
  return {};
}

Status AllocatorImpl::release_quarantine(Transaction& tx, BlockRun run) {
  lock_trees(tx);
  // While former clients live, what a pin let go of still belongs to them.
  const bool keep = quarantine_all_;
  std::vector<QuarantinedRun> touched;
  bool damaged = false;
  TreeReader reader(tx, quarantine_tree(pending_root_));
  PINDAX_ASSIGN(const auto before, reader.at_or_before(run.start.value));
  PINDAX_TRY(reader.scan(before ? before->key : run.start.value, [&](u64 key, TreeBytes value) {
    if (key >= run.end().value) return false;
    QuarantinedRun q;
    damaged = !unpack(key, value, q);
    if (!damaged && q.run.end() > run.start) touched.push_back(q);
    return !damaged;
  }));
  if (damaged) return corrupt(run.start);
  TreeNodes nodes(*this);
  for (const QuarantinedRun& q : touched) {
    const BlockNo begin = std::max(q.run.start, run.start), end = std::min(q.run.end(), run.end());
    quarantine_changed_ = true;
    TreeRef ref = quarantine_tree(pending_root_);
    const Status erased = TreeWriter(tx, ref, nodes).erase(q.run.start.value);
    pending_root_ = ref.root;
    PINDAX_TRY(erased);
    PINDAX_TRY(put_quarantined(tx, {{q.run.start, begin - q.run.start}, q.since_ns, q.reason}));
    PINDAX_TRY(put_quarantined(tx, {{end, q.run.end() - end}, q.since_ns, q.reason}));
    const BlockRun middle{begin, end - begin};
    if (keep) {
      PINDAX_TRY(put_quarantined(tx, {middle, q.since_ns, QuarantineReason::kFormerClient}));
      continue;
    }
    u64 at = begin.value;
    for (const BlockRun& h : held(tx, middle)) {
      PINDAX_TRY(free_quarantined(tx, {BlockNo(at), h.start.value - at}));
      PINDAX_TRY(put_quarantined(tx, {h, q.since_ns, QuarantineReason::kPinned}));
      at = h.end().value;
    }
    PINDAX_TRY(free_quarantined(tx, {BlockNo(at), end.value - at}));
  }
  return {};
}

Result<std::vector<Allocator::QuarantinedRun>> AllocatorImpl::quarantined() {
  MutexLock lock(trees_mutex_);
  std::vector<QuarantinedRun> all;
  std::optional<BlockNo> damaged;
  PINDAX_TRY(TreeReader(store_, quarantine_tree(quarantine_root_)).scan(0, [&](u64 key, TreeBytes value) {
    QuarantinedRun q;
    if (unpack(key, value, q)) all.push_back(q);
    else damaged = BlockNo(key);
    return !damaged;
  }));
  if (damaged) return corrupt(*damaged);
  return all;
}

void AllocatorImpl::set_quarantine_all(bool on) {
  quarantine_all_ = on;
  if (!on) {
    resting_.former_clients_gone();
    return;
  }
  for (auto& slot : groups_) {
    Group* g = slot.load(std::memory_order_acquire);
    if (g == nullptr) continue;
    MutexLock lock(g->mutex);
    if (!g->loaded) continue;
    rest_free_space(*g, whole(g->ag), 1, true);
  }
}

}  // namespace pindax
