// SPDX-License-Identifier: BSD-3-Clause
//
// The mark step of a clone (clone.h): extents of the source become shared ones.
#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/clone.h"
#include "fs/share.h"

namespace pindax {

Result<bool> Clone::is_marked() {
  ReadLock lock(source().mutex);
  PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(source()));
  bool marked = true;
  PINDAX_TRY(ExtentReader(fs_.store(), *slot)
                 .scan(first_block(source_range().begin), end_block(source_range().end),
                       [&](const ExtentInfo& e) { return marked = e.shared || !holds_data(fs_, e); }));
  return marked;
}

Status Clone::flag_source() {
  Inode& inode = source();
  const FileBlock begin = first_block(source_range().begin), end = end_block(source_range().end);
  PINDAX_TRY(finish_pending(fs_, inode, byte_of(begin), byte_of(end)));
  PINDAX_TRY(zero_source_tail());
  if (InodeLayout* layout = inode.layout_if_any()) fs_.layout().set_shared(*layout, source_range(), true);
  WriteLock lock(inode.mutex);
  for (FileBlock at = begin; at < end;) {
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, inode));
    InodeNodes nodes(fs_.allocator(), *slot);
    ExtentEditor editor(tx, *slot, nodes);
    RecordBudget budget(tx);
    for (unsigned n = 0; at < end && n < kMostExtents && (n == 0 || budget.has_room()); n += kExtentsAtOnce) {
      PINDAX_ASSIGN(at, editor.set_shared(at, end, true, kExtentsAtOnce,
                                          [&](const ExtentInfo& e) { return holds_data(fs_, e); }));
    }
    PINDAX_STEP("fs.clone_marked");
    PINDAX_TRY(tx.commit());
  }
  return {};
}

// Invariant 6 of share.h.
Status Clone::zero_source_tail() {
  WriteLock lock(source().mutex);
  PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(source()));
  const u64 size = slot->size_bytes;
  const FileBlock block = first_block(size);
  if (size % kBlockSize == 0 || !source_range().contains({byte_of(block), byte_of(block + 1)})) return {};
  PINDAX_ASSIGN(const auto extents,
                visible_extents(ExtentReader(fs_.store(), *slot), *slot, block, block + 1));
  if (has_bad(fs_, extents)) return {};  // nobody reads it
  return zero_in_place(fs_, source(), extents, size, byte_of(block + 1));
}

}  // namespace pindax
