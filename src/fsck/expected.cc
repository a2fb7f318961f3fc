// SPDX-License-Identifier: BSD-3-Clause
#include "fsck/expected.h"

#include <algorithm>
#include <cstring>

namespace pindax::fsck_detail {

void expected_blocks(const format::Geometry& g, const SparseBits& used, u32 ag, u32 index, u8* bits) {
  const u64 start = g.ag_start(ag), first = g.first_data(ag).value - start, length = g.ag_length(ag);
  // AGs and bitmap blocks begin at multiples of 64 bits, so that words match; a group's ends need not.
  for (u64 bit = 0; bit < format::kBitmapBits; bit += 64) {
    const u64 in_group = u64{index} * format::kBitmapBits + bit;
    u64 word = in_group < length ? used.word(start + in_group) : ~u64{0};
    for (u64 i = 0; i < 64 && (in_group < first || in_group + 64 > length); ++i)
      if (in_group + i < first || in_group + i >= length) word |= u64{1} << i;
    const le64 out = word;
    std::memcpy(bits + bit / 8, &out, sizeof out);
  }
}

void expected_inode_blocks(const format::Geometry& g, const std::vector<u64>& inode_blocks, u32 ag, u32 index, u8* bits) {
  std::memset(bits, 0, sizeof(format::BitmapBlock::bits));
  const u64 begin = g.ag_start(ag) + u64{index} * format::kBitmapBits;
  const u64 end = std::min(begin + format::kBitmapBits, g.ag_start(ag) + g.ag_length(ag));
  for (auto it = std::lower_bound(inode_blocks.begin(), inode_blocks.end(), begin); it != inode_blocks.end() && *it < end; ++it)
    bits[(*it - begin) / 8] = static_cast<u8>(bits[(*it - begin) / 8] | 1u << ((*it - begin) % 8));
}

GroupCounts expected_counts(Checker& checker, u32 ag) {
  const format::Geometry& g = checker.geometry();
  const std::vector<u64>& blocks = checker.inode_blocks();
  GroupCounts c;
  const u64 end = g.ag_start(ag) + g.ag_length(ag);
  for (auto it = std::lower_bound(blocks.begin(), blocks.end(), g.ag_start(ag)); it != blocks.end() && *it < end; ++it) {
    ++c.inode_blocks;
    for (u32 i = 0; i < format::kInodesPerBlock; ++i)
      if (checker.facts(*it * format::kInodesPerBlock + i)->mode == 0) ++c.free_inodes;
  }
  return c;
}

}  // namespace pindax::fsck_detail
