// SPDX-License-Identifier: BSD-3-Clause
//
// Whether two ranges hold the same bytes: what a dedupe (clone.h) shares.
#include <algorithm>
#include <cstring>

#include "fs/bad_blocks.h"
#include "fs/clone.h"

namespace pindax {

namespace {

// 0: zeros.
Result<BlockNo> block_at(FileSystemImpl& fs, const format::Inode& slot, u64 offset) {
  const FileBlock block = first_block(offset);
  PINDAX_ASSIGN(const auto extents, visible_extents(ExtentReader(fs.store(), slot), slot, block, block + 1));
  if (extents.empty() || !holds_data(fs, extents[0])) return BlockNo(0);
  return extents[0].block;
}

Status load_block(FileSystemImpl& fs, BlockNo block, std::byte* out) {
  if (block.value == 0) return std::memset(out, 0, kBlockSize), Status();
  if (fs.allocator().first_bad({block, 1})) return lost_bytes(block);
  return fs.media().read(block_offset(block), out, kBlockSize);
}

}  // namespace

Result<bool> same_bytes(FileSystemImpl& fs, const format::Inode& left, u64 left_offset,
                        const format::Inode& right, u64 right_offset, u64 bytes) {
  std::byte a[kBlockSize], b[kBlockSize];
  for (u64 at = 0; at < bytes; at += kBlockSize) {
    PINDAX_ASSIGN(const BlockNo left_block, block_at(fs, left, left_offset + at));
    PINDAX_ASSIGN(const BlockNo right_block, block_at(fs, right, right_offset + at));
    if (left_block == right_block) continue;
    PINDAX_TRY(load_block(fs, left_block, a));
    PINDAX_TRY(load_block(fs, right_block, b));
    if (std::memcmp(a, b, std::min(kBlockSize, bytes - at)) != 0) return false;
  }
  return true;
}

}  // namespace pindax
