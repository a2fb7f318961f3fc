// SPDX-License-Identifier: BSD-3-Clause
//
// What the commit mutex owns and how it changes: bitmaps, AG headers, the StateRecord. All functions but the last are
// called inside Transaction::at_commit only. Whatever does not fit what is on media is kCorrupt and aborts the commit.
#pragma once

#include "alloc/allocator.h"

namespace pindax::media_counts {

inline constexpr u32 kBlockBitmap = 1;  // BitmapBlock::kind
inline constexpr u32 kInodeBitmap = 2;

// Sets (clears) the blocks' bits, which must be clear (set), and counts.
Status allocate_blocks(Transaction& tx, BlockRun run);
Status free_blocks(Transaction& tx, BlockRun run);
// Marks an allocated block as one of kInodesPerBlock free inode slots.
Status add_inode_block(Transaction& tx, BlockNo block);
// One slot of AG `ag` was taken (+1) or given back (-1).
Status count_inode(Transaction& tx, u32 ag, int used);
// Where the group's tree of share counts begins.
Status set_shares_root(Transaction& tx, u32 ag, BlockNo root);
// The tree of bad blocks begins there and has so many more, of which so many more are retired.
Status count_bad(Transaction& tx, BlockNo root, u64 added, u64 retired);
// Generations below `next` are used up.
Status raise_generation(Transaction& tx, u64 next);

// One bitmap block of committed state, checked.
Result<MetaView> read_bitmap(MetaStore& store, u32 ag, u32 index, u32 kind);
Result<MetaView> read_header(MetaStore& store, u32 ag);

}  // namespace pindax::media_counts
