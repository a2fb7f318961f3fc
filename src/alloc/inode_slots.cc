// SPDX-License-Identifier: BSD-3-Clause
//
// Inode slots. A group's inode blocks are known from its inode bitmap; their slots are looked at one block at a time, when
// no free slot is known. A slot that was handed out is in use until its transaction aborts; one that was freed is in use until
// its transaction commits. When there is no free slot, a block of eight new ones is added in a transaction of its own,
// so that everybody can use them at once.
#include "alloc/allocator_impl.h"
#include "alloc/media_counts.h"
#include "base/steps.h"

namespace pindax {
namespace {

using format::kInodesPerBlock;

InodeNo slot_number(u64 block, u32 slot) { return InodeNo(block * kInodesPerBlock + slot); }

void seal_slots(std::byte* block) {
  for (u32 i = 0; i < kInodesPerBlock; ++i)
    format::seal(reinterpret_cast<format::Inode*>(block)[i]);
}

}  // namespace

Status AllocatorImpl::load_inodes(Group& g) {
  if (g.inodes_loaded) return {};
  PINDAX_TRY(load(g));
  SparseBits bits;
  for (u32 index = 0; index < geometry_.bitmap_blocks(g.ag); ++index) {
    PINDAX_ASSIGN(MetaView view, media_counts::read_bitmap(store_, g.ag, index, media_counts::kInodeBitmap));
    bits.load(index, view.as<format::BitmapBlock>().bits);
    g.unexamined.load(index, view.as<format::BitmapBlock>().bits);
  }
  g.inode_blocks = std::move(bits);
  g.inodes_loaded = true;
  return {};
}

// Looks at the next inode blocks until a free slot is found or all were seen.
Status AllocatorImpl::examine(Group& g) {
  const u64 start = group_start(g);
  while (g.free_slots.empty()) {
    const u64 bit = g.unexamined.next_set(g.examine_from);
    if (bit == ~u64{0} || bit >= geometry_.ag_length(g.ag)) {
      g.examine_from = geometry_.ag_length(g.ag);
      return {};
    }
    // Used slots change under their owners' locks meanwhile: a copy. What is free, and freed by nobody, stands still.
    alignas(format::Inode) std::byte bytes[kBlockSize];
    PINDAX_TRY(store_.copy(block_offset(BlockNo(start + bit)), kBlockSize, bytes));
    for (u32 i = kInodesPerBlock; i-- > 0;) {
      const InodeNo ino = slot_number(start + bit, i);
      const auto& slot = *reinterpret_cast<const format::Inode*>(bytes + i * format::kInodeSize);
      // A damaged slot is left alone.
      if (slot.mode == 0 && !g.freeing.contains(ino.value) && format::check_inode(slot, ino).ok())
        g.free_slots.push_back(ino);
    }
    g.unexamined.clear(bit);
    g.examine_from = bit + 1;
  }
  return {};
}

Result<std::optional<InodeNo>> AllocatorImpl::take_slot(Group& g) {
  MutexLock lock(g.mutex);
  PINDAX_TRY(load_inodes(g));
  PINDAX_TRY(examine(g));
  if (g.free_slots.empty()) return std::optional<InodeNo>();
  const InodeNo ino = g.free_slots.back();
  g.free_slots.pop_back();
  return std::optional<InodeNo>(ino);
}

Status AllocatorImpl::add_inode_block(Group& near) {
  Transaction tx(store_);
  AllocateRequest request;
  request.near = BlockNo(group_start(near) + 1);
  request.use = BlockUse::kMetadata;
  PINDAX_ASSIGN(const BlockRun run, allocate(tx, request));
  Group& g = group(geometry_.ag_of(run.start));
  const u64 bit = run.start.value - group_start(g);
  {
    MutexLock lock(g.mutex);
    PINDAX_TRY(load_inodes(g));
    if (g.inode_blocks.test(bit)) return Status(Errc::kCorrupt, "a free block is marked as inode block: run fsck");
  }
  auto* slots = reinterpret_cast<format::Inode*>(tx.modify_new(block_offset(run.start), seal_slots));
  for (u32 i = 0; i < kInodesPerBlock; ++i) {
    slots[i].magic = format::kInodeMagic;
    slots[i].version = static_cast<u16>(format::kVersion);
    slots[i].self = slot_number(run.start.value, i).value;
  }
  tx.at_commit([block = run.start](Transaction& t) { return media_counts::add_inode_block(t, block); });
  PINDAX_STEP("alloc.inode_block");
  PINDAX_TRY(tx.commit());
  MutexLock lock(g.mutex);
  g.inode_blocks.set(bit);
  for (u32 i = kInodesPerBlock; i-- > 0;) g.free_slots.push_back(slot_number(run.start.value, i));
  inodes_allocated_ += kInodesPerBlock;
  near.overflow.store(g.ag, std::memory_order_relaxed);
  return {};
}

Result<InodeNo> AllocatorImpl::allocate_inode(Transaction& tx, InodeNo near) {
  const BlockNo near_block(near.value / kInodesPerBlock);
  const u32 first = near_block.value < geometry_.pool_blocks ? geometry_.ag_of(near_block) : 0;
  std::optional<InodeNo> ino;
  Status added;
  // Others may take what was added: so more than one round, but not forever.
  for (int round = 0; round < 8 && !ino; ++round) {
    PINDAX_ASSIGN(ino, take_slot(group(first)));
    if (ino) break;
    // The group is full: use up what was added elsewhere on its behalf before adding more.
    const u32 overflow = group(first).overflow.load(std::memory_order_relaxed);
    if (overflow != first) {
      PINDAX_ASSIGN(ino, take_slot(group(overflow)));
      if (ino) break;
    }
    added = add_inode_block(group(first));
    if (!added.ok()) break;
  }
  for (u32 i = 1; i <= geometry_.ag_count && !ino; ++i) {
    PINDAX_ASSIGN(ino, take_slot(group((first + i) % geometry_.ag_count)));
  }
  if (!ino) {
    if (added.ok() || added.code() == Errc::kNoSpace) return Status(Errc::kNoInodes, "no room for another inode block");
    return added;
  }
  ++inodes_used_;
  Group& g = group(geometry_.ag_of(BlockNo(format::inode_block(*ino))));
  tx.at_commit([ag = g.ag](Transaction& t) { return media_counts::count_inode(t, ag, 1); });
  tx.on_abort([this, &g, taken = *ino] {
    --inodes_used_;
    MutexLock lock(g.mutex);
    g.free_slots.push_back(taken);
  });
  return *ino;
}

void AllocatorImpl::free_inode(Transaction& tx, InodeNo ino) {
  Status s;
  const BlockNo block(format::inode_block(ino));
  if (!geometry_.is_data(block, 1)) {
    s = Status(Errc::kCorrupt, "an inode to be freed is outside the pool");
  } else {
    Group& g = group(geometry_.ag_of(block));
    MutexLock lock(g.mutex);
    s = load_inodes(g);
    if (s.ok() && !g.inode_blocks.test(block.value - group_start(g)))
      s = Status(Errc::kCorrupt, "an inode to be freed is not in an inode block: run fsck");
    if (s.ok()) g.freeing.insert(ino.value);
  }
  if (s.ok()) {
    auto slot = modify_inode(tx, ino);
    if (slot.ok()) (*slot)->mode = 0;
    s = slot.status();
  }
  if (!s.ok()) {
    tx.at_commit([s](Transaction&) { return s; });
    return;
  }
  Group& g = group(geometry_.ag_of(block));
  tx.at_commit([ag = g.ag](Transaction& t) { return media_counts::count_inode(t, ag, -1); });
  tx.on_commit([this, &g, ino, bit = block.value - group_start(g)](Lsn) {
    --inodes_used_;
    MutexLock lock(g.mutex);
    g.freeing.erase(ino.value);
    // An unexamined block shows the slot when its turn comes.
    if (!g.unexamined.test(bit)) g.free_slots.push_back(ino);
  });
  tx.on_abort([&g, ino] {
    MutexLock lock(g.mutex);
    g.freeing.erase(ino.value);
  });
}

Result<bool> AllocatorImpl::is_inode_block(BlockNo block) {
  if (!geometry_.is_data(block, 1)) return false;
  Group& g = group(geometry_.ag_of(block));
  MutexLock lock(g.mutex);
  PINDAX_TRY(load_inodes(g));
  return g.inode_blocks.test(block.value - group_start(g));
}

Result<std::optional<BlockNo>> AllocatorImpl::next_inode_block(BlockNo from) {
  if (from.value >= geometry_.pool_blocks) return std::optional<BlockNo>();
  for (u32 ag = geometry_.ag_of(from); ag < geometry_.ag_count; ++ag) {
    Group& g = group(ag);
    const u64 start = group_start(g);
    MutexLock lock(g.mutex);
    PINDAX_TRY(load_inodes(g));
    const u64 bit = g.inode_blocks.next_set(from.value > start ? from.value - start : 0);
    if (bit < geometry_.ag_length(ag)) return std::optional(BlockNo(start + bit));
  }
  return std::optional<BlockNo>();
}

Result<u32> AllocatorImpl::next_generation(Transaction& tx) {
  u64 given;
  do given = next_generation_.fetch_add(1);
  while (static_cast<u32>(given) == 0);  // 0 means "any" to those who ask for an inode
  tx.at_commit([given](Transaction& t) { return media_counts::raise_generation(t, given + 1); });
  return static_cast<u32>(given);
}

}  // namespace pindax
