// SPDX-License-Identifier: BSD-3-Clause
//
// Checks and seals of the fixed structs: superblock, state record, AG headers, bitmaps, blobs, journal header.
#include "fmt/format.h"

#include "format/check_internal.h"
#include "format/decode.h"

namespace pindax::format {

Status corrupt(const char* what, u64 place, const char* why) {
  return Status(Errc::kCorrupt, fmt::format("{} at block {}: {}", what, place, why));
}

u32 block_crc(const std::byte* block, u32 crc_offset) {
  static constexpr u32 kZero = 0;
  u32 crc = crc32c(block, crc_offset);
  crc = crc32c(&kZero, sizeof kZero, crc);
  const u32 rest = crc_offset + u32{sizeof kZero};
  return crc32c(block + rest, kBlockSize - rest, crc);
}

namespace {

Status check_layout(const Superblock& sb, u64 place) {
  const char* what = "superblock";
  if (sb.block_shift != kBlockShift) return corrupt(what, place, "unknown block size");
  if (sb.inode_size != kInodeSize) return corrupt(what, place, "unknown inode size");
  if (sb.pool_blocks < kMinPoolBytes >> kBlockShift || sb.pool_blocks > kMaxPoolBytes >> kBlockShift)
    return corrupt(what, place, "pool size out of range");
  if (sb.ag_blocks < kMinAgBlocks || sb.ag_blocks > kMaxAgBlocks)
    return corrupt(what, place, "allocation group size out of range");
  const u64 count = (sb.pool_blocks + sb.ag_blocks - 1) / sb.ag_blocks;
  if (sb.ag_count != count) return corrupt(what, place, "number of allocation groups does not fit the pool");
  const Geometry g = geometry_of(sb);
  if (g.ag_length(g.ag_count - 1) < kMinLastAgBlocks)
    return corrupt(what, place, "last allocation group too short");
  if (sb.journal_block != g.inode_bitmap(0, g.bitmap_blocks(0)).value)
    return corrupt(what, place, "journal not where it belongs");
  if (sb.journal_blocks < 4 || sb.journal_blocks >= g.ag_length(0))
    return corrupt(what, place, "journal size out of range");
  if (sb.state_block != sb.journal_block + sb.journal_blocks || sb.state_block + 1 >= g.ag_length(0))
    return corrupt(what, place, "state block not where it belongs");
  if (!g.is_data(BlockNo(sb.root_inode / kInodesPerBlock), 1))
    return corrupt(what, place, "root inode outside the data blocks");
  return {};
}

}  // namespace

Status check_superblock(const Superblock& sb, u64 offset) {
  const char* what = "superblock";
  const u64 place = offset >> kBlockShift;
  if (sb.magic != kSuperblockMagic) return corrupt(what, place, "no Pindax pool here (bad magic)");
  if (sb.crc != tail_crc(sb)) return corrupt(what, place, "bad checksum");
  if (sb.version != kVersion)
    return Status(Errc::kIncompatible, fmt::format("the pool has format version {}, this build knows only version {}",
                                                   sb.version.get(), kVersion));
  if (const u64 unknown = sb.features_incompat & ~kKnownIncompat; unknown != 0)
    return Status(Errc::kIncompatible,
                  fmt::format("the pool uses features this build does not know (incompat {:#x}): use a newer one", unknown));
  if (sb.self_offset != offset) return corrupt(what, place, "copied from elsewhere");
  PINDAX_TRY(check_layout(sb, place));
  if (sb.state != static_cast<u32>(PoolState::kClean) && sb.state != static_cast<u32>(PoolState::kMounted))
    return corrupt(what, place, "unknown state");
  if (sb.lost_count > kMaxLostEpochs) return corrupt(what, place, "too many lost epochs");
  for (u32 i = 0; i < sb.lost_count; ++i)
    if (sb.lost[i].first > sb.lost[i].last) return corrupt(what, place, "lost epochs reversed");
  return {};
}

Status check_state(const StateRecord& s, BlockNo self) {
  const char* what = "state record";
  if (s.magic != kStateMagic) return corrupt(what, self.value, "bad magic");
  if (s.version != kVersion) return corrupt(what, self.value, "unknown version");
  if (s.self_block != self.value) return corrupt(what, self.value, "copied from elsewhere");
  if (s.crc != tail_crc(s)) return corrupt(what, self.value, "bad checksum");
  if (s.inodes_used > s.inodes_allocated) return corrupt(what, self.value, "more inodes used than allocated");
  if (s.retired_blocks > s.bad_blocks) return corrupt(what, self.value, "more bad blocks retired than there are");
  return {};
}

Status check_ag(const AgHeader& h, u32 ag, BlockNo self) {
  const char* what = "allocation group header";
  if (h.magic != kAgMagic) return corrupt(what, self.value, "bad magic");
  if (h.version != kVersion) return corrupt(what, self.value, "unknown version");
  if (h.self_block != self.value || h.ag != ag) return corrupt(what, self.value, "copied from elsewhere");
  if (h.crc != tail_crc(h)) return corrupt(what, self.value, "bad checksum");
  if (h.blocks < kMinLastAgBlocks || h.blocks > kMaxAgBlocks) return corrupt(what, self.value, "size out of range");
  if (h.bitmap_blocks == 0 || u64{h.bitmap_blocks} * kBitmapBits < h.blocks || h.bitmap_blocks > kMaxAgBlocks / kBitmapBits + 1)
    return corrupt(what, self.value, "bitmap size out of range");
  if (h.bitmap_block != self.value + 1 || h.inode_bitmap_block != h.bitmap_block + h.bitmap_blocks ||
      h.first_data_block < h.inode_bitmap_block + h.bitmap_blocks)
    return corrupt(what, self.value, "bitmaps not where they belong");
  if (h.free_blocks > h.blocks || h.inode_blocks > h.blocks || h.free_inodes > h.inode_blocks * kInodesPerBlock)
    return corrupt(what, self.value, "counts out of range");
  return {};
}

Status check_bitmap(const BitmapBlock& b, u32 ag, u32 index, u32 kind, BlockNo self) {
  const char* what = "bitmap";
  if (b.magic != kBitmapMagic) return corrupt(what, self.value, "bad magic");
  if (b.version != kVersion) return corrupt(what, self.value, "unknown version");
  if (b.self_block != self.value || b.ag != ag || b.index != index || b.kind != kind)
    return corrupt(what, self.value, "copied from elsewhere");
  if (b.crc != block_crc(reinterpret_cast<const std::byte*>(&b), offsetof(BitmapBlock, crc)))
    return corrupt(what, self.value, "bad checksum");
  return {};
}

Status check_blob(const std::byte* block, BlockNo self, u64 owner) {
  const char* what = "blob";
  const auto& h = *reinterpret_cast<const BlobHeader*>(block);
  if (h.magic != kBlobMagic) return corrupt(what, self.value, "bad magic");
  if (h.version != kVersion) return corrupt(what, self.value, "unknown version");
  if (h.self_block != self.value) return corrupt(what, self.value, "copied from elsewhere");
  if (h.owner != owner) return corrupt(what, self.value, "belongs to another inode");
  if (h.crc != block_crc(block, offsetof(BlobHeader, crc))) return corrupt(what, self.value, "bad checksum");
  if (h.length_bytes > kBlobPayload) return corrupt(what, self.value, "length out of range");
  return {};
}

Status check_journal_header(const JournalHeader& h, BlockNo self) {
  const char* what = "journal header";
  if (h.magic != kJournalMagic) return corrupt(what, self.value, "bad magic");
  if (h.version != kVersion) return corrupt(what, self.value, "unknown version");
  if (h.self_block != self.value) return corrupt(what, self.value, "copied from elsewhere");
  if (h.crc != tail_crc(h)) return corrupt(what, self.value, "bad checksum");
  if (h.head % 8 != 0 || h.head >= u64{1} << 62) return corrupt(what, self.value, "head out of range");
  return {};
}

void seal(Superblock& sb) { sb.crc = tail_crc(sb); }
void seal(StateRecord& s) { s.crc = tail_crc(s); }
void seal(AgHeader& h) { h.crc = tail_crc(h); }
void seal(Inode& i) { i.crc = tail_crc(i); }
void seal(JournalHeader& h) { h.crc = tail_crc(h); }
void seal(BitmapBlock& b) {
  b.crc = block_crc(reinterpret_cast<const std::byte*>(&b), offsetof(BitmapBlock, crc));
}
void seal_blob(std::byte* block) {
  reinterpret_cast<BlobHeader*>(block)->crc = block_crc(block, offsetof(BlobHeader, crc));
}

}  // namespace pindax::format
