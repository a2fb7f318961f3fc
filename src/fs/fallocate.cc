// SPDX-License-Identifier: BSD-3-Clause
//
// fallocate(): reserve (0, KEEP_SIZE), PUNCH_HOLE, ZERO_RANGE, UNSHARE_RANGE. COLLAPSE_RANGE and INSERT_RANGE are in shift.cc.
//
// Reserve puts unwritten extents into holes, as few and large as there is space for; if space runs out, those
// that are committed already are taken back. Punch and zero lock and break every block that they touch, the
// partly covered ones at both ends too (their bytes change under whoever has them in a cache). Punch frees
// whole blocks through remove_range(); zero turns them into unwritten ones, in one transaction, or by way of
// a punch if there are too many. A crash leaves the operation done or not done, but for the zeros in partly
// covered blocks, which are stores as any other, and blocks reserved so far.
#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>

#include "base/steps.h"
#include "fs/file_data.h"
#include "fs/retried_change.h"
#include "fs/share.h"
#include "fs/shift.h"

namespace pindax {

namespace {

constexpr u64 kHugeBlocks = kHugePageSize / kBlockSize;
constexpr unsigned kMostExtents = 256;  // changed in one transaction

enum class Mode { kReserve, kPunch, kZero, kUnshare };

const char* name_of(Mode mode) {
  switch (mode) {
    case Mode::kReserve:
      return "fallocate";
    case Mode::kPunch:
      return "punch";
    case Mode::kZero:
      return "zero";
    case Mode::kUnshare:
      return "unshare";
  }
  return "";
}

// Fills the holes of [begin, end) with unwritten extents: all of them, or none and an error.
class Reservation {
 public:
  Reservation(FileSystemImpl& fs, Inode& inode) : fs_(fs), inode_(inode) {}

  Status reserve(FileBlock begin, FileBlock end) {
    PINDAX_TRY(finish_pending(fs_, inode_, byte_of(begin), byte_of(end)));
    PINDAX_TRY(check_space(begin, end));
    for (FileBlock at = begin; at < end;) {
      const auto next = part(at, end);
      if (!next.ok()) {
        undo();
        return next.status();
      }
      at = *next;
    }
    return {};
  }

  // Gives back what reserve() added.
  void undo() {
    for (const ExtentInfo& e : added_) {
      // An error leaves unwritten blocks in the file: they read as the holes they were.
      (void)remove_range(fs_, inode_, byte_of(e.file_block), byte_of(e.file_end()), ChangeGrant{},
                         [](Transaction&, format::Inode&) { return Status(); });
    }
    added_.clear();
  }

 private:
  Status check_space(FileBlock begin, FileBlock end) {
    u64 holes = end - begin;
    {
      ReadLock lock(inode_.mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(inode_));
      PINDAX_TRY(ExtentReader(fs_.store(), *slot).scan(begin, end, [&](const ExtentInfo& e) {
        holes -= clip_extent(e, begin, end).length;
        return true;
      }));
    }
    const SpaceSummary space = fs_.allocator().summary();
    return holes + space.reserved_blocks <= space.free_blocks ? Status() : Status(Errc::kNoSpace);
  }

  Result<FileBlock> part(FileBlock at, FileBlock end) {
    WriteLock lock(inode_.mutex);
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, inode_));
    InodeNodes nodes(fs_.allocator(), *slot);
    ExtentEditor editor(tx, *slot, nodes);
    RecordBudget budget(tx);
    std::vector<ExtentInfo> added;
    while (at < end && added.size() < kMostExtents && budget.has_room()) {
      PINDAX_ASSIGN(const auto found, ExtentReader(tx, *slot).at_or_after(at));
      if (found && found->file_block <= at) {
        at = found->file_end();
        continue;
      }
      const FileBlock stop = found ? std::min(found->file_block, end) : end;
      u64 wanted = stop - at;
      // The part before the first huge page of the file by itself, so that the rest is aligned in the pool
      // too.
      if (const u64 odd = at.value % kHugeBlocks; odd != 0 && wanted >= 2 * kHugeBlocks)
        wanted = kHugeBlocks - odd;
      AllocateRequest request = allocation_near(ExtentReader(tx, *slot), at, wanted);
      request.reserve_on_host = false;
      PINDAX_ASSIGN(const BlockRun run, fs_.allocator().allocate(tx, request));
      ExtentInfo e;
      e.file_block = at;
      e.block = run.start;
      e.length = static_cast<u32>(run.length);
      e.state = ExtentState::kUnwritten;
      PINDAX_TRY(editor.insert(e));
      budget.count(e.length);
      added.push_back(e);
      at = e.file_end();
    }
    if (added.empty()) return std::min(at, end);
    PINDAX_TRY(tx.commit());
    PINDAX_STEP("fs.reserved");
    added_.insert(added_.end(), added.begin(), added.end());
    return at;
  }

