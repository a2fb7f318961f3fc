// SPDX-License-Identifier: BSD-3-Clause
//
// One repair after one walk. Private to the room.
//
// Order: what damaged trees left in leaked blocks is looked for first, while the old bitmaps still tell; then slots, bitmaps,
// headers and the state record are written as the walk knows them, which needs no free block; then, with an allocator on
// top of true bitmaps, everything that needs nodes. What a repair replaces leaks until the next walk frees it, so a crash at any
// point leaves a pool that the next repair goes on with.
#pragma once

#include <map>

#include "alloc/allocator.h"
#include "fs/node_allocator.h"
#include "fsck/checker.h"

namespace pindax::fsck_detail {

class Repair {
 public:
  explicit Repair(Checker& checker) : c_(checker), store_(checker.store()), plan_(checker.plan()) {}
  // Does what it can; the first error that hindered something.
  Status run();

 private:
  using Items = std::map<u64, std::vector<std::byte>>;

  void note(Status s);
  // Runs `work` in a transaction of its own.
  Status change(const std::function<Status(Transaction&)>& work);

  // ---- repair.cc ----
  Status fix_slots();
  Status write_group(u32 ag);
  Status write_state();

  // ---- repair_trees.cc ----
  void salvage();
  void salvage_block(u64 block);
  void keep_blocks_of(TreeKind kind, u64 key, TreeBytes value);
  Items readable_items(const TreeRef& ref);
  Status build_tree(TreeKind kind, u64 owner, const Items& items, BlockNo& root, u64& nodes);
  Status rebuild_inode_tree(u64 ino, TreeKind kind);
  Status rebuild_orphans();
  Status rebuild_quarantine();
  Status rebuild_shares(u32 ag);
  Status rebuild_bad_blocks();
  Status erase_item(const Plan::ItemFix& fix);
  Status drop_extent(const Plan::ItemFix& fix);
  Status clone_extent(const Plan::ItemFix& fix);
  Result<format::ExtentInfo> find_extent(Transaction& tx, const format::Inode& slot, u64 file_block);
  Status take_extent(Transaction& tx, format::Inode& slot, u64 file_block);
  Status put_extent(Transaction& tx, format::Inode& slot, const format::ExtentInfo& e);

  // ---- repair_names.cc ----
  Status fix_entry(const Plan::EntryFix& fix);
  Status insert_name(Transaction& tx, format::Inode& dir, const std::string& name, u64 ino, u64* key);
  Status fix_counts(u64 ino, const Plan::SlotFix& fix);
  Status rebuild_parents();
  Result<u64> lost_found();
  Status attach(u64 ino);

  Checker& c_;
  MetaStore& store_;
  const Plan& plan_;
  std::unique_ptr<Allocator> allocator_;
  std::map<Plan::TreeOf, Items> salvaged_;
  Status first_error_;
};

}  // namespace pindax::fsck_detail
