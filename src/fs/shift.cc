// SPDX-License-Identifier: BSD-3-Clause
//
// COLLAPSE_RANGE and INSERT_RANGE: everything behind a place in the file moves.
//
// Blocks stay where they are in the pool; the file blocks of their extents change, in place in the leaves of the extent tree
// (TreeWriter::shift_keys), so that a move needs no space. Up to about a thousand extents one transaction does it all. More
// are cut: the first transaction commits the meaning (size, times, Inode::pending_*, and the inode joins the orphan
// list), each next one moves some leaves, the last one takes the inode off the list. pending_begin tells how far it got:
//
//   collapse   [pending_begin, pending_end) is where the gap is just now. What lies in it leaves the file; what is
//              behind it still has to move down. The gap moves up until nothing is behind it.
//   insert     the gap is empty; what is between pending_floor and the gap still has to move up. The gap moves down
//              until it is at the floor.
//
// Between two transactions extents have wrong file blocks. Nobody sees that: the inode's mutex is held from the first to
// the last, and after a crash mount finishes it before anybody can ask (FileSystemImpl::recover_shifts). Where it could
// not be finished (the pool failed, a read-only mount), the file's contents give kIo.
//
// Breaks from the offset to the end of whatever grows (R27): blocks move under whoever translates them, so pins and
// translations must end, a forced revocation is not enough (F4). The caller tells the kernel the new size (C7).
#include "fs/shift.h"

#include <algorithm>

#include "base/steps.h"
#include "fs/retried_change.h"

namespace pindax {

namespace {

using format::PendingShift;

constexpr FileBlock kFileEnd = end_block(format::kMaxFileBytes);
constexpr std::size_t kMostSharedRanges = 256;

PendingShift kind_of(const format::Inode& slot) { return static_cast<PendingShift>(slot.pending_shift.get()); }

void move_gap(format::Inode& slot, FileBlock to) {
  const u64 length = slot.pending_end - slot.pending_begin;
  slot.pending_begin = byte_of(to);
  slot.pending_end = byte_of(to) + length;
}

// What is unsynced lies elsewhere from now on.
void shift_unsynced(Inode& inode, PendingShift kind, u64 offset, u64 length) {
  MutexLock lock(inode.lazy_mutex);
  if (!inode.recent) return;
  Inode::Ranges moved;
  for (const auto& [begin, end] : inode.unsynced()) {
    add_range(moved, begin, std::min(end, offset));
    if (kind == PendingShift::kInsert) {
      if (end > offset) add_range(moved, std::max(begin, offset) + length, end > kMaxOffset - length ? kMaxOffset : end + length);
    } else if (end > offset + length) {
      add_range(moved, std::max(begin, offset + length) - length, end == kMaxOffset ? end : end - length);
    }
  }
  inode.unsynced().swap(moved);
}

// One transaction's worth of a shift that the slot says is pending. True: something remains.
Result<bool> step(FileSystemImpl& fs, Transaction& tx, Inode& inode, format::Inode& slot, const ChangeGrant& grant) {
  const u64 length = slot.pending_end - slot.pending_begin;
  const i64 by = static_cast<i64>(length >> kBlockShift);
  const bool collapse = kind_of(slot) == PendingShift::kCollapse;
  RecordBudget budget(tx);
  if (collapse) {
    const u64 before = slot.blocks;
    PINDAX_ASSIGN(const bool more, fs.free_file_range_step(tx, inode, slot.pending_begin, slot.pending_end, grant));
    if (more) return true;
    budget.count(before - slot.blocks);
  }
  InodeNodes nodes(fs.allocator(), slot);
  ExtentEditor editor(tx, slot, nodes);
  for (bool first = true;; first = false) {
    if (!first && !budget.has_room()) return true;  // a leaf always: every step gets somewhere
    const FileBlock gap = first_block(slot.pending_begin), gap_end = first_block(slot.pending_end);
    PINDAX_ASSIGN(const auto moved, collapse ? editor.shift(gap_end, kFileEnd, -by)
                                             : editor.shift(first_block(slot.pending_floor), gap, by));
    if (!moved) break;
    if (collapse) {
      // Where the gap was, two extents may be one now.
      PINDAX_TRY(editor.merge(FileBlock(moved->begin.value - static_cast<u64>(by))));
      move_gap(slot, moved->end - static_cast<u64>(by));
    } else {
      move_gap(slot, moved->begin);
    }
  }
  slot.pending_begin = 0;
  slot.pending_end = 0;
  slot.pending_floor = 0;
  slot.pending_shift = static_cast<u32>(PendingShift::kNone);
  return false;
}

// The same, and the inode joins or leaves the orphan list as needed.
Result<bool> listed_step(FileSystemImpl& fs, Transaction& tx, Inode& inode, format::Inode& slot, const ChangeGrant& grant,
                         bool was_orphan) {
  const PendingShift kind = kind_of(slot);
  PINDAX_ASSIGN(const bool more, step(fs, tx, inode, slot, grant));
  const bool is_orphan = belongs_to_orphans(slot);
  if (is_orphan && !was_orphan) PINDAX_TRY(fs.add_orphan(tx, inode.ino, kind));
  if (!is_orphan && was_orphan) PINDAX_TRY(fs.remove_orphan(tx, inode.ino));
  return more;
}

class Shift : public std::enable_shared_from_this<Shift> {
 public:
  Shift(FileSystemImpl& fs, InodeRef inode, PendingShift kind, u64 offset, u64 length,
        const FileSystem::ChangeContext& context)
      : fs_(fs), inode_(std::move(inode)), kind_(kind), offset_(offset), length_(length), context_(context) {}

