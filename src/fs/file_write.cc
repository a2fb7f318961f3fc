// SPDX-License-Identifier: BSD-3-Clause
//
// write() and write_back().
//
// Two ways of a write:
//   1. in place: all blocks hold data and are the file's own, inside the size. Shared hold, once the kernel has dropped its pages of
//   the range (C7; also for a write(2): the kernel drops them before it asks, but a fill may come in
//   between); Inode::mutex for the lookup only; nothing is committed.
//   2. else blocks appear, or shared ones are copied. An exclusive hold, since whoever was told "hole" under a shared one must not map
//   its zero page
//      after the block is there; translations of zeros are recalled (R18, R19); pins do not matter (P4). A
//      write that extends the file holds everything from the block of the file's end on: whoever changes the
//      size does, so sizes change one after the other, an append finds the end where it is (R45), and nobody
//      stores into the tail that is being zeroed (R46). The kernel's pages of all that is written, and of that
//      tail, are dropped.
#include <algorithm>
#include <thread>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/retried_change.h"
#include "fs/share.h"

namespace pindax {

namespace {

// The request's bytes: the caller's while the caller is inside write(), then a copy.
class Source {
 public:
  explicit Source(std::span<const std::byte> data) : data_(data), caller_(std::this_thread::get_id()) {}

  // For the thread that carries the write out. Waits at most for the copy below.
  const std::byte* bytes() {
    if (std::this_thread::get_id() == caller_ && !returned_) return data_.data();
    ready_.wait(false, std::memory_order_acquire);
    return data_.data();
  }
  std::size_t size() const { return size_; }

  // The caller's thread: the write is complete; and: write() is about to return.
  void complete() {
    if (std::this_thread::get_id() == caller_ && !returned_) completed_ = true;
  }
  void caller_returns() {
    returned_ = true;
    if (completed_) return;
    copy_.assign(data_.begin(), data_.end());
    data_ = copy_;
    ready_.store(true, std::memory_order_release);
    ready_.notify_all();
  }

 private:
  std::span<const std::byte> data_;
  const std::size_t size_ = data_.size();
  const std::thread::id caller_;
  bool returned_ = false;  // these two: the caller's thread only
  bool completed_ = false;
  std::vector<std::byte> copy_;
  std::atomic<bool> ready_{false};
};

class WriteOperation : public std::enable_shared_from_this<WriteOperation> {
 public:
  WriteOperation(FileSystemImpl& fs, InodeRef inode, const FileSystem::WriteRequest& request,
                 std::function<void(Result<u64>)> done)
      : fs_(fs),
        inode_(std::move(inode)),
        source_(request.data),
        offset_(request.offset),
        append_(request.append),
        sync_(request.sync),
        caller_(request.caller),
        done_(std::move(done)) {}

  void start() {
    const Status status = begin();
    if (!status.ok()) finish(status);
    source_.caller_returns();
  }

 private:
  u64 end() const { return offset_ + length_; }

  Status begin() {
    PINDAX_TRY(fs_.check_writable());
    length_ = source_.size();
    u64 size = 0;
    bool likely_in_place = false;  // a hint: the first block says
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      PINDAX_TRY(check_data_change(*slot, append_));
      size = slot->size_bytes;
      if ((slot->flags & format::kFlagSync) != 0) sync_ = true;
      if (!append_ && length_ > 0 && offset_ < size) {
        const FileBlock block = first_block(offset_);
        PINDAX_ASSIGN(const auto found,
                      visible_extents(ExtentReader(fs_.store(), *slot), *slot, block, block + 1));
        likely_in_place = all_private_data(fs_, found, block, block + 1);
      }
    }
    if (append_) offset_ = size;
    PINDAX_TRY(clip());
    if (length_ == 0) {
      finish({});
    } else if (append_ || end() > size || !likely_in_place) {
      take_exclusive();
    } else {
      take_shared();
    }
    return {};
  }

  // The part below the limit of file sizes.
  Status clip() {
    if (source_.size() > 0 && offset_ >= format::kMaxFileBytes) return Status(Errc::kTooBig);
    length_ = std::min<u64>(source_.size(), format::kMaxFileBytes - std::min(offset_, format::kMaxFileBytes));
    return {};
  }

  void take_shared() {
    fs_.layout().with_cache_dropped(
        *inode_->layout(), block_aligned({offset_, end()}), Layout::CachedPages::kAll,
        [self = shared_from_this()](Result<SharedHold> hold) {
          if (!hold.ok()) return self->finish(hold.status());
          self->with_shared_hold(std::move(hold).value());
        });
  }

