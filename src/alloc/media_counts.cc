// SPDX-License-Identifier: BSD-3-Clause
#include "alloc/media_counts.h"

#include <algorithm>
#include <cstring>

#include "fmt/format.h"

namespace pindax::media_counts {
namespace {

using format::AgHeader;
using format::BitmapBlock;

void seal_bitmap(std::byte* p) { format::seal(*reinterpret_cast<BitmapBlock*>(p)); }
void seal_header(std::byte* p) { format::seal(*reinterpret_cast<AgHeader*>(p)); }

BlockNo bitmap_place(const format::Geometry& g, u32 ag, u32 index, u32 kind) {
  return kind == kBlockBitmap ? g.bitmap(ag, index) : g.inode_bitmap(ag, index);
}

Result<BitmapBlock*> change_bitmap(Transaction& tx, u32 ag, u32 index, u32 kind) {
  const BlockNo self = bitmap_place(tx.store().geometry(), ag, index, kind);
  const PoolOffset at = block_offset(self);
  if (!tx.modified(at)) {
    PINDAX_ASSIGN(const std::byte* bytes, tx.read(at, kBlockSize));
    PINDAX_TRY(format::check_bitmap(*reinterpret_cast<const BitmapBlock*>(bytes), ag, index, kind, self));
  }
  PINDAX_ASSIGN(std::byte * bytes, tx.modify(at, kBlockSize, seal_bitmap));
  return reinterpret_cast<BitmapBlock*>(bytes);
}

Result<AgHeader*> change_header(Transaction& tx, u32 ag) {
  const BlockNo self = tx.store().geometry().ag_header(ag);
  const PoolOffset at = block_offset(self);
  if (!tx.modified(at)) {
    PINDAX_ASSIGN(const std::byte* bytes, tx.read(at, sizeof(AgHeader)));
    PINDAX_TRY(format::check_ag(*reinterpret_cast<const AgHeader*>(bytes), ag, self));
  }
  PINDAX_ASSIGN(std::byte * bytes, tx.modify(at, sizeof(AgHeader), seal_header));
  return reinterpret_cast<AgHeader*>(bytes);
}

// Turns bits [begin, end) of one bitmap block from !set to set; false if one of them was not !set.
bool turn_bits(u8* bits, u32 begin, u32 end, bool set) {
  const u8 old_byte = set ? 0 : 0xff;
  while (begin < end) {
    const u32 bit = begin % 8;
    if (bit == 0 && end - begin >= 8) {
      u8* const at = bits + begin / 8;
      const u32 bytes = (end - begin) / 8;
      if (at[0] != old_byte || std::memcmp(at, at + 1, bytes - 1) != 0) return false;
      std::memset(at, set ? 0xff : 0, bytes);
      begin += bytes * 8;
      continue;
    }
    const u32 n = std::min(8 - bit, end - begin);
    const u8 mask = static_cast<u8>(((1u << n) - 1) << bit);
    u8& byte = bits[begin / 8];
    if ((byte & mask) != (set ? 0 : mask)) return false;
    byte = static_cast<u8>(byte ^ mask);
    begin += n;
  }
  return true;
}

Status turn_run(Transaction& tx, BlockRun run, u32 kind, bool set) {
  const format::Geometry& g = tx.store().geometry();
  const u32 ag = g.ag_of(run.start);
  u64 bit = run.start.value - g.ag_start(ag);
  const u64 end = bit + run.length;
  while (bit < end) {
    const u32 index = static_cast<u32>(bit / format::kBitmapBits);
    const u64 stop = std::min(end, u64{index + 1} * format::kBitmapBits);
    PINDAX_ASSIGN(BitmapBlock * block, change_bitmap(tx, ag, index, kind));
    if (!turn_bits(block->bits, static_cast<u32>(bit % format::kBitmapBits),
                   static_cast<u32>(stop - u64{index} * format::kBitmapBits), set))
      return Status(Errc::kCorrupt, fmt::format("bitmap of allocation group {}: blocks from {} are not all {}: run fsck",
                                                ag, run.start.value, set ? "free" : "allocated"));
    bit = stop;
  }
  return {};
}

// count += delta, kCorrupt below zero.
Status shift(le64& count, i64 delta, const char* what) {
  if (delta < 0 && count.get() < static_cast<u64>(-delta))
    return Status(Errc::kCorrupt, fmt::format("{} would fall below zero: run fsck", what));
  count = count.get() + static_cast<u64>(delta);
  return {};
}

Status count_blocks(Transaction& tx, u32 ag, i64 delta) {
  PINDAX_ASSIGN(AgHeader * header, change_header(tx, ag));
  PINDAX_ASSIGN(format::StateRecord * state, modify_state(tx));
  PINDAX_TRY(shift(header->free_blocks, delta, "free blocks of an allocation group"));
  return shift(state->free_blocks, delta, "free blocks");
}

}  // namespace

Status allocate_blocks(Transaction& tx, BlockRun run) {
  PINDAX_TRY(turn_run(tx, run, kBlockBitmap, true));
  return count_blocks(tx, tx.store().geometry().ag_of(run.start), -static_cast<i64>(run.length));
}

Status free_blocks(Transaction& tx, BlockRun run) {
  PINDAX_TRY(turn_run(tx, run, kBlockBitmap, false));
  return count_blocks(tx, tx.store().geometry().ag_of(run.start), static_cast<i64>(run.length));
}

Status add_inode_block(Transaction& tx, BlockNo block) {
  PINDAX_TRY(turn_run(tx, {block, 1}, kInodeBitmap, true));
  PINDAX_ASSIGN(AgHeader * header, change_header(tx, tx.store().geometry().ag_of(block)));
  PINDAX_ASSIGN(format::StateRecord * state, modify_state(tx));
  header->inode_blocks += 1;
  header->free_inodes += format::kInodesPerBlock;
  state->inodes_allocated += format::kInodesPerBlock;
  return {};
}

Status count_inode(Transaction& tx, u32 ag, int used) {
  PINDAX_ASSIGN(AgHeader * header, change_header(tx, ag));
  PINDAX_ASSIGN(format::StateRecord * state, modify_state(tx));
  PINDAX_TRY(shift(header->free_inodes, -used, "free inodes of an allocation group"));
  return shift(state->inodes_used, used, "used inodes");
}

Status set_shares_root(Transaction& tx, u32 ag, BlockNo root) {
  PINDAX_ASSIGN(AgHeader * header, change_header(tx, ag));
  header->refcount_root = root.value;
  return {};
}

Status count_bad(Transaction& tx, BlockNo root, u64 added, u64 retired) {
  PINDAX_ASSIGN(format::StateRecord * state, modify_state(tx));
  state->bad_root = root.value;
  state->bad_blocks += added;
  state->retired_blocks += retired;
  return {};
}

Status raise_generation(Transaction& tx, u64 next) {
  PINDAX_ASSIGN(format::StateRecord * state, modify_state(tx));
  if (state->next_generation < next) state->next_generation = next;
  return {};
}

Result<MetaView> read_bitmap(MetaStore& store, u32 ag, u32 index, u32 kind) {
  const BlockNo self = bitmap_place(store.geometry(), ag, index, kind);
  PINDAX_ASSIGN(MetaView view, store.view(block_offset(self), kBlockSize));
  PINDAX_TRY(format::check_bitmap(view.as<BitmapBlock>(), ag, index, kind, self));
  return view;
}

Result<MetaView> read_header(MetaStore& store, u32 ag) {
  const BlockNo self = store.geometry().ag_header(ag);
  PINDAX_ASSIGN(MetaView view, store.view(block_offset(self), sizeof(AgHeader)));
  PINDAX_TRY(format::check_ag(view.as<AgHeader>(), ag, self));
  return view;
}

}  // namespace pindax::media_counts
