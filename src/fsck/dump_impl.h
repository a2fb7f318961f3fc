// SPDX-License-Identifier: BSD-3-Clause
//
// The dump's inside. Private to the room.
#pragma once

#include "format/decode.h"
#include "fsck/dump.h"
#include "journal/meta_store.h"
#include "tree/tree.h"

namespace pindax {

Json dump_hex(const u8* bytes, std::size_t length);
std::string dump_text(const char* text, std::size_t length);
Json dump_superblock(const format::Superblock& sb, u64 at);
Json dump_group(const format::AgHeader& h, u32 ag, const Status& checked);
Json dump_extent(const format::ExtentInfo& e);
Json dump_inode(const format::Inode& i, InodeNo ino);
// One item of a tree; its key is in "key" or in the word that fits the kind.
Json dump_item(format::TreeKind kind, u64 key, TreeBytes value);

class DumpImpl final : public Dump {
 public:
  explicit DumpImpl(Media& media) : media_(media) {}
  Status start();

  Json superblock() override;
  Json journal() override;
  Json state() override;
  Json groups() override;
  Result<Json> group(u32 ag) override;
  Result<Json> free_runs(u32 ag) override;
  Result<Json> inode(InodeNo ino) override;
  Result<Json> extents(InodeNo ino) override;
  Result<Json> directory(InodeNo ino) override;
  Result<Json> xattrs(InodeNo ino) override;
  Result<Json> parents(InodeNo ino) override;
  Json orphans() override;
  Json quarantine() override;
  Json bad_blocks() override;
  Json shares() override;
  Result<Json> block(BlockNo block) override;

 private:
  Result<MetaView> view(PoolOffset at, u32 length);
  Result<MetaView> slot(InodeNo ino);
  // All items that can be read; nodes that cannot stand among them as {"damage": …}.
  Json tree(BlockNo root, format::TreeKind kind, u64 owner);
  Json node(const std::byte* bytes, BlockNo block);
  Json global_tree(format::TreeKind kind);

  Media& media_;
  format::Superblock copies_[2]{};
  format::Geometry geometry_;
  std::unique_ptr<MetaStore> store_;  // null if the journal is damaged
  Status journal_damage_;
};

}  // namespace pindax