  void with_shared_hold(SharedHold hold) {
    bool fits = false;
    Status status = in_place(&fits);
    PINDAX_STEP("fs.write_shared");
    hold.release();
    // A block that turned out to be bad is replaced, if all of it is written.
    const bool replaces = status.code() == Errc::kPoisoned;
    if ((status.ok() && !fits) || replaces) return take_exclusive();
    finish(status);
  }

  // Way 1. Leaves *fits false, having done nothing, if that is not possible.
  Status in_place(bool* fits) {
    std::vector<ExtentInfo> extents;
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      if (end() > slot->size_bytes || (!caller_.privileged && has_set_id(*slot))) return {};
      PINDAX_ASSIGN(extents, visible_extents(ExtentReader(fs_.store(), *slot), *slot, first_block(offset_),
                                             end_block(end())));
    }
    if (!all_private_data(fs_, extents, first_block(offset_), end_block(end()))) return {};
    *fits = true;
    const std::byte* const data = source_.bytes();
    for (const ExtentInfo& e : extents) {
      const u64 from = std::max(offset_, byte_of(e.file_block)), to = std::min(end(), byte_of(e.file_end()));
      PINDAX_TRY(overwrite(fs_, block_offset(e.block) + (from - byte_of(e.file_block)),
                           data + (from - offset_), to - from));
    }
    PINDAX_TRY(finish_overwrite(fs_, *inode_, offset_, length_));
    fs_.note_modified(*inode_);
    written_ = length_;
    return {};
  }

  // Way 2, under the hold.
  Status store(const ChangeGrant* grant) {
    StoreJob job;
    job.grant = grant;
    job.offset = offset_;
    job.end = end();
    job.data = source_.bytes();
    job.extends = true;
    job.keep_set_id = caller_.privileged;
    PINDAX_ASSIGN(written_, store_range(fs_, *inode_, job));
    return {};
  }

  void take_exclusive() {
    const auto self = shared_from_this();
    RetriedChange::start(
        fs_.layout(), inode_, [self] { return self->plan(); },
        [self](const ChangeGrant& grant, bool* again) { return self->with_exclusive_hold(grant, again); },
        [self](Status status) { self->finish(std::move(status)); });
  }

  Result<ChangeRequest> plan() {
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    const u64 size = slot->size_bytes;
    ChangeRequest request;
    request.operation = "write";
    request.requester = {.tid = caller_.tid, .uid = caller_.uid};
    request.recall_only = true;
    request.only_frees = false;
    const u64 at = append_ ? size : offset_;
    if (append_ || end() > size) {
      lock_begin_ = round_down(std::min(at, size), kBlockSize);
      request.lock_range = {lock_begin_, kMaxOffset};
    } else {
      lock_begin_ = round_down(at, kBlockSize);
      request.lock_range = block_aligned({offset_, end()});
    }
    lock_end_ = request.lock_range.end;
    PINDAX_ASSIGN(recall_begin_, first_new_block(*slot, at));
    PINDAX_ASSIGN(copies_, replaces_blocks(*slot, at, at + length_));
    request.moves_blocks = copies_;
    const ByteRange pages = touched(at + length_);
    recall_begin_ = std::min(recall_begin_, fs_.layout().first_cached(*inode_->layout(), pages));
    if (recall_begin_ < lock_end_) request.break_range = {recall_begin_, lock_end_};
    return request;
  }

  // Shared ones by copies, bad ones by new ones.
  Result<bool> replaces_blocks(const format::Inode& slot, u64 begin, u64 end) {
    const ExtentReader reader(fs_.store(), slot);
    PINDAX_ASSIGN(const bool shares, may_share(reader, first_block(begin), end_block(end)));
    if (shares) return true;
    return has_bad(fs_, reader, first_block(begin), end_block(end));
  }

  // The range, under this round's hold, of which the kernel must not keep a page.
  ByteRange touched(u64 end) const { return {lock_begin_, std::max(lock_begin_, round_up(end, kBlockSize))}; }

  // Where translations may show zeros that are about to get contents, or blocks that are about to be copied: from `at` on, or
  // behind its block if that one is stored into in place; and, where the file grows over a gap, what is beyond the end now.
  Result<u64> first_new_block(const format::Inode& slot, u64 at) {
    const FileBlock block = first_block(at);
    PINDAX_ASSIGN(const auto extents,
                  visible_extents(ExtentReader(fs_.store(), slot), slot, block, block + 1));
    const bool data = all_private_data(fs_, extents, block, block + 1);
    const u64 zeros = byte_of(data ? block + 1 : block);
    return at > slot.size_bytes ? std::min(zeros, round_up(slot.size_bytes, kBlockSize)) : zeros;
  }

