// SPDX-License-Identifier: BSD-3-Clause
//
// The check of an inode, field by field; the seal is with the other structs.
#include <sys/stat.h>

#include "format/check_internal.h"
#include "format/decode.h"

namespace pindax::format {
namespace {

constexpr u32 kNanosPerSecond = 1'000'000'000;
constexpr const char* kWhat = "inode";

bool kind_fits(u32 mode, DataKind kind) {
  switch (mode & S_IFMT) {
    case S_IFREG: return kind == DataKind::kInlineExtents || kind == DataKind::kTree;
    case S_IFDIR: return kind == DataKind::kTree;
    case S_IFLNK: return kind == DataKind::kInlineSymlink || kind == DataKind::kBlobSymlink;
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK: return kind == DataKind::kNone;
    default: return false;
  }
}

// Inline extents: sorted, apart, not empty, in a known state.
const char* extents_error(const Inode& i) {
  if (i.extent_count > kInlineExtentCount) return "too many inline extents";
  u64 end = 0;
  for (u32 k = 0; k < i.extent_count; ++k) {
    const Extent& e = i.body.extents[k];
    if (e.length_blocks == 0) return "empty extent";
    if (e.file_block < end || e.file_block > kMaxFileBytes >> kBlockShift) return "extents out of order";
    if (e.block == 0 || e.block > kMaxPoolBytes >> kBlockShift) return "extent outside every pool";
    if ((e.flags_epoch & kExtentStateMask) > static_cast<u32>(ExtentState::kProvisional))
      return "extent in an unknown state";
    end = e.file_block + e.length_blocks;
  }
  return nullptr;
}

const char* body_error(const Inode& i) {
  switch (static_cast<DataKind>(i.data_kind.get())) {
    case DataKind::kInlineExtents: return extents_error(i);
    case DataKind::kInlineSymlink:
      return i.size_bytes > kInlineSymlinkBytes ? "inline symbolic link too long" : nullptr;
    case DataKind::kBlobSymlink: {
      const BlobRef& b = i.body.blob;
      const bool fits = b.block_count <= kMaxBlobBlocks && b.length_bytes <= u64{b.block_count} * kBlobPayload;
      return fits && b.length_bytes == i.size_bytes ? nullptr : "length of the symbolic link out of range";
    }
    case DataKind::kNone:
    case DataKind::kTree: return nullptr;
  }
  return "unknown kind of data";
}

}  // namespace

Status check_inode(const Inode& i, InodeNo self) {
  const u64 place = inode_block(self);
  if (i.magic != kInodeMagic) return corrupt(kWhat, place, "bad magic");
  if (i.version != kVersion) return corrupt(kWhat, place, "unknown version");
  if (i.self != self.value) return corrupt(kWhat, place, "copied from elsewhere");
  if (i.crc != tail_crc(i)) return corrupt(kWhat, place, "bad checksum");
  if (i.mode == 0) return {};
  if (!kind_fits(i.mode, static_cast<DataKind>(i.data_kind.get())))
    return corrupt(kWhat, place, "kind of data does not fit the type of file");
  if (const char* why = body_error(i)) return corrupt(kWhat, place, why);
  if (i.size_bytes > kMaxFileBytes) return corrupt(kWhat, place, "size out of range");
  if (i.busy_policy > static_cast<u16>(BusyPolicy::kEvict)) return corrupt(kWhat, place, "unknown policy");
  if (i.atime_ns >= kNanosPerSecond || i.mtime_ns >= kNanosPerSecond || i.ctime_ns >= kNanosPerSecond ||
      i.crtime_ns >= kNanosPerSecond)
    return corrupt(kWhat, place, "nanoseconds out of range");
  return {};
}

}  // namespace pindax::format
