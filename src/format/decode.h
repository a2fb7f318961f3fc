// SPDX-License-Identifier: BSD-3-Clause
//
// The checks between bytes on media and structs in use, and their inverse: seal_* fill in the checksum.
// A failed check is kCorrupt (or kIncompatible) with a message that names the struct and the place. Reentrant.
#pragma once

#include <span>

#include "base/result.h"
#include "format/format.h"

namespace pindax::format {

Status check_superblock(const Superblock& sb, u64 offset);  // kIncompatible for version and incompat features
Status check_state(const StateRecord& s, BlockNo self);
Status check_ag(const AgHeader& h, u32 ag, BlockNo self);
Status check_bitmap(const BitmapBlock& b, u32 ag, u32 index, u32 kind, BlockNo self);
// A free slot (mode 0) passes.
Status check_inode(const Inode& i, InodeNo self);
// Checks header, bounds, order of keys and that no two values overlap: a node that passes can be walked blindly.
Status check_node(const std::byte* block, BlockNo self, TreeKind kind, u64 owner);
// The part of it that tells whether a block is this node: enough where the bytes are known to be some node as it was sealed.
Status check_node_identity(const std::byte* block, BlockNo self, TreeKind kind, u64 owner);
Status check_blob(const std::byte* block, BlockNo self, u64 owner);
// The bytes of one tree value: as long as its kind says, names and fields in range. The tree itself does not ask.
Status check_value(TreeKind kind, std::span<const std::byte> value);
Status check_journal_header(const JournalHeader& h, BlockNo self);

void seal(Superblock& sb);
void seal(StateRecord& s);
void seal(AgHeader& h);
void seal(BitmapBlock& b);
void seal(Inode& i);
void seal_node(std::byte* block);
void seal_blob(std::byte* block);
void seal(JournalHeader& h);

// Extents, packed and unpacked. `length` in blocks.
struct ExtentInfo {
  FileBlock file_block;
  BlockNo block;
  u32 length = 0;
  ExtentState state = ExtentState::kWritten;
  bool shared = false;
  u32 epoch = 0;  // of a provisional extent
  bool operator==(const ExtentInfo&) const = default;
  FileBlock file_end() const { return file_block + length; }
};
u32 pack_extent_flags(const ExtentInfo& e);
ExtentInfo unpack_extent(const Extent& e);
ExtentInfo unpack_extent(FileBlock file_block, const ExtentValue& v);
Extent pack_extent(const ExtentInfo& e);
ExtentValue pack_extent_value(const ExtentInfo& e);

// Where each thing lies, computable from the superblock alone.
struct Geometry {
  u64 pool_blocks = 0;
  u64 ag_blocks = 0;
  u32 ag_count = 0;
  u64 journal_block = 0;
  u64 journal_blocks = 0;
  u64 state_block = 0;

  u64 ag_start(u32 ag) const { return u64{ag} * ag_blocks; }
  u64 ag_length(u32 ag) const { return ag + 1 < ag_count ? ag_blocks : pool_blocks - ag_start(ag); }
  u32 ag_of(BlockNo b) const { return static_cast<u32>(b.value / ag_blocks); }
  BlockNo ag_header(u32 ag) const { return BlockNo(ag_start(ag) + kAgReservedBlocks); }
  // Of each of the two bitmaps. The same in every AG, also in a short last one, so that the pool can grow in place;
  // bits beyond ag_length() are set.
  u32 bitmap_blocks([[maybe_unused]] u32 ag) const {
    return static_cast<u32>((ag_blocks + kBitmapBits - 1) / kBitmapBits);
  }
  BlockNo bitmap(u32 ag, u32 index) const { return ag_header(ag) + 1 + index; }
  BlockNo inode_bitmap(u32 ag, u32 index) const { return ag_header(ag) + 1 + bitmap_blocks(ag) + index; }
  BlockNo first_data(u32 ag) const;
  // True if [b, b + length) lies in the data part of one AG.
  bool is_data(BlockNo b, u64 length) const;
};
Geometry geometry_of(const Superblock& sb);
// What mkfs uses for a pool of `pool_bytes`. kInvalid with advice if too small or too large.
Result<Geometry> plan_geometry(u64 pool_bytes);

}  // namespace pindax::format
