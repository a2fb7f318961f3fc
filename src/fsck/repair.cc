// SPDX-License-Identifier: BSD-3-Clause
#include "fsck/repair.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "alloc/media_counts.h"
#include "base/steps.h"
#include "fsck/expected.h"

namespace pindax::fsck_detail {

void Repair::note(Status s) {
  if (first_error_.ok() && !s.ok()) first_error_ = std::move(s);
}

Status Repair::change(const std::function<Status(Transaction&)>& work) {
  Transaction tx(store_);
  PINDAX_TRY(work(tx));
  if (tx.empty()) return {};
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("fsck.repaired");
  return {};
}

Status Repair::run() {
  salvage();
  PINDAX_TRY(fix_slots());
  for (u32 ag = 0; ag < c_.geometry().ag_count; ++ag) PINDAX_TRY(write_group(ag));
  PINDAX_TRY(write_state());
  PINDAX_ASSIGN(allocator_, Allocator::open(store_));
  for (const auto& [block, record] : c_.expected_bad_blocks()) (void)allocator_->note_bad(BlockNo(block));
  for (const Plan::TreeOf& t : plan_.trees) {
    if (t.kind == TreeKind::kQuarantine) note(rebuild_quarantine());
    else if (t.kind == TreeKind::kBadBlocks) note(rebuild_bad_blocks());
    else if (t.kind == TreeKind::kDirectory || t.kind == TreeKind::kExtents || t.kind == TreeKind::kXattrs)
      note(rebuild_inode_tree(t.owner, t.kind));
  }
  for (u32 ag = 0; ag < c_.geometry().ag_count; ++ag)
    if (plan_.shares.contains(ag) || plan_.trees.contains({ag, TreeKind::kRefcount})) note(rebuild_shares(ag));
  for (const auto& fix : plan_.erase_items) note(erase_item(fix));
  for (const auto& fix : plan_.drop_extents) note(drop_extent(fix));
  for (const auto& fix : plan_.clone_extents) note(clone_extent(fix));
  for (const auto& fix : plan_.entries) note(fix_entry(fix));
  for (const auto& [ino, fix] : plan_.slots) note(fix_counts(ino, fix));
  note(rebuild_parents());
  for (const u64 ino : plan_.attach) note(attach(ino));
  if (plan_.rebuild_orphans) note(rebuild_orphans());
  note(allocator_->reclaim());
  allocator_.reset();
  return first_error_;
}

// ---- Slots ----------------------------------------------------------------------------------------------------------

namespace {

void seal_slot(std::byte* p) { format::seal(*reinterpret_cast<format::Inode*>(p)); }
void seal_bits(std::byte* p) { format::seal(*reinterpret_cast<format::BitmapBlock*>(p)); }
void seal_ag(std::byte* p) { format::seal(*reinterpret_cast<format::AgHeader*>(p)); }
void seal_state(std::byte* p) { format::seal(*reinterpret_cast<format::StateRecord*>(p)); }

void init_slot(format::Inode& slot, u64 ino, u32 generation) {
  slot = {};
  slot.magic = format::kInodeMagic;
  slot.version = static_cast<u16>(format::kVersion);
  slot.self = ino;
  slot.generation = generation;
}

}  // namespace

Status Repair::fix_slots() {
  const auto with_slot = [&](u64 ino, const std::function<void(format::Inode&)>& edit) {
    return change([&](Transaction& tx) -> Status {
      PINDAX_ASSIGN(std::byte * bytes, tx.modify(format::inode_offset(InodeNo(ino)), format::kInodeSize, seal_slot));
      edit(*reinterpret_cast<format::Inode*>(bytes));
      return {};
    });
  };
  for (const u64 ino : plan_.reseal) PINDAX_TRY(with_slot(ino, [](format::Inode&) {}));
  for (const u64 ino : plan_.clear)
    PINDAX_TRY(with_slot(ino, [&](format::Inode& slot) { init_slot(slot, ino, static_cast<u32>(c_.max_generation())); }));
  if (!plan_.new_root) return {};
  const u64 root = c_.superblock().root_inode;
  PINDAX_TRY(with_slot(root, [&](format::Inode& slot) {
    init_slot(slot, root, static_cast<u32>(c_.max_generation() + 1));
    slot.mode = S_IFDIR | 0755;
    slot.links = 2;
    slot.data_kind = static_cast<u16>(DataKind::kTree);
  }));
  c_.facts(root)->mode = S_IFDIR | 0755;
  c_.facts(root)->links = 2;
  return {};
}

// ---- Bitmaps and counts ---------------------------------------------------------------------------------------------

Status Repair::write_group(u32 ag) {
  const format::Geometry& g = c_.geometry();
  u64 free_blocks = 0;
  const auto write_bitmap = [&](u32 index, u32 kind, const u8* bits) -> Status {
    const BlockNo self = kind == media_counts::kBlockBitmap ? g.bitmap(ag, index) : g.inode_bitmap(ag, index);
    const auto old = media_counts::read_bitmap(store_, ag, index, kind);
    if (old.ok() && std::memcmp(old->as<format::BitmapBlock>().bits, bits, sizeof(format::BitmapBlock::bits)) == 0) return {};
    return change([&](Transaction& tx) -> Status {
      auto& b = *reinterpret_cast<format::BitmapBlock*>(tx.modify_new(block_offset(self), seal_bits));
      b.magic = format::kBitmapMagic;
      b.version = format::kVersion;
      b.self_block = self.value;
      b.ag = ag;
      b.index = index;
      b.kind = kind;
      std::memcpy(b.bits, bits, sizeof b.bits);
      return {};
    });
  };
  u8 bits[sizeof(format::BitmapBlock::bits)];
  for (u32 index = 0; index < g.bitmap_blocks(ag); ++index) {
    expected_blocks(g, c_.used(), ag, index, bits);
    for (const u8 byte : bits) free_blocks += 8 - static_cast<u64>(std::popcount(byte));
    PINDAX_TRY(write_bitmap(index, media_counts::kBlockBitmap, bits));
    expected_inode_blocks(g, c_.inode_blocks(), ag, index, bits);
    PINDAX_TRY(write_bitmap(index, media_counts::kInodeBitmap, bits));
  }
  const GroupCounts counts = expected_counts(c_, ag);
  return change([&](Transaction& tx) -> Status {
    const BlockNo self = g.ag_header(ag);
    format::AgHeader want{};
    want.magic = format::kAgMagic;
    want.version = format::kVersion;
    want.self_block = self.value;
    want.ag = ag;
    want.bitmap_blocks = g.bitmap_blocks(ag);
    want.blocks = g.ag_length(ag);
    want.bitmap_block = g.bitmap(ag, 0).value;
    want.inode_bitmap_block = g.inode_bitmap(ag, 0).value;
    want.first_data_block = g.first_data(ag).value;
    want.free_blocks = free_blocks;
    want.inode_blocks = counts.inode_blocks;
    want.free_inodes = counts.free_inodes;
    want.refcount_root = c_.refcount_root(ag);  // until the new tree is there
    // The tree of owners is a hook: nothing rests on it.
    if (!plan_.trees.contains({ag, TreeKind::kReverse})) want.reverse_map_root = c_.reverse_root(ag);
    format::seal(want);
    PINDAX_ASSIGN(MetaView old, store_.view(block_offset(self), sizeof want));
    if (std::memcmp(old.data(), &want, sizeof want) == 0) return {};
    PINDAX_ASSIGN(std::byte * bytes, tx.modify(block_offset(self), sizeof want, seal_ag));
    std::memcpy(bytes, &want, sizeof want);
    return {};
  });
}

Status Repair::write_state() {
  const format::Geometry& g = c_.geometry();
  format::StateRecord want = c_.state();  // zeros if it could not be read: its trees are built anew
  want.magic = format::kStateMagic;
  want.version = format::kVersion;
  want.self_block = g.state_block;
  want.free_blocks = 0;
  for (u32 ag = 0; ag < g.ag_count; ++ag) {
    PINDAX_ASSIGN(MetaView header, media_counts::read_header(store_, ag));
    want.free_blocks += header.as<format::AgHeader>().free_blocks;
  }
  want.inodes_used = 0;
  c_.each_inode([&](u64, const InodeFacts&) { want.inodes_used += 1; });
  want.inodes_allocated = c_.inode_blocks().size() * format::kInodesPerBlock;
  want.next_generation = std::max<u64>(want.next_generation, c_.max_generation() + 2);
  if (plan_.rebuild_orphans) {
    want.orphan_root = 0;
    want.orphan_count = 0;
  }
  // A quarantine that must be built anew is read by way of its old root, which the transaction after this one replaces.
  if (!plan_.trees.contains({0, TreeKind::kQuarantine})) want.quarantine_blocks = c_.quarantined();
  // A list that must be built anew is none until then; the allocator hears of its blocks from the walk.
  const bool new_list = plan_.trees.contains({0, TreeKind::kBadBlocks});
  if (new_list) want.bad_root = 0;
  want.bad_blocks = new_list ? 0 : c_.expected_bad_blocks().size();
  want.retired_blocks = new_list ? 0 : c_.retired_blocks();
  format::seal(want);
  return change([&](Transaction& tx) -> Status {
    const PoolOffset at = block_offset(BlockNo(g.state_block));
    PINDAX_ASSIGN(MetaView old, store_.view(at, sizeof want));
    if (std::memcmp(old.data(), &want, sizeof want) == 0) return {};
    PINDAX_ASSIGN(std::byte * bytes, tx.modify(at, sizeof want, seal_state));
    std::memcpy(bytes, &want, sizeof want);
    return {};
  });
}

}  // namespace pindax::fsck_detail
