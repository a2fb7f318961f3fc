// SPDX-License-Identifier: BSD-3-Clause
//
// Where things lie, and what mkfs chooses.
#include <algorithm>
#include <bit>

#include "fmt/format.h"
#include "format/decode.h"

namespace pindax::format {
namespace {

// Enough groups for parallel writers in a small pool, few enough for long extents in a large one.
constexpr u64 kAgsWanted = 8;
// A 64th of the pool; a quarter of the ring is the largest transaction.
constexpr u64 kJournalShare = 64;
constexpr u64 kMinJournalBlocks = 2 + 128;   // 512 KiB ring
constexpr u64 kMaxJournalBlocks = 2 + 8192;  // 32 MiB ring: what recovery has to read

}  // namespace

BlockNo Geometry::first_data(u32 ag) const {
  return ag == 0 ? BlockNo(state_block + 1) : inode_bitmap(ag, bitmap_blocks(ag));
}

bool Geometry::is_data(BlockNo b, u64 length) const {
  if (length == 0 || b.value >= pool_blocks || length > pool_blocks - b.value) return false;
  const u32 ag = ag_of(b);
  return b >= first_data(ag) && b.value + length <= ag_start(ag) + ag_length(ag);
}

Geometry geometry_of(const Superblock& sb) {
  return {.pool_blocks = sb.pool_blocks,
          .ag_blocks = sb.ag_blocks,
          .ag_count = sb.ag_count,
          .journal_block = sb.journal_block,
          .journal_blocks = sb.journal_blocks,
          .state_block = sb.state_block};
}

Result<Geometry> plan_geometry(u64 pool_bytes) {
  if (pool_bytes < kMinPoolBytes)
    return Status(Errc::kInvalid, fmt::format("a pool needs at least {} MiB: give a larger size", kMinPoolBytes >> 20));
  if (pool_bytes > kMaxPoolBytes)
    return Status(Errc::kInvalid, fmt::format("a pool holds at most {} TiB: give a smaller size", kMaxPoolBytes >> 40));
  Geometry g;
  g.pool_blocks = pool_bytes >> kBlockShift;
  g.ag_blocks = std::clamp(std::bit_floor(g.pool_blocks / kAgsWanted), kMinAgBlocks, kMaxAgBlocks);
  if (const u64 rest = g.pool_blocks % g.ag_blocks; rest < kMinLastAgBlocks) g.pool_blocks -= rest;
  g.ag_count = static_cast<u32>((g.pool_blocks + g.ag_blocks - 1) / g.ag_blocks);
  g.journal_block = g.inode_bitmap(0, g.bitmap_blocks(0)).value;
  g.journal_blocks = std::clamp(g.pool_blocks / kJournalShare, kMinJournalBlocks, kMaxJournalBlocks);
  g.state_block = g.journal_block + g.journal_blocks;
  return g;
}

}  // namespace pindax::format