  Status with_exclusive_hold(const ChangeGrant& grant, bool* again) {
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      const u64 size = slot->size_bytes;
      if (append_) {
        offset_ = size;
        PINDAX_TRY(clip());
      }
      const bool grows = end() > size;
      if (offset_ < lock_begin_ || (grows && (size < lock_begin_ || lock_end_ != kMaxOffset))) *again = true;
      if (!*again) {
        PINDAX_ASSIGN(const u64 needed, first_new_block(*slot, offset_));
        PINDAX_ASSIGN(const bool copies, replaces_blocks(*slot, offset_, end()));
        *again = (copies && !copies_) || needed < std::min(recall_begin_, end()) ||
                 fs_.layout().first_cached(*inode_->layout(), touched(end())) < recall_begin_;
      }
      if (*again) return {};
    }
    PINDAX_STEP("fs.write_exclusive");
    return store(&grant);
  }

  void finish(Status status) {
    const bool lazy =
        fs_.media().granularity() == Granularity::kPage || fs_.store().mode() == SyncMode::kPosix;
    if (status.ok() && sync_ && written_ > 0 && lazy) status = fs_.fsync(*inode_, true);
    source_.complete();
    const auto done = std::move(done_);
    if (status.ok()) {
      done(written_);
    } else {
      done(status);
    }
  }

  FileSystemImpl& fs_;
  const InodeRef inode_;
  Source source_;
  u64 offset_;
  u64 length_ = 0;
  const bool append_;
  bool sync_;
  const Caller caller_;
  std::function<void(Result<u64>)> done_;

  u64 lock_begin_ = 0, lock_end_ = 0, recall_begin_ = 0;  // of the round under way
  bool copies_ = false;
  u64 written_ = 0;
};

}  // namespace

void FileSystemImpl::write(InodeRef inode, const WriteRequest& request,
                           std::function<void(Result<u64>)> done) {
  if (const Status dropped = drop_capability(*inode); !dropped.ok()) return done(dropped);
  std::make_shared<WriteOperation>(*this, std::move(inode), request, std::move(done))->start();
}

Status FileSystemImpl::write_back(Inode& inode, u64 offset, std::span<const std::byte> data) {
  PINDAX_TRY(check_writable());
  u64 end = std::min(offset + data.size(), format::kMaxFileBytes);
  if (offset >= end) return {};
  {
    // The shared lock keeps the blocks in the file during the copy: layout changes take it exclusively.
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
    if (!is_regular(*slot)) return Status(Errc::kInvalid, "not a regular file");
    end = std::min<u64>(end, slot->size_bytes);
    if (offset >= end) return {};
    if (!layout_->may_write_back(*inode.layout(), block_aligned({offset, end}))) return {};
    PINDAX_STEP("fs.write_back_allowed");
    PINDAX_ASSIGN(const auto extents,
                  visible_extents(ExtentReader(*store_, *slot), *slot, first_block(offset), end_block(end)));
    if (all_private_data(*this, extents, first_block(offset), end_block(end))) {
      Status stored;
      for (const ExtentInfo& e : extents) {
        const u64 from = std::max(offset, byte_of(e.file_block)), to = std::min(end, byte_of(e.file_end()));
        if (stored.ok())
          stored = overwrite(*this, block_offset(e.block) + (from - byte_of(e.file_block)), data.data() + (from - offset), to - from);
      }
      if (stored.code() != Errc::kPoisoned) {  // else the block is replaced below
        PINDAX_TRY(stored);
        PINDAX_TRY(finish_overwrite(*this, inode, offset, end - offset));
        end = 0;
      }
    }
  }
  if (end == 0) {
    note_modified(inode);
    return {};
  }
  // A page was stored into for which the file has no block of its own. The block went bad since the page was filled. Or the page
  // was filled before any handle could write: open() of a file that shares blocks, and mmap() of any, make the kernel drop such
  // pages and wait for fills under way, but what somebody holds a reference to stays (fuse_file_mmap() does not look at what
  // invalidate_inode_pages2() returns), so a page of a hole or of a shared block may come. It gets its block, or its copy, now and
  // without a hold of the range (C3): whoever has the zeros or the old block mapped keeps them until the next recall.
  StoreJob job;
  job.offset = offset;
  job.end = end;
  job.data = data.data();
  job.write_back = true;
  PINDAX_ASSIGN(const u64 done, store_range(*this, inode, job));
  return done == end - offset ? Status() : Status(Errc::kNoSpace);
}

}  // namespace pindax