  std::shared_ptr<Change> start(FileSystem::DoneStatus done) {
    const auto self = shared_from_this();
    return RetriedChange::start(
        fs_.layout(), inode_, [self] { return self->plan(); },
        [self](const ChangeGrant& grant, bool*) { return self->apply(grant); }, std::move(done));
  }

 private:
  bool collapses() const { return kind_ == PendingShift::kCollapse; }

  // As ext4 and xfs answer.
  Status check(const format::Inode& slot) const {
    PINDAX_TRY(check_data_change(slot, false));
    const u64 size = slot.size_bytes;
    if ((offset_ | length_) % kBlockSize != 0)
      return Status(Errc::kInvalid, "offset and length must be multiples of 4096 bytes");
    if (collapses()) {
      if (offset_ + length_ >= size)
        return Status(Errc::kInvalid, "the range to collapse reaches the end of the file: truncate it instead");
      return {};
    }
    if (length_ > format::kMaxFileBytes - size) return Status(Errc::kTooBig);
    if (offset_ >= size) return Status(Errc::kInvalid, "the place to insert at is not inside the file: extend it instead");
    return {};
  }

  Result<ChangeRequest> plan() {
    PINDAX_TRY(fs_.check_writable());
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    PINDAX_TRY(check(*slot));
    ChangeRequest request = make_change_request(fs_, *slot, collapses() ? "collapse" : "insert", context_);
    request.lock_range = request.break_range = {offset_, kMaxOffset};
    request.only_frees = false;
    return request;
  }

  // Blocks that fallocate put behind the end may have nowhere to go.
  Status check_blocks_behind(ExtentReader reader) const {
    if (collapses()) return {};
    PINDAX_ASSIGN(const auto last, reader.before(kFileEnd));
    if (last && last->file_end().value > kFileEnd.value - (length_ >> kBlockShift))
      return Status(Errc::kInvalid, "blocks that were reserved behind the end would pass the largest offset");
    return {};
  }

  Status begin(Transaction& tx, format::Inode& slot) {
    // Sizes changed before this hold began.
    PINDAX_TRY(check(slot));
    PINDAX_TRY(check_blocks_behind(ExtentReader(tx, slot)));
    InodeNodes nodes(fs_.allocator(), slot);
    ExtentEditor editor(tx, slot, nodes);
    // What needs space comes first: it is what may fail.
    PINDAX_TRY(editor.split(first_block(offset_)));
    if (collapses()) PINDAX_TRY(editor.split(first_block(offset_ + length_)));
    slot.pending_shift = static_cast<u32>(kind_);
    slot.pending_floor = offset_;
    const u64 gap = collapses() ? offset_ : byte_of(kFileEnd) - length_;
    slot.pending_begin = gap;
    slot.pending_end = gap + length_;
    slot.size_bytes = collapses() ? slot.size_bytes - length_ : slot.size_bytes + length_;
    if (!context_.caller.privileged) clear_set_id(slot, &context_.caller);
    stamp(slot, kStampMtime | kStampCtime, now());
    return {};
  }

