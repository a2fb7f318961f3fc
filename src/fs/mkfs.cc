// SPDX-License-Identifier: BSD-3-Clause
//
// Makes an empty file system: journal, allocation, root directory, and the superblocks last: a crash before that leaves
// no file system at all.
#include <sys/random.h>
#include <sys/stat.h>

#include <cstring>

#include "base/steps.h"
#include "fs/file_system_impl.h"
#include "pmem/pool_media.h"

namespace pindax {
namespace {

Status random_bytes(void* out, std::size_t n) {
  if (::getrandom(out, n, 0) != static_cast<ssize_t>(n)) return Status(Errc::kIo, "getrandom failed");
  return {};
}

Result<format::Superblock> plan_superblock(const format::Geometry& g, const MkfsOptions& options) {
  format::Superblock sb{};
  sb.magic = format::kSuperblockMagic;
  sb.version = format::kVersion;
  sb.block_shift = kBlockShift;
  sb.sequence = 1;
  PINDAX_TRY(random_bytes(sb.uuid, sizeof sb.uuid));
  sb.uuid[6] = static_cast<u8>((sb.uuid[6] & 0x0f) | 0x40);  // RFC 4122, version 4
  sb.uuid[8] = static_cast<u8>((sb.uuid[8] & 0x3f) | 0x80);
  PINDAX_TRY(random_bytes(sb.hash_key, sizeof sb.hash_key));
  if (options.label.size() > sizeof sb.label) {
    return Status(Errc::kInvalid, "the label is too long: at most 64 bytes");
  }
  std::memcpy(sb.label, options.label.data(), options.label.size());
  sb.pool_blocks = g.pool_blocks;
  sb.ag_blocks = g.ag_blocks;
  sb.ag_count = g.ag_count;
  sb.inode_size = format::kInodeSize;
  sb.journal_block = g.journal_block;
  sb.journal_blocks = g.journal_blocks;
  sb.state_block = g.state_block;
  const FileTime t = now();
  sb.created_ns = static_cast<u64>(t.seconds) * 1'000'000'000 + t.nanoseconds;
  sb.state = static_cast<u32>(format::PoolState::kClean);
  return sb;
}

Result<InodeNo> make_root(MetaStore& store, const MkfsOptions& options) {
  PINDAX_ASSIGN(const auto allocator, Allocator::open(store));
  Transaction tx(store);
  PINDAX_ASSIGN(const InodeNo ino, allocator->allocate_inode(tx, InodeNo(0)));
  PINDAX_ASSIGN(const u32 generation, allocator->next_generation(tx));
  PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, ino));
  *slot = format::Inode{};
  slot->magic = format::kInodeMagic;
  slot->version = static_cast<u16>(format::kVersion);
  slot->self = ino.value;
  slot->generation = generation;
  slot->mode = S_IFDIR | (options.root_mode & 07777);
  slot->uid = options.root_uid;
  slot->gid = options.root_gid;
  slot->links = 2;
  slot->data_kind = static_cast<u16>(format::DataKind::kTree);
  const FileTime t = now();
  stamp(*slot, kStampAtime | kStampMtime | kStampCtime, t);
  slot->crtime_s = static_cast<u64>(t.seconds);
  slot->crtime_ns = t.nanoseconds;
  PINDAX_TRY(tx.commit());
  PINDAX_TRY(store.checkpoint());
  return ino;
}

}  // namespace

Status make_file_system(Media& media, const MkfsOptions& options) {
  PINDAX_ASSIGN(const format::Geometry geometry, format::plan_geometry(media.size()));
  PINDAX_ASSIGN(format::Superblock sb, plan_superblock(geometry, options));
  if (auto* pool = dynamic_cast<PoolMedia*>(&media)) pool->set_segment_size(geometry.ag_blocks * kBlockSize);

  PINDAX_TRY(media.reserve(PoolOffset(0), geometry.first_data(0).value << kBlockShift, 0));
  for (const u64 at : format::kSuperblockOffsets) {  // what was here is no file system any more
    PINDAX_TRY(media.zero(PoolOffset(at), kBlockSize));
    PINDAX_TRY(media.persist(PoolOffset(at), kBlockSize));
  }
  PINDAX_TRY(MetaStore::format_journal(media, geometry));
  PINDAX_TRY(format_allocation(media, geometry));
  {
    PINDAX_ASSIGN(const auto store, MetaStore::open(media, geometry, SyncMode::kStrict));
    PINDAX_ASSIGN(const InodeNo root, make_root(*store, options));
    sb.root_inode = root.value;
  }
  PINDAX_TRY(media.sync_all());
  PINDAX_STEP("mkfs.before_superblocks");
  for (const u64 at : format::kSuperblockOffsets) {
    sb.self_offset = at;
    format::seal(sb);
    PINDAX_TRY(media.write(PoolOffset(at), &sb, sizeof sb));
    PINDAX_TRY(media.persist(PoolOffset(at), sizeof sb));
  }
  return {};
}

}  // namespace pindax