  FileSystemImpl& fs_;
  Inode& inode_;
  std::vector<ExtentInfo> added_;
};

class Fallocation : public std::enable_shared_from_this<Fallocation> {
 public:
  Fallocation(FileSystemImpl& fs, InodeRef inode, Mode mode, bool keep_size, ByteRange range,
              const FileSystem::ChangeContext& context)
      : fs_(fs),
        inode_(std::move(inode)),
        mode_(mode),
        keep_size_(keep_size),
        range_(range),
        context_(context) {}

  std::shared_ptr<Change> start(FileSystem::DoneStatus done) {
    const auto self = shared_from_this();
    return RetriedChange::start(
        fs_.layout(), inode_, [self] { return self->plan(); },
        [self](const ChangeGrant& grant, bool* again) { return self->apply(grant, again); }, std::move(done));
  }

 private:
  bool grows(u64 size) const { return !keep_size_ && range_.end > size; }
  bool only_adds() const { return mode_ == Mode::kReserve || mode_ == Mode::kUnshare; }

  Result<ChangeRequest> plan() {
    PINDAX_TRY(fs_.check_writable());
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    PINDAX_TRY(check_data_change(*slot, mode_ == Mode::kReserve));
    ChangeRequest request = make_change_request(fs_, *slot, name_of(mode_), context_);
    const u64 size = slot->size_bytes;
    const ByteRange blocks = block_aligned(range_);
    lock_ =
        grows(size) ? ByteRange{round_down(std::min(range_.begin, size), kBlockSize), kMaxOffset} : blocks;
    request.lock_range = lock_;
    request.reports_freed = mode_ == Mode::kPunch;
    if (!only_adds()) {
      // What is beyond the end now shows as such: it becomes a hole.
      request.break_range = {grows(size) ? std::min(blocks.begin, grow_begin(fs_, *inode_, size)) : blocks.begin, blocks.end};
    } else if (grows(size)) {
      request.break_range = {grow_begin(fs_, *inode_, size), kMaxOffset};
      request.recall_only = true;
      request.only_frees = false;
    }
    if (mode_ == Mode::kUnshare) {
      PINDAX_ASSIGN(copies_, may_share(ExtentReader(fs_.store(), *slot), first_block(blocks.begin), end_block(blocks.end)));
      if (copies_) {
        const ByteRange grown = request.break_range;
        request.break_range = grown.empty() ? blocks : ByteRange{std::min(blocks.begin, grown.begin), grown.end};
        request.recall_only = request.moves_blocks = true;
        request.only_frees = false;
      }
    }
    return request;
  }

