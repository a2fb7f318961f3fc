// SPDX-License-Identifier: BSD-3-Clause
//
// Holds: blocks that a file has given up although some client may still read them through a translation of that file (F4, forced).
// Where the file was the last owner they are in quarantine. Where it was not, the others keep them, and a hold keeps them as they
// are: a store by another owner copies the block as if there were one owner more (T2), and the last one's free goes to quarantine.
//
// Invariants
//  1. A hold begins with the commit of the transaction that gave the block up, and ends with that of its release, both under the lock of
//     this room's trees. So whoever counts owners under that lock sees the owner that goes or the hold that comes, never neither.
//  2. A block that is held is in use: owned, or in quarantine.
//
// A crash forgets them. The clients behind them are former clients then: until the last one's memory is gone nothing is freed, and every
// block that may have had other owners counts as shared (quarantine_all, D2).
#include "alloc/allocator_impl.h"

namespace pindax {
namespace {

ByteRange places(BlockRun run) { return {run.start.value, run.end().value}; }
BlockRun run_at(ByteRange r) { return {BlockNo(r.begin), r.length()}; }

}  // namespace

// The lock is held.
void AllocatorImpl::change_holds(BlockRun run, bool add) {
  std::vector<std::pair<ByteRange, u32>> now;
  u64 at = run.start.value;
  const auto gap = [&](u64 end) {
    if (add && at < end) now.push_back({{at, end}, 1});
  };
  holds_.each(places(run), [&](ByteRange r, u32 count) {
    gap(r.begin);
    now.push_back({r, add ? count + 1 : count - 1});
    at = r.end;
    return true;
  });
  gap(run.end().value);
  holds_.erase(places(run));
  for (const auto& [r, count] : now)
    if (count != 0) holds_.assign(r, count);
}

void AllocatorImpl::hold(Transaction& tx, BlockRun run) {
  lock_trees(tx);
  tx.on_commit([this, run](Lsn) { change_holds(run, true); });
}

Status AllocatorImpl::release_hold(Transaction& tx, BlockRun run) {
  lock_trees(tx);
  change_holds(run, false);
  return release_quarantine(tx, run);
}

std::vector<BlockRun> AllocatorImpl::held(Transaction& tx, BlockRun run) {
  lock_trees(tx);
  std::vector<BlockRun> found;
  holds_.each(places(run), [&](ByteRange r, u32) {
    found.push_back(run_at(r));
    return true;
  });
  return found;
}

// The lock is held.
std::vector<Allocator::OwnedRun> AllocatorImpl::with_holds(std::vector<OwnedRun> runs) const {
  if (quarantine_all_) {
    for (OwnedRun& r : runs) ++r.owners;
    return runs;
  }
  if (holds_.empty()) return runs;
  std::vector<OwnedRun> out;
  for (const OwnedRun& r : runs) {
    u64 at = r.run.start.value;
    const auto add = [&](u64 end, u64 owners) {
      if (at < end) out.push_back({run_at({at, end}), owners});
      at = end;
    };
    holds_.each(places(r.run), [&](ByteRange held, u32 count) {
      add(held.begin, r.owners);
      add(held.end, r.owners + count);
      return true;
    });
    add(r.run.end().value, r.owners);
  }
  return out;
}

}  // namespace pindax
