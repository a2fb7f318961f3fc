// SPDX-License-Identifier: BSD-3-Clause
//
// size() and seek(). Ranges that the kernel may hold dirty count as data: it does not write them back before
// it asks.
#include <algorithm>

#include "fs/file_data.h"

namespace pindax {

Result<u64> FileSystemImpl::size(Inode& inode) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  return u64{slot->size_bytes};
}

Result<u64> FileSystemImpl::seek(Inode& inode, u64 offset, bool data) {
  Inode::Ranges ranges;  // with data, merged
  u64 size = 0;
  {
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
    if (!is_regular(*slot)) return Status(Errc::kInvalid, "not a regular file");
    PINDAX_TRY(check_settled(*slot));
    size = slot->size_bytes;
    if (offset >= size) return Errc::kNoDevice;
    if (const InodeLayout* layout = inode.layout_if_any()) {
      for (const ByteRange& r : layout_->maybe_dirty(*const_cast<InodeLayout*>(layout)))
        ranges.emplace(r.begin, r.end);
    }
    // The answer: the first data at or behind the offset, or the first place that neither extents nor dirty
    // pages cover.
    const u64 gap_begin = slot->pending_begin, gap_end = slot->pending_end;
    u64 hole = offset, found = kMaxOffset;
    const auto covered_by_dirty = [&](u64 at) {
      for (const auto& [begin, end] : ranges)
        if (begin <= at && at < end) return end;
      return at;
    };
    const auto skip_dirty = [&] {
      for (u64 next; (next = covered_by_dirty(hole)) != hole;) hole = next;
    };
    for (const auto& [begin, end] : ranges)
      if (end > offset) found = std::min(found, std::max(begin, offset));
    skip_dirty();
    PINDAX_TRY(
        ExtentReader(*store_, *slot).scan(first_block(offset), end_block(size), [&](const ExtentInfo& e) {
          const u64 begin = byte_of(e.file_block), end = byte_of(e.file_end());
          if (!holds_data(*this, e) || (begin < gap_end && end > gap_begin && gap_begin < gap_end))
            return true;
          found = std::min(found, std::max(begin, offset));
          if (data || begin > hole) return false;
          hole = std::max(hole, end);
          skip_dirty();
          return true;
        }));
    if (data) return found < size ? Result<u64>(found) : Result<u64>(Errc::kNoDevice);
    return std::min(hole, size);
  }
}

}  // namespace pindax