  Status apply(const ChangeGrant& grant, bool* again) {
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      const u64 size = slot->size_bytes;
      *again = grows(size) && (lock_.end != kMaxOffset || size < lock_.begin || cached_tail(fs_, *inode_, size));
      if (mode_ == Mode::kUnshare && !copies_) {
        PINDAX_ASSIGN(const bool shares, may_share(ExtentReader(fs_.store(), *slot), first_block(range_.begin), end_block(range_.end)));
        *again = *again || shares;
      }
      if (*again) return {};
    }
    PINDAX_STEP("fs.fallocate_locked");
    switch (mode_) {
      case Mode::kUnshare:
        PINDAX_TRY(unshare_blocks(fs_, *inode_, range_.begin, range_.end, grant));
        return reserve();
      case Mode::kReserve:
        return reserve();
      case Mode::kPunch:
        return punch(grant);
      case Mode::kZero:
        return zero(grant);
    }
    return {};
  }

  // The size and times of a finished operation, for its last transaction.
  Status finish_slot(Transaction& tx, format::Inode& slot) {
    const bool bigger = grows(slot.size_bytes);
    if (bigger) {
      PINDAX_TRY(zero_tail(fs_, *inode_, ExtentReader(tx, slot), slot, range_.end));
      slot.size_bytes = range_.end;
    }
    if (!context_.caller.privileged) clear_set_id(slot, &context_.caller);
    const bool contents = bigger || !only_adds();
    stamp(slot, contents ? kStampMtime | kStampCtime : kStampCtime, now());
    return {};
  }

  Status finish() {
    WriteLock lock(inode_->mutex);
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, *inode_));
    PINDAX_TRY(finish_slot(tx, *slot));
    const u64 size = slot->size_bytes;
    PINDAX_TRY(tx.commit());
    publish_size(fs_, *inode_, size);
    return {};
  }

  Status reserve() {
    Reservation reservation(fs_, *inode_);
    PINDAX_TRY(reservation.reserve(first_block(range_.begin), end_block(range_.end)));
    const Status status = finish();
    if (!status.ok()) reservation.undo();
    return status;
  }

  // Zeros in the partly covered blocks at both ends.
  Status zero_edges(const ChangeGrant& grant) {
    const u64 head = std::min(range_.end, round_up(range_.begin, kBlockSize));
    const u64 tail = std::max(head, round_down(range_.end, kBlockSize));
    if (head == range_.begin && tail == range_.end) return {};
    for (const ByteRange edge : {ByteRange{range_.begin, head}, ByteRange{tail, range_.end}})
      if (!edge.empty()) PINDAX_TRY(unshare_blocks(fs_, *inode_, edge.begin, edge.end, grant));
    WriteLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    const ExtentReader reader(fs_.store(), *slot);
    for (const ByteRange edge : {ByteRange{range_.begin, head}, ByteRange{tail, range_.end}}) {
      if (edge.empty()) continue;
      PINDAX_ASSIGN(const auto extents,
                    visible_extents(reader, *slot, first_block(edge.begin), end_block(edge.end)));
      PINDAX_TRY(zero_in_place(fs_, *inode_, extents, edge.begin, edge.end));
    }
    return {};
  }

  Status punch(const ChangeGrant& grant) {
    PINDAX_TRY(zero_edges(grant));
    return remove_range(fs_, *inode_, range_.begin, range_.end, grant,
                        [&](Transaction& tx, format::Inode& slot) { return finish_slot(tx, slot); });
  }

  Status zero(const ChangeGrant& grant) {
    // Space first: it is what may fail.
    Reservation reservation(fs_, *inode_);
    PINDAX_TRY(reservation.reserve(first_block(range_.begin), end_block(range_.end)));
    PINDAX_TRY(zero_edges(grant));
    PINDAX_ASSIGN(const bool shares, shares_blocks());
    if (grant.to_quarantine.empty() && !shares) {
      bool fits = false;
      PINDAX_TRY(make_unwritten(&fits));
      if (fits) return {};
    }
    // Blocks that may not be used again, that others own, or too many for one record: out with them, and others in.
    PINDAX_TRY(remove_range(fs_, *inode_, range_.begin, range_.end, grant,
                            [&](Transaction& tx, format::Inode& slot) { return finish_slot(tx, slot); }));
    PINDAX_ASSIGN(const u64 size, fs_.size(*inode_));
    publish_size(fs_, *inode_, size);
    const Status again = Reservation(fs_, *inode_).reserve(first_block(range_.begin), end_block(range_.end));
    return again.code() == Errc::kNoSpace ? Status() : again;  // holes are zeros as well
  }

  Result<bool> shares_blocks() {
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    return may_share(ExtentReader(fs_.store(), *slot), end_block(range_.begin), first_block(range_.end));
  }

  Status make_unwritten(bool* fits) {
    const FileBlock begin = first_block(round_up(range_.begin, kBlockSize)), end = first_block(range_.end);
    WriteLock lock(inode_->mutex);
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, *inode_));
    RecordBudget budget(tx);
    InodeNodes nodes(fs_.allocator(), *slot);
    ExtentEditor editor(tx, *slot, nodes);
    for (FileBlock at = begin; at < end;) {
      if (!budget.has_room()) return {};
      PINDAX_ASSIGN(at, editor.set_state(at, end, ExtentState::kUnwritten, 0, kMostExtents / 16));
    }
    ++inode_->removals;
    PINDAX_TRY(finish_slot(tx, *slot));
    const u64 size = slot->size_bytes;
    PINDAX_TRY(tx.commit());
    publish_size(fs_, *inode_, size);
    *fits = true;
    return {};
  }

  FileSystemImpl& fs_;
  const InodeRef inode_;
  const Mode mode_;
  const bool keep_size_;
  const ByteRange range_;
  const FileSystem::ChangeContext context_;
  ByteRange lock_;  // of the round under way
  bool copies_ = false;
};

