// SPDX-License-Identifier: BSD-3-Clause
//
// Growing a pool that is not mounted.
//
// New groups are formatted where no superblock reaches yet. Then the superblocks say the new size. Then one transaction gives the
// last group of before its new length and adds what is new to the counts; bits beyond a group's end are set on media, so until
// then that space is merely not free. A crash before the superblocks leaves the old pool; one after them a pool that is sound
// but for free space that is not counted, which a second run, as fsck --repair, puts right.
#include "fs/resize.h"

#include "alloc/format_group.h"
#include "alloc/media_counts.h"
#include "base/steps.h"
#include "fs/file_system_impl.h"
#include "pmem/pool_media.h"

namespace pindax {

namespace {

Result<format::Superblock> read_superblock(Media& media) {
  format::Superblock copy[2];
  Status checked[2];
  for (unsigned i = 0; i < 2; ++i) {
    const u64 at = format::kSuperblockOffsets[i];
    checked[i] = media.read(PoolOffset(at), &copy[i], sizeof copy[i]);
    if (checked[i].ok()) checked[i] = format::check_superblock(copy[i], at);
  }
  if (!checked[0].ok() && !checked[1].ok()) return checked[0].with_context("no superblock of Pindax that can be used");
  const bool second = !checked[0].ok() || (checked[1].ok() && copy[1].sequence > copy[0].sequence);
  return copy[second ? 1 : 0];
}

Status write_superblocks(Media& media, format::Superblock sb) {
  sb.sequence += 1;
  for (const u64 at : format::kSuperblockOffsets) {
    sb.self_offset = at;
    format::seal(sb);
    PINDAX_TRY(media.write(PoolOffset(at), &sb, sizeof sb));
    PINDAX_TRY(media.persist(PoolOffset(at), sizeof sb));
    PINDAX_STEP("resize.superblock_copy");
  }
  return {};
}

void seal_header(std::byte* p) { format::seal(*reinterpret_cast<format::AgHeader*>(p)); }

// The group's end is where the geometry says. Adds its free blocks to `free_blocks`.
Status settle_group(Transaction& tx, const format::Geometry& g, u32 ag, u64& free_blocks) {
  u64 length = 0;
  {
    PINDAX_ASSIGN(const MetaView view, media_counts::read_header(tx.store(), ag));
    const auto& h = view.as<format::AgHeader>();
    length = h.blocks;
    free_blocks += h.free_blocks;
  }
  const u64 wanted = g.ag_length(ag);
  if (length > wanted) return Status(Errc::kCorrupt, "an allocation group reaches beyond its end: run pindax fsck");
  if (length == wanted) return {};
  free_blocks += wanted - length;
  PINDAX_TRY(media_counts::free_blocks(tx, {BlockNo(g.ag_start(ag) + length), wanted - length}));
  PINDAX_ASSIGN(std::byte * bytes, tx.modify(block_offset(g.ag_header(ag)), sizeof(format::AgHeader), seal_header));
  reinterpret_cast<format::AgHeader*>(bytes)->blocks = wanted;
  return {};
}

}  // namespace

Result<ResizeReport> grow_file_system(Media& media) {
  PINDAX_ASSIGN(format::Superblock sb, read_superblock(media));
  if (sb.state != static_cast<u32>(format::PoolState::kClean))
    return Status(Errc::kBusy, "the pool was not unmounted: mount and unmount it first");
  const format::Geometry old = format::geometry_of(sb);
  format::Geometry g = old;
  g.pool_blocks = std::min(media.size(), format::kMaxPoolBytes) >> kBlockShift;
  if (const u64 rest = g.pool_blocks % g.ag_blocks; rest < format::kMinLastAgBlocks) g.pool_blocks -= rest;
  if (g.pool_blocks < old.pool_blocks)
    return Status(Errc::kInvalid, "the pool can only grow: to make it smaller, copy it with pindax export and import");
  g.ag_count = static_cast<u32>((g.pool_blocks + g.ag_blocks - 1) / g.ag_blocks);
  if (auto* pool = dynamic_cast<PoolMedia*>(&media)) pool->set_segment_size(g.ag_blocks * kBlockSize);

  u64 formatted = 0;
  for (u32 ag = old.ag_count; ag < g.ag_count; ++ag) PINDAX_TRY(format_group(media, g, ag, formatted));
  PINDAX_TRY(media.drain());
  PINDAX_TRY(media.sync_all());
  PINDAX_STEP("resize.formatted");
  sb.pool_blocks = g.pool_blocks;
  sb.ag_count = g.ag_count;
  PINDAX_TRY(write_superblocks(media, sb));

  PINDAX_ASSIGN(const auto store, MetaStore::open(media, g, SyncMode::kStrict));
  Transaction tx(*store);
  tx.at_commit([&](Transaction& t) -> Status {
    u64 free_blocks = 0;
    for (u32 ag = 0; ag < g.ag_count; ++ag) PINDAX_TRY(settle_group(t, g, ag, free_blocks));
    PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
    state->free_blocks = free_blocks;
    return {};
  });
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("resize.counted");
  PINDAX_TRY(store->checkpoint());
  PINDAX_TRY(media.sync_all());
  return ResizeReport{old.pool_blocks * kBlockSize, g.pool_blocks * kBlockSize};
}

}  // namespace pindax