  // Blocks that others own, too, are about to lie elsewhere in the file: gates are slow for all of it (fs/share.h),
  Status keep_gates_slow() {
    InodeLayout* layout = inode_->layout_if_any();
    if (layout == nullptr) return {};
    PINDAX_ASSIGN(slow_, fs_.shares_blocks(*inode_, {offset_, kMaxOffset}));
    if (slow_) fs_.layout().set_shared(*layout, {offset_, kMaxOffset}, true);
    return {};
  }

  // until they are there; then where they lie. Not for many of them: a pin that goes the slow way for nothing is no harm.
  Status let_gates_go(const format::Inode& slot) {
    InodeLayout* layout = inode_->layout_if_any();
    if (!slow_ || layout == nullptr) return {};
    std::vector<ByteRange> shared;
    PINDAX_TRY(ExtentReader(fs_.store(), slot).scan(first_block(offset_), kFileEnd, [&](const ExtentInfo& whole) {
      const ExtentInfo e = clip_extent(whole, first_block(offset_), kFileEnd);
      if (!e.shared) return true;
      if (!shared.empty() && shared.back().end == byte_of(e.file_block)) shared.back().end = byte_of(e.file_end());
      else shared.push_back({byte_of(e.file_block), byte_of(e.file_end())});
      return shared.size() <= kMostSharedRanges;
    }));
    if (shared.size() > kMostSharedRanges) return {};
    fs_.layout().set_shared(*layout, {offset_, kMaxOffset}, false);
    for (const ByteRange& r : shared) fs_.layout().set_shared(*layout, r, true);
    return {};
  }

  Status apply(const ChangeGrant& grant) {
    PINDAX_STEP("fs.shift_locked");
    PINDAX_TRY(finish_pending(fs_, *inode_, 0, kMaxOffset));
    PINDAX_TRY(keep_gates_slow());
    WriteLock lock(inode_->mutex);
    u64 size = 0;
    for (bool more = true, first = true; more; first = false) {
      Transaction tx(fs_.store());
      PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, *inode_));
      const bool was_orphan = belongs_to_orphans(*slot);
      fs_.lock_orphans(tx);  // before the allocator's locks
      if (first) PINDAX_TRY(begin(tx, *slot));
      PINDAX_ASSIGN(more, listed_step(fs_, tx, *inode_, *slot, grant, was_orphan));
      size = slot->size_bytes;
      if (first) {
        ++inode_->removals;
        ++inode_->shifts;
      }
      PINDAX_STEP("fs.shift_step");
      PINDAX_TRY(tx.commit());
      PINDAX_STEP("fs.shift_committed");
    }
    shift_unsynced(*inode_, kind_, offset_, length_);
    publish_size(fs_, *inode_, size);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    (void)let_gates_go(*slot);  // the change is done; gates that stay slow are correct
    return {};
  }

  FileSystemImpl& fs_;
  const InodeRef inode_;
  const PendingShift kind_;
  const u64 offset_, length_;
  const FileSystem::ChangeContext context_;
  bool slow_ = false;  // gates behind the offset are, until the blocks lie where they will stay
};

}  // namespace

std::shared_ptr<Change> start_shift(FileSystemImpl& fs, InodeRef inode, PendingShift kind, u64 offset, u64 length,
                                    const FileSystem::ChangeContext& context, FileSystem::DoneStatus done) {
  return std::make_shared<Shift>(fs, std::move(inode), kind, offset, length, context)->start(std::move(done));
}

Result<bool> shift_step(FileSystemImpl& fs, Transaction& tx, Inode& inode, format::Inode& slot, const ChangeGrant& grant) {
  fs.lock_orphans(tx);
  ++inode.removals;
  ++inode.shifts;
  return listed_step(fs, tx, inode, slot, grant, belongs_to_orphans(slot));
}

Status FileSystemImpl::recover_shifts() {
  PINDAX_ASSIGN(const auto inodes, list_shifting());
  for (const InodeNo ino : inodes) {
    auto inode = get(ino, 0);
    if (inode.code() == Errc::kStale) continue;
    PINDAX_TRY(inode);
    for (bool more = !(*inode)->orphan; more;) {
      PINDAX_ASSIGN(more, finish_pending_step(**inode, {}));
      PINDAX_STEP("mount.shift_step");
    }
  }
  return {};
}

}  // namespace pindax
