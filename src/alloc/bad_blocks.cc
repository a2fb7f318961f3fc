// SPDX-License-Identifier: BSD-3-Clause
//
// Blocks that the media cannot read back. A tree in the StateRecord lists them for good, a map has them in memory.
//
// Invariants
//  1. What is in the map is never handed out: it is taken out of a group's free space when the group is loaded, when it is about to
//     be handed out, and when it comes back (give_back). So it does not matter whether its bit is clear meanwhile.
//  2. A bad block that is out of the free space with its bit clear is "given up"; settle_bad() sets the bit and calls it retired,
//     in one transaction. Until then a crash leaves a record that says "in use" and a clear bit: the next load gives it up again.
//  3. Whoever has a bad block goes on having it, and frees it as any other. The list does not say who that is.
//
// note_bad() is called from the depth of whatever met the block, so it changes memory only and tells a listener. A crash before
// settle_bad() forgets the block; it will be met again.
#include <cstring>

#include "alloc/allocator_impl.h"
#include "alloc/media_counts.h"
#include "alloc/tree_nodes.h"
#include "base/clock.h"
#include "base/steps.h"
#include "fmt/format.h"

namespace pindax {

using format::BadBlockState;
using format::BadBlockValue;

namespace {

constexpr unsigned kBlocksAtOnce = 16;  // in one transaction: any journal takes it

TreeRef bad_tree(BlockNo root) { return {root, format::TreeKind::kBadBlocks, 0}; }

}  // namespace

Status AllocatorImpl::load_bad(const format::StateRecord& state) {
  bad_root_ = BlockNo(state.bad_root);
  std::map<u64, BadState> found;
  u64 retired = 0;
  std::optional<u64> damaged;
  PINDAX_TRY(TreeReader(store_, bad_tree(bad_root_)).scan(0, [&](u64 key, TreeBytes value) {
    BadBlockValue v;
    if (!format::check_value(format::TreeKind::kBadBlocks, value).ok() || key >= geometry_.pool_blocks) return damaged = key, false;
    std::memcpy(&v, value.data(), sizeof v);
    const bool is_retired = v.state == static_cast<u32>(BadBlockState::kRetired);
    retired += is_retired ? 1 : 0;
    found.emplace(key, BadState{.since_ns = v.since_ns, .recorded = true, .retired = is_retired});
    return true;
  }));
  if (damaged) return Status(Errc::kCorrupt, fmt::format("record of bad block {} is damaged: run fsck", *damaged));
  MutexLock lock(bad_mutex_);
  bad_ = std::move(found);
  bad_count_ = bad_.size();
  retired_count_ = retired;
  return {};
}

bool AllocatorImpl::note_bad(BlockNo block) {
  if (block.value >= geometry_.pool_blocks) return false;
  {
    MutexLock lock(bad_mutex_);
    if (!bad_.emplace(block.value, BadState{.since_ns = wall_clock_ns()}).second) return false;
    bad_count_.store(bad_.size(), std::memory_order_release);
  }
  tell_bad_listener();
  return true;
}

std::optional<BlockNo> AllocatorImpl::first_bad(BlockRun run) const {
  if (bad_count() == 0) return std::nullopt;
  MutexLock lock(bad_mutex_);
  const auto it = bad_.lower_bound(run.start.value);
  if (it == bad_.end() || it->first >= run.end().value) return std::nullopt;
  return BlockNo(it->first);
}

std::vector<Allocator::BadBlock> AllocatorImpl::bad_blocks() const {
  std::vector<BadBlock> all;
  MutexLock lock(bad_mutex_);
  for (const auto& [block, state] : bad_) all.push_back({BlockNo(block), state.retired || state.given_up, state.since_ns});
  return all;
}

void AllocatorImpl::set_bad_listener(std::function<void()> listener) {
  MutexLock lock(bad_mutex_);
  bad_listener_ = std::move(listener);
}

void AllocatorImpl::tell_bad_listener() {
  std::function<void()> listener;
  {
    MutexLock lock(bad_mutex_);
    listener = bad_listener_;
  }
  if (listener) listener();
}

// The block is out of the free space, its bit clear.
bool AllocatorImpl::give_up(BlockNo block) {
  {
    MutexLock lock(bad_mutex_);
    const auto it = bad_.find(block.value);
    if (it == bad_.end()) return false;
    it->second.given_up = true;
  }
  tell_bad_listener();
  return true;
}

void AllocatorImpl::take_bad_out(Group& g) {
  const u64 start = group_start(g);
  for (BlockRun rest{BlockNo(start), geometry_.ag_length(g.ag)}; rest.length != 0;) {
    const auto bad = first_bad(rest);
    if (!bad) return;
    if (g.space.take({bad->value, 1})) give_up(*bad);
    rest = {*bad + 1, rest.end() - (*bad + 1)};
  }
}

// A few blocks from `*from` on in one transaction. True: there may be more.
Result<bool> AllocatorImpl::settle_some(u64* from) {
  std::vector<std::pair<u64, BadState>> todo;
  {
    MutexLock lock(bad_mutex_);
    for (auto it = bad_.lower_bound(*from); it != bad_.end() && todo.size() < kBlocksAtOnce; ++it) {
      *from = it->first + 1;
      if (!it->second.recorded || it->second.given_up) todo.emplace_back(*it);
    }
  }
  if (todo.empty()) return false;
  Transaction tx(store_);
  lock_trees(tx);
  TreeRef ref = bad_tree(bad_root_);
  TreeNodes nodes(*this);
  TreeWriter writer(tx, ref, nodes);
  u64 added = 0, retired = 0;
  for (const auto& [block, state] : todo) {
    const bool retire = state.given_up && !state.retired;
    BadBlockValue v{};
    v.state = static_cast<u32>(state.given_up ? BadBlockState::kRetired : BadBlockState::kInUse);
    v.since_ns = state.since_ns;
    const TreeBytes bytes = std::as_bytes(std::span(&v, 1));
    PINDAX_TRY(state.recorded ? writer.replace(block, bytes) : writer.insert(block, bytes));
    added += state.recorded ? 0 : 1;
    retired += retire ? 1 : 0;
    if (state.given_up) tx.at_commit([run = BlockRun{BlockNo(block), 1}](Transaction& t) { return media_counts::allocate_blocks(t, run); });
  }
  tx.at_commit([root = ref.root, added, retired](Transaction& t) { return media_counts::count_bad(t, root, added, retired); });
  PINDAX_STEP("alloc.settle_bad");
  PINDAX_TRY(tx.commit());
  bad_root_ = ref.root;
  MutexLock lock(bad_mutex_);
  for (const auto& [block, state] : todo) {
    BadState& now = bad_.at(block);
    now.recorded = true;
    if (!state.given_up) continue;
    now.given_up = false;
    now.retired = true;
    --free_blocks_;
  }
  retired_count_ += retired;
  return true;
}

Status AllocatorImpl::settle_bad() {
  MutexLock one_at_a_time(settle_mutex_);
  Status hindered;
  // Free ones leave the free space first.
  for (const BadBlock& b : bad_blocks()) {
    if (b.retired || !geometry_.is_data(b.block, 1)) continue;
    Group& g = group(geometry_.ag_of(b.block));
    MutexLock lock(g.mutex);
    const Status loaded = load(g);
    if (!loaded.ok()) hindered = loaded;  // nothing of it is handed out either
    else if (g.space.take({b.block.value, 1})) give_up(b.block);
    if (loaded.ok()) g.free = g.space.total();
  }
  for (u64 from = 0;;) {
    PINDAX_ASSIGN(const bool more, settle_some(&from));
    if (!more) return hindered;
  }
}

}  // namespace pindax
