// SPDX-License-Identifier: BSD-3-Clause
//
// truncate(), and taking blocks out of a file.
//
// A shrink locks and breaks from the block that holds the new end, as the kernel's
// dax_layout_busy_page_range() does: the cut block stays in the file, but its bytes behind the end are about
// to vanish under whoever pins it or has it in a page cache. The size commits first and the cut block's tail
// is zeroed after: a crash in between leaves old bytes behind the end only, and every extension zeros those
// before it commits. Growing locks from the block of the old end, zeros its tail and breaks nothing;
// translations of what lay beyond the end are recalled.
//
// Blocks leave in transactions that fit into a record. If there are several, the first commits the meaning:
// size and pending_begin/pending_end, and the inode joins the orphan list; the last one takes it off.
// Recovery, or the next store into the range, finishes what a crash cut short.
#include <algorithm>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/retried_change.h"
#include "fs/share.h"
#include "fs/shift.h"

namespace pindax {

namespace {

constexpr unsigned kExtentsAtOnce = 16;  // between two looks at the record's size
constexpr unsigned kMostExtents = 512;   // in one transaction

void set_pending(format::Inode& slot, u64 begin, u64 end) {
  slot.pending_begin = begin;
  slot.pending_end = end;
}

// One step of freeing the pending range; joins or leaves the orphan list as needed. True: something remains.
Result<bool> free_step(FileSystemImpl& fs, Transaction& tx, Inode& inode, format::Inode& slot, u64 begin,
                       u64 end, const ChangeGrant& grant) {
  const bool was_orphan = belongs_to_orphans(slot);
  // The list's lock comes before the allocator's trees'. Inline extents need a second step only if they are shared.
  bool needed = was_orphan || slot.data_kind == static_cast<u16>(format::DataKind::kTree);
  if (!needed) {
    PINDAX_ASSIGN(needed, may_share(ExtentReader(tx, slot), end_block(begin), end_block(end)));
  }
  if (needed) fs.lock_orphans(tx);
  PINDAX_ASSIGN(const bool more, fs.free_file_range_step(tx, inode, begin, end, grant));
  set_pending(slot, more ? begin : 0, more ? end : 0);
  const bool is_orphan = belongs_to_orphans(slot);
  if (is_orphan && !was_orphan) PINDAX_TRY(fs.add_orphan(tx, inode.ino));
  if (!is_orphan && was_orphan) PINDAX_TRY(fs.remove_orphan(tx, inode.ino));
  return more;
}

}  // namespace

Result<bool> FileSystemImpl::free_file_range_step(Transaction& tx, Inode& inode, u64 begin, u64 end,
                                                  const ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS {
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  const FileBlock last = end == kMaxOffset ? first_block(kMaxOffset) : first_block(end);
  FileBlock at = end_block(begin);
  InodeNodes nodes(*allocator_, *slot);
  ExtentEditor editor(tx, *slot, nodes);
  RunReleaser releaser(*this, tx, grant);
  RecordBudget budget(tx);
  for (unsigned extents = 0; at < last; extents += kExtentsAtOnce) {
    // The first few always: every step gets somewhere.
    if (extents >= kMostExtents || (extents > 0 && !budget.has_room())) return true;
    PINDAX_ASSIGN(const FileBlock stop, releasable_end(*this, tx, *slot, at, last));
    PINDAX_ASSIGN(at, editor.remove(at, stop, kExtentsAtOnce, [&](const ExtentInfo& e) {
      budget.count(e.length);
      return releaser.release(e);
    }));
    ++inode.removals;
  }
  return false;
}

namespace {

// Frees what a former mount left pending. Locked throughout, as remove_range(): so whoever sees a pending
// range under the lock knows that nobody is at work on it with a grant of his own.
Status finish_pending_locked(FileSystemImpl& fs, Inode& inode) REQUIRES(inode.mutex) {
  ChangeGrant grant;
  grant.was_mapped = fs.layout().ever_mapped(*inode.layout());
  for (;;) {
    Transaction tx(fs.store());
    PINDAX_ASSIGN(format::Inode * slot, fs.change_slot(tx, inode));
    if (slot->pending_end <= slot->pending_begin) return {};
    if (slot->pending_shift != static_cast<u32>(format::PendingShift::kNone)) {
      PINDAX_TRY(shift_step(fs, tx, inode, *slot, grant));
    } else {
      PINDAX_TRY(free_step(fs, tx, inode, *slot, slot->pending_begin, slot->pending_end, grant));
    }
    PINDAX_TRY(tx.commit());
  }
}

}  // namespace

Status remove_range(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant,
                    const std::function<Status(Transaction&, format::Inode&)>& first) {
  const u64 from = round_up(begin, kBlockSize);
  const u64 to = end == kMaxOffset ? kMaxOffset : round_down(end, kBlockSize);
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
    if (slot->pending_end > slot->pending_begin) PINDAX_TRY(finish_pending_locked(fs, inode));
  }
  for (bool more = true, is_first = true; more; is_first = false) {
    Transaction tx(fs.store());
    PINDAX_ASSIGN(format::Inode * slot, fs.change_slot(tx, inode));
    if (is_first) PINDAX_TRY(first(tx, *slot));
    PINDAX_ASSIGN(more, free_step(fs, tx, inode, *slot, from, std::max(from, to), grant));
    PINDAX_STEP("fs.remove_step");
    PINDAX_TRY(tx.commit());
    PINDAX_STEP("fs.remove_committed");
  }
  return {};
}

Status finish_pending(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end) {
  {
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
    if (!ByteRange{slot->pending_begin, slot->pending_end}.overlaps({begin, end})) return {};
  }
  WriteLock lock(inode.mutex);
  return finish_pending_locked(fs, inode);
}

namespace {

class Truncation : public std::enable_shared_from_this<Truncation> {
 public:
  Truncation(FileSystemImpl& fs, InodeRef inode, u64 size, const FileSystem::ChangeContext& context)
      : fs_(fs), inode_(std::move(inode)), size_(size), context_(context) {}