// What a mode asks for, or why there is no such mode: the order of checks is that of Linux's vfs_fallocate().
struct Asked {
  Mode mode = Mode::kReserve;
  format::PendingShift shift = format::PendingShift::kNone;  // else this
};

Result<Asked> understand(int mode) {
  constexpr int kAll = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_COLLAPSE_RANGE |
                       FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
  constexpr int kHoleOrZero = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  const Status alone(Errc::kInvalid, "this mode goes with no other flag");
  if ((mode & ~kAll) != 0) return Status(Errc::kNotSupported, "an unknown flag of fallocate");
  if ((mode & kHoleOrZero) == kHoleOrZero) return Status(Errc::kNotSupported);
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0 && (mode & FALLOC_FL_KEEP_SIZE) == 0)
    return Status(Errc::kNotSupported, "punching a hole keeps the size: say so");
  if ((mode & FALLOC_FL_COLLAPSE_RANGE) != 0)
    return mode == FALLOC_FL_COLLAPSE_RANGE ? Result<Asked>(Asked{.shift = format::PendingShift::kCollapse}) : alone;
  if ((mode & FALLOC_FL_INSERT_RANGE) != 0)
    return mode == FALLOC_FL_INSERT_RANGE ? Result<Asked>(Asked{.shift = format::PendingShift::kInsert}) : alone;
  switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
      return Asked{};
    case FALLOC_FL_PUNCH_HOLE:
      return Asked{.mode = Mode::kPunch};
    case FALLOC_FL_ZERO_RANGE:
      return Asked{.mode = Mode::kZero};
    case FALLOC_FL_UNSHARE_RANGE:
      return Asked{.mode = Mode::kUnshare};
    default:
      return alone;
  }
}

}  // namespace

std::shared_ptr<Change> FileSystemImpl::fallocate(InodeRef inode, int mode, u64 offset, u64 length,
                                                  const ChangeContext& context, DoneStatus done) {
  if (length == 0) return RetriedChange::failed(Status(Errc::kInvalid, "length 0"), done);
  if (offset > format::kMaxFileBytes || length > format::kMaxFileBytes)
    return RetriedChange::failed(Status(Errc::kInvalid, "a negative offset or length"), done);
  const Result<Asked> asked = understand(mode);
  if (!asked.ok()) return RetriedChange::failed(asked.status(), done);
  if (length > format::kMaxFileBytes - offset) return RetriedChange::failed(Status(Errc::kTooBig), done);
  if (const Status dropped = drop_capability(*inode); !dropped.ok()) return RetriedChange::failed(dropped, done);
  if (asked->shift != format::PendingShift::kNone)
    return start_shift(*this, std::move(inode), asked->shift, offset, length, context, std::move(done));
  return std::make_shared<Fallocation>(*this, std::move(inode), asked->mode, (mode & FALLOC_FL_KEEP_SIZE) != 0,
                                       ByteRange{offset, offset + length}, context)
      ->start(std::move(done));
}

}  // namespace pindax
