// SPDX-License-Identifier: BSD-3-Clause
//
// A file's map from file blocks to pool blocks: up to kInlineExtentCount extents in the inode, more in a tree
// of TreeKind::kExtents.
//
// Invariants
//  1. Extents do not overlap, none is empty, none crosses an allocation group. Bytes from media that say
//  otherwise are
//     kCorrupt.
//  2. Neighbours that are contiguous in the file and in the pool, in one AG and of equal state, epoch and
//  shared flag, are merged.
//  3. An inode whose tree is left with few extents goes back to inline ones.
//
// Locking: Inode::mutex, shared for ExtentReader, exclusive for ExtentEditor until the transaction ends.
// A crash leaves the map before or after the transaction.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "format/decode.h"
#include "journal/transaction.h"
#include "tree/tree.h"

namespace pindax {

using format::ExtentInfo;
using format::ExtentState;

// Looks extents up. Bound to one thread; `inode` must stay valid.
class ExtentReader {
 public:
  ExtentReader(MetaStore& store, const format::Inode& inode) : store_(store), inode_(inode) {}
  ExtentReader(Transaction& tx, const format::Inode& inode) : store_(tx.store()), tx_(&tx), inode_(inode) {}

  // The extent that covers `block`, else the first one behind it, else nothing.
  Result<std::optional<ExtentInfo>> at_or_after(FileBlock block);
  // The last extent that begins before `block`.
  Result<std::optional<ExtentInfo>> before(FileBlock block);
  // Visits the extents that overlap [begin, end), whole, in order, until the visitor returns false.
  Status scan(FileBlock begin, FileBlock end, const std::function<bool(const ExtentInfo&)>& visit);
  // The same as a list; pieces that stick out of [begin, end) are cut off.
  Result<std::vector<ExtentInfo>> list(FileBlock begin, FileBlock end);

 private:
  TreeReader tree() const;
  Result<unsigned> inline_count() const;
  Status check(const ExtentInfo& e) const;

  MetaStore& store_;
  Transaction* tx_ = nullptr;
  const format::Inode& inode_;
};

// Changes extents inside a transaction. Counts blocks in Inode::blocks. `inode` is the transaction's private
// copy.
class ExtentEditor {
 public:
  ExtentEditor(Transaction& tx, format::Inode& inode, NodeAllocator& nodes)
      : tx_(tx), inode_(inode), nodes_(nodes) {}

  // `e` covers a hole. Merges with neighbours. kCorrupt if something is there.
  Status insert(const ExtentInfo& e);

  // Takes up to `most` extents, or parts of them, of [begin, end) out of the file and tells each to
  // `removed`. Returns the first block that was not looked at: `end` if all is done.
  Result<FileBlock> remove(FileBlock begin, FileBlock end, unsigned most,
                           const std::function<Status(const ExtentInfo&)>& removed);

  // Gives the mapped blocks of [begin, end) another state; splits and merges. At most `most` extents are
  // changed; returns the first block that was not looked at.
  Result<FileBlock> set_state(FileBlock begin, FileBlock end, ExtentState state, u32 epoch, unsigned most);
  // The same for the flag that says "may have other owners" (fs/share.h). Extents for which `which` is false stay as they are.
  Result<FileBlock> set_shared(FileBlock begin, FileBlock end, bool shared, unsigned most,
                               const std::function<bool(const ExtentInfo&)>& which);

  // Makes an extent that covers both sides of `at` two.
  Status split(FileBlock at);
  // Merges the extents that meet at `at`, if they can be one.
  Status merge(FileBlock at);
  // Moves extents that begin in [begin, end) by `by` blocks, as many as are stored together: the first ones if `by` is
  // negative, the last ones if it is positive. What they move over is a hole. Gives the blocks that they covered
  // before, or nothing if there are none left. No space is needed.
  struct Moved {
    FileBlock begin, end;
  };
  Result<std::optional<Moved>> shift(FileBlock begin, FileBlock end, i64 by);

 private:
  Result<FileBlock> change(FileBlock begin, FileBlock end, unsigned most,
                           const std::function<bool(ExtentInfo&)>& changed);
  bool mergeable(const ExtentInfo& left, const ExtentInfo& right) const;
  Status join(ExtentInfo e);                                    // insert without counting
  Status cut(const ExtentInfo& whole, const ExtentInfo& part);  // takes part out of whole, without counting
  // The stored extents: one by its first block.
  Status put(const ExtentInfo& e);     // a new key
  Status update(const ExtentInfo& e);  // the key is there
  Status drop(FileBlock key);
  Status to_tree();
  Status to_inline();  // if so few are left
  Status with_tree(const std::function<Status(TreeWriter&)>& work);
  bool is_tree() const;

  Transaction& tx_;
  format::Inode& inode_;
  NodeAllocator& nodes_;
};

// The part of `e` inside [begin, end); they overlap.
ExtentInfo clip_extent(const ExtentInfo& e, FileBlock begin, FileBlock end);

}  // namespace pindax