  std::shared_ptr<Change> start(FileSystem::DoneStatus done) {
    const auto self = shared_from_this();
    return RetriedChange::start(
        fs_.layout(), inode_, [self] { return self->plan(); },
        [self](const ChangeGrant& grant, bool* again) { return self->apply(grant, again); }, std::move(done));
  }

 private:
  Result<ChangeRequest> plan() {
    PINDAX_TRY(fs_.check_writable());
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    PINDAX_TRY(check_data_change(*slot, false));
    ChangeRequest request = make_change_request(fs_, *slot, "truncate", context_);
    const u64 old = slot->size_bytes;
    lock_begin_ = round_down(std::min(size_, old), kBlockSize);
    request.lock_range = {lock_begin_, kMaxOffset};
    breaks_ = size_ < old || has_blocks_behind(*slot);
    if (breaks_) {
      request.reports_freed = true;
      request.break_range = {size_ < old ? lock_begin_ : round_up(old, kBlockSize), kMaxOffset};
    } else if (size_ > old) {
      request.break_range = {grow_begin(fs_, *inode_, old), kMaxOffset};
      request.recall_only = true;
      request.only_frees = false;
    }
    return request;
  }

  // Blocks that fallocate put behind the end go as well, if the size stays.
  bool has_blocks_behind(const format::Inode& slot) {
    if (size_ != slot.size_bytes) return false;
    const auto found = ExtentReader(fs_.store(), slot).at_or_after(end_block(size_));
    return found.ok() && found.value().has_value();
  }

  Status apply(const ChangeGrant& grant, bool* again) {
    u64 old = 0;
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      old = slot->size_bytes;
      const bool tail_cached = size_ > old && !context_.kernel_setattr && cached_tail(fs_, *inode_, old);
      if (std::min(size_, old) < lock_begin_ || tail_cached || (!breaks_ && (size_ < old || has_blocks_behind(*slot)))) {
        *again = true;
        return {};
      }
    }
    PINDAX_STEP("fs.truncate_locked");
    return size_ > old ? grow() : shrink(grant);
  }

