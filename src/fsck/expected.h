// SPDX-License-Identifier: BSD-3-Clause
//
// What bitmaps and counts must be, by what a walk claimed: for comparing them and for writing them. Private to the room.
#pragma once

#include "fsck/checker.h"

namespace pindax::fsck_detail {

// All bits of one bitmap block: set for what is used, is no data, or lies beyond the group's end.
void expected_blocks(const format::Geometry& g, const SparseBits& used, u32 ag, u32 index, u8* bits);
void expected_inode_blocks(const format::Geometry& g, const std::vector<u64>& inode_blocks, u32 ag, u32 index, u8* bits);

struct GroupCounts {
  u64 inode_blocks = 0;
  u64 free_inodes = 0;
};
GroupCounts expected_counts(Checker& checker, u32 ag);

}  // namespace pindax::fsck_detail
