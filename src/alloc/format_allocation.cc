// SPDX-License-Identifier: BSD-3-Clause
//
// mkfs: AG headers, bitmaps and the StateRecord of an empty pool. Every bitmap block is written: all are checksummed.
#include <array>

#include "alloc/allocator.h"
#include "alloc/format_group.h"

namespace pindax {
namespace {

using format::BitmapBlock;
using format::Geometry;

// Bitmap block `index` of a group of which only blocks [first, length) are free.
void fill_bitmap(BitmapBlock& b, const Geometry& g, u32 ag, u32 index, u32 kind, BlockNo self) {
  b = {};
  b.magic = format::kBitmapMagic;
  b.version = format::kVersion;
  b.self_block = self.value;
  b.ag = ag;
  b.index = index;
  b.kind = kind;
  if (kind == 1) {
    const u64 first = g.first_data(ag).value - g.ag_start(ag), length = g.ag_length(ag);
    const u64 base = u64{index} * format::kBitmapBits;
    for (u64 byte = 0; byte < sizeof b.bits; ++byte) {
      const u64 bit = base + byte * 8;
      if (bit >= first && bit + 8 <= length) continue;
      for (u64 i = 0; i < 8; ++i)
        if (bit + i < first || bit + i >= length) b.bits[byte] = static_cast<u8>(b.bits[byte] | 1u << i);
    }
  }
  format::seal(b);
}

}  // namespace

Status format_group(Media& media, const Geometry& g, u32 ag, u64& free_blocks) {
  const BlockNo self = g.ag_header(ag);
  alignas(8) std::array<std::byte, kBlockSize> block{};
  auto& h = *reinterpret_cast<format::AgHeader*>(block.data());
  h.magic = format::kAgMagic;
  h.version = format::kVersion;
  h.self_block = self.value;
  h.ag = ag;
  h.bitmap_blocks = g.bitmap_blocks(ag);
  h.blocks = g.ag_length(ag);
  h.bitmap_block = g.bitmap(ag, 0).value;
  h.inode_bitmap_block = g.inode_bitmap(ag, 0).value;
  h.first_data_block = g.first_data(ag).value;
  h.free_blocks = g.ag_start(ag) + g.ag_length(ag) - g.first_data(ag).value;
  free_blocks += h.free_blocks;
  format::seal(h);
  PINDAX_TRY(media.write(block_offset(self), block.data(), kBlockSize));
  BitmapBlock bitmap;
  for (u32 i = 0; i < g.bitmap_blocks(ag); ++i) {
    fill_bitmap(bitmap, g, ag, i, 1, g.bitmap(ag, i));
    PINDAX_TRY(media.write(block_offset(g.bitmap(ag, i)), &bitmap, kBlockSize));
    fill_bitmap(bitmap, g, ag, i, 2, g.inode_bitmap(ag, i));
    PINDAX_TRY(media.write(block_offset(g.inode_bitmap(ag, i)), &bitmap, kBlockSize));
  }
  // Page granularity: a thousand waits for the disk, where the caller's one sync of the whole pool will do.
  if (media.granularity() == Granularity::kPage) return {};
  return media.flush(block_offset(self), (1 + 2 * u64{g.bitmap_blocks(ag)}) * kBlockSize);
}

Status format_allocation(Media& media, const Geometry& g) {
  u64 free_blocks = 0;
  for (u32 ag = 0; ag < g.ag_count; ++ag) PINDAX_TRY(format_group(media, g, ag, free_blocks));
  alignas(8) std::array<std::byte, kBlockSize> block{};
  auto& s = *reinterpret_cast<format::StateRecord*>(block.data());
  s.magic = format::kStateMagic;
  s.version = format::kVersion;
  s.self_block = g.state_block;
  s.free_blocks = free_blocks;
  s.next_generation = 1;
  format::seal(s);
  PINDAX_TRY(media.write(block_offset(BlockNo(g.state_block)), block.data(), kBlockSize));
  return media.persist(block_offset(BlockNo(g.state_block)), kBlockSize);
}

}  // namespace pindax
