// SPDX-License-Identifier: BSD-3-Clause
//
// Share counts: how many extents own a block. A tree in each AG header, by first block, for runs of two owners and
// more; every other allocated block has one.
//
// Invariants
//  1. Records do not overlap, none is empty or crosses its group, none says fewer than two; neighbours that are
//     equal are one.
//  2. A count changes in the transaction that changes the extent which it counts: a crash leaves both or neither.
//  3. T2: counting down and testing are one step, under the lock of this room's trees, which the transaction holds
//     until its end. So of two owners that let go at once exactly one is told that it was the last (R29).
#include <algorithm>
#include <cstring>

#include "alloc/allocator_impl.h"
#include "alloc/tree_nodes.h"
#include "fmt/format.h"

namespace pindax {
namespace {

constexpr u64 kMostOwners = ~u32{0};
constexpr unsigned kRecordsAtOnce = 16;  // of one step: so many changes of records fit into any journal

struct Share {
  u64 begin = 0, end = 0;  // blocks
  u64 owners = 0;
  bool operator==(const Share&) const = default;
};

Status corrupt(u64 block) {
  return Status(Errc::kCorrupt, fmt::format("share count of block {} is damaged: run fsck", block));
}

// The records that touch [begin, end] (neighbours included), at most `most` of those that begin inside it.
Result<std::vector<Share>> records(TreeReader reader, const format::Geometry& g, u64 begin, u64 end,
                                   unsigned most) {
  std::vector<Share> found;
  std::optional<u64> damaged;
  const auto take = [&](u64 key, TreeBytes value) {
    format::RefcountValue v;
    if (!format::check_value(format::TreeKind::kRefcount, value).ok()) return damaged = key, false;
    std::memcpy(&v, value.data(), sizeof v);
    const Share s{key, key + v.length_blocks, v.owners};
    if (v.length_blocks == 0 || s.owners < 2 || !g.is_data(BlockNo(key), v.length_blocks) ||
        (!found.empty() && found.back().end > key))
      return damaged = key, false;
    if (s.end >= begin) found.push_back(s);
    return true;
  };
  PINDAX_ASSIGN(const auto before, reader.at_or_before(begin - 1));
  if (before) take(before->key, before->value);
  unsigned seen = 0;
  if (!damaged)
    PINDAX_TRY(reader.scan(
        begin, [&](u64 key, TreeBytes value) { return key <= end && seen++ < most && take(key, value); }));
  if (damaged) return corrupt(*damaged);
  return found;
}

// Adds [begin, end) to a list of neighbours, if it is worth a record.
void append(std::vector<Share>& list, u64 begin, u64 end, u64 owners) {
  if (begin >= end || owners < 2) return;
  if (!list.empty() && list.back().end == begin && list.back().owners == owners)
    list.back().end = end;
  else
    list.push_back({begin, end, owners});
}

}  // namespace

Result<TreeRef> AllocatorImpl::shares_tree(BlockRun run, Transaction* tx) {
  if (run.length == 0 || !geometry_.is_data(run.start, run.length)) return corrupt(run.start.value);
  Group& g = group(geometry_.ag_of(run.start));
  {
    MutexLock lock(g.mutex);
    PINDAX_TRY(load(g));
  }
  BlockNo root(g.shares_root.load());
  if (tx != nullptr && trees_holder_.load(std::memory_order_relaxed) == tx)
    if (const auto it = pending_shares_.find(g.ag); it != pending_shares_.end()) root = it->second;
  return TreeRef{root, format::TreeKind::kRefcount, g.ag};
}

Result<std::vector<Allocator::OwnedRun>> AllocatorImpl::owners(BlockRun run,
                                                               Transaction* tx) NO_THREAD_SAFETY_ANALYSIS {
  const bool mine = tx != nullptr && trees_holder_.load(std::memory_order_relaxed) == tx;
  if (!mine) trees_mutex_.lock();
  Result<std::vector<Share>> found = std::vector<Share>();
  if (const Result<TreeRef> ref = shares_tree(run, tx); !ref.ok())
    found = ref.status();
  else if (ref->root.value != 0)
    found = records(mine ? TreeReader(*tx, *ref) : TreeReader(store_, *ref), geometry_, run.start.value,
                    run.end().value - 1, ~0u);
  std::vector<OwnedRun> out;
  u64 at = run.start.value;
  for (const Share& s : found.ok() ? *found : std::vector<Share>()) {
    const u64 begin = std::max(s.begin, at), end = std::min(s.end, run.end().value);
    if (begin >= end) continue;
    if (at < begin) out.push_back({{BlockNo(at), begin - at}, 1});
    out.push_back({{BlockNo(begin), end - begin}, s.owners});
    at = end;
  }
  if (at < run.end().value) out.push_back({{BlockNo(at), run.end().value - at}, 1});
  out = with_holds(std::move(out));
  if (!mine) trees_mutex_.unlock();
  if (!found.ok()) return found.status();
  return out;
}

Result<u64> AllocatorImpl::countable(Transaction& tx, BlockRun run) {
  lock_trees(tx);
  PINDAX_ASSIGN(const TreeRef ref, shares_tree(run, &tx));
  if (ref.root.value == 0) return run.length;
  PINDAX_ASSIGN(const auto found, records(TreeReader(tx, ref), geometry_, run.start.value,
                                          run.end().value - 1, kRecordsAtOnce));
  if (found.size() < kRecordsAtOnce) return run.length;
  return std::min(run.end().value, found.back().end) - run.start.value;
}

Status AllocatorImpl::change_owners(Transaction& tx, BlockRun run, bool add, std::vector<BlockRun>* last) {
  lock_trees(tx);
  PINDAX_ASSIGN(TreeRef ref, shares_tree(run, &tx));
  const u64 begin = run.start.value, end = run.end().value;
  std::vector<Share> old;
  if (ref.root.value != 0) {
    PINDAX_ASSIGN(old, records(TreeReader(tx, ref), geometry_, begin, end, ~0u));
  }

  std::vector<Share> now;
  u64 at = begin;  // up to where the run is done
  const auto change = [&](u64 to, u64 owners) {
    if (at >= to) return;
    if (add)
      append(now, at, to, owners + 1);
    else if (owners > 1)
      append(now, at, to, owners - 1);
    else
      last->push_back({BlockNo(at), to - at});
    at = to;
  };
  for (const Share& s : old) {
    append(now, s.begin, std::min(s.end, begin), s.owners);
    if (s.begin < end) {
      change(std::min(s.begin, end), 1);
      if (add && s.owners == kMostOwners && s.end > begin)
        return Status(Errc::kTooManyLinks, "a block has too many owners");
      change(std::min(s.end, end), s.owners);
    } else {
      change(end, 1);
    }
    append(now, std::max(s.begin, end), s.end, s.owners);
  }
  change(end, 1);

  TreeNodes nodes(*this);
  TreeWriter writer(tx, ref, nodes);
  Status status;
  const auto has = [](const std::vector<Share>& list, u64 key) {
    return std::any_of(list.begin(), list.end(), [&](const Share& s) { return s.begin == key; });
  };
  for (const Share& s : old)
    if (status.ok() && !has(now, s.begin)) status = writer.erase(s.begin);
  for (const Share& s : now) {
    if (!status.ok() || std::find(old.begin(), old.end(), s) != old.end()) continue;
    const format::RefcountValue v{static_cast<u32>(s.end - s.begin), static_cast<u32>(s.owners)};
    const TreeBytes bytes = std::as_bytes(std::span(&v, 1));
    status = has(old, s.begin) ? writer.replace(s.begin, bytes) : writer.insert(s.begin, bytes);
  }
  pending_shares_[static_cast<u32>(ref.owner)] = ref.root;
  return status;
}

Status AllocatorImpl::add_owner(Transaction& tx, BlockRun run) {
  return change_owners(tx, run, true, nullptr);
}

Status AllocatorImpl::drop_owner(Transaction& tx, BlockRun run, std::vector<BlockRun>* last) {
  return change_owners(tx, run, false, last);
}

}  // namespace pindax