  void finish_slot(format::Inode& slot) {
    slot.size_bytes = size_;
    if (!context_.caller.privileged) clear_set_id(slot);
    stamp(slot, kStampMtime | kStampCtime, now());
  }

  Status grow() {
    PINDAX_TRY(finish_pending(fs_, *inode_, lock_begin_, kMaxOffset));
    WriteLock lock(inode_->mutex);
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, *inode_));
    PINDAX_TRY(zero_tail(fs_, *inode_, ExtentReader(tx, *slot), *slot, size_));
    finish_slot(*slot);
    PINDAX_TRY(tx.commit());
    publish_size(fs_, *inode_, size_);
    return {};
  }

  Status shrink(const ChangeGrant& grant) {
    // What is cut gets zeros behind the end: not in a block that others own as well. It is what may fail for want of space.
    if (size_ % kBlockSize != 0) {
      PINDAX_ASSIGN(const bool lost, cuts_lost_block());
      if (!lost) PINDAX_TRY(unshare_blocks(fs_, *inode_, round_down(size_, kBlockSize), round_up(size_, kBlockSize), grant));
    }
    PINDAX_TRY(remove_range(fs_, *inode_, size_, kMaxOffset, grant, [&](Transaction&, format::Inode& slot) {
      finish_slot(slot);
      return Status();
    }));
    WriteLock lock(inode_->mutex);
    publish_size(fs_, *inode_, size_);
    if (size_ % kBlockSize == 0) return {};
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    const FileBlock cut = first_block(size_);
    PINDAX_ASSIGN(const auto extents, visible_extents(ExtentReader(fs_.store(), *slot), *slot, cut, cut + 1));
    if (has_bad(fs_, extents)) return {};
    return zero_in_place(fs_, *inode_, extents, size_, byte_of(cut + 1));
  }

  // What is behind the end of a bad block is as lost as the rest: there is nothing to zero.
  Result<bool> cuts_lost_block() {
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    return has_bad(fs_, ExtentReader(fs_.store(), *slot), first_block(size_), end_block(size_));
  }

  FileSystemImpl& fs_;
  const InodeRef inode_;
  const u64 size_;
  const FileSystem::ChangeContext context_;
  u64 lock_begin_ = 0;  // of the round under way
  bool breaks_ = false;
};

}  // namespace

ChangeRequest make_change_request(FileSystemImpl& fs, const format::Inode& slot, const char* operation,
                                  const FileSystem::ChangeContext& context) {
  const LayoutOptions& mount = fs.options().layout;
  ChangeRequest request;
  request.operation = operation;
  request.requester = context.requester;
  request.kernel_setattr = context.kernel_setattr;
  const auto own = static_cast<BusyPolicy>(slot.busy_policy.get());
  const bool has_own = own > BusyPolicy::kInherit && own <= BusyPolicy::kEvict;
  request.policy = has_own ? own : mount.policy;
  request.deadline = has_own ? std::nullopt : mount.deadline;
  if (has_own && slot.busy_deadline_ms != 0)
    request.deadline = std::chrono::milliseconds(slot.busy_deadline_ms);
  if (context.policy && *context.policy != BusyPolicy::kInherit) {
    request.policy = *context.policy;
    request.deadline = std::nullopt;
  }
  if (context.deadline) request.deadline = context.deadline;
  // The mount's policy is its owner's word; everybody else evicts only whom he may signal.
  if (has_own || (context.policy && *context.policy != BusyPolicy::kInherit)) request.evict_as = context.requester.uid;
  return request;
}

std::shared_ptr<Change> FileSystemImpl::truncate(InodeRef inode, u64 size, const ChangeContext& context,
                                                 DoneStatus done) {
  if (size > format::kMaxFileBytes) return RetriedChange::failed(Status(Errc::kTooBig), done);
  if (const Status dropped = drop_capability(*inode); !dropped.ok()) return RetriedChange::failed(dropped, done);
  return std::make_shared<Truncation>(*this, std::move(inode), size, context)->start(std::move(done));
}

}  // namespace pindax
