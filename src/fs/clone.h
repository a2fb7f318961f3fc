// SPDX-License-Identifier: BSD-3-Clause
//
// A range of one file gets the blocks of another (FICLONERANGE), or shares those that are equal already
// (FIDEDUPERANGE).
//
//   request  what is asked for, by the sizes of the moment (clone_request.cc).
//   mark     a complete break of the source's range (pins, writable translations, dirty pages of the kernel)
//            flags its extents as shared (clone_mark.cc). Skipped where all of them are flagged already: then
//            nobody stores into them (fs/share.h, invariants 2, 4).
//   share    a complete break of the destination's range; in it, a transaction at a time under both inodes'
//            mutexes (T1: ascending inode numbers, whatever the direction): blocks of the destination leave,
//            those of the source are counted up and enter (clone_share.cc). A dedupe compares first
//            (dedupe_compare.cc). An extent of the source that is not flagged any more was stored into
//            meanwhile: back to mark.
//
// Range locks of two inodes are never held at once, so a wait for pins of one file holds nobody up on the
// other (R28). Going round again means that somebody else got on. A crash leaves a prefix of the range
// shared, in whole transactions.
//
// Locking: one step runs at a time, and what has no guard belongs to it. mutex_ guards what interrupt()
// meets.
#pragma once

#include "fs/file_data.h"

namespace pindax {

// How many bytes a request shares: whole blocks, and the part of the source's last one where the destination
// does not go on behind it. Errors are those of Linux (generic_remap_file_range_prep()).
Result<u64> clone_length(const FileSystem::CloneRequest& ask, const format::Inode& from,
                         const format::Inode& to);

// True if `bytes` bytes from two block-aligned offsets on are the same. Both inodes are locked, and nobody
// stores into either range. kPoisoned at a bad block.
Result<bool> same_bytes(FileSystemImpl& fs, const format::Inode& left, u64 left_offset,
                        const format::Inode& right, u64 right_offset, u64 bytes);

class Clone final : public Change, public std::enable_shared_from_this<Clone> {
 public:
  Clone(FileSystemImpl& fs, const FileSystem::CloneRequest& request, const FileSystem::ChangeContext& context,
        std::function<void(Result<u64>)> done)
      : fs_(fs), ask_(request), context_(context), done_(std::move(done)) {}

  void start();
  void interrupt() override;

 private:
  static constexpr unsigned kMostExtents = 128;  // of one transaction
  static constexpr unsigned kExtentsAtOnce = 16;

  Inode& source() const { return *ask_.source; }
  Inode& target() const { return *ask_.destination; }
  ByteRange source_range() const { return block_aligned({ask_.source_offset, ask_.source_offset + count_}); }
  u64 target_end() const { return ask_.destination_offset + count_; }

  Status prepare();
  Status measure() NO_THREAD_SAFETY_ANALYSIS;
  void mark();
  void share();
  void set_patience(ChangeRequest& request) const;
  void run(Inode& inode, const ChangeRequest& request, std::function<Status(const ChangeGrant&)> apply,
           std::function<void(Status)> done);
  void finish(Status status);

  // ---- clone_mark.cc ----
  Result<bool> is_marked();
  Status flag_source();
  Status zero_source_tail();

  // ---- clone_share.cc ----
  Result<ChangeRequest> plan();
  Status share_all(const ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS;
  void note_source_unsynced() NO_THREAD_SAFETY_ANALYSIS;
  Status look_again(const format::Inode& from, const format::Inode& to);
  Status piece(const ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS;
  void pass_on_unsynced(u64 begin, u64 end);
  Result<u64> segment(Transaction& tx, format::Inode& to, ExtentReader& reader, u64 at, u64 end,
                      const ChangeGrant& grant, RecordBudget& budget);
  Result<u64> take_out(Transaction& tx, format::Inode& to, FileBlock d, FileBlock stop,
                       const ChangeGrant& grant, RecordBudget& budget);
  Result<bool> equal(u64 begin, u64 end) NO_THREAD_SAFETY_ANALYSIS;

  FileSystemImpl& fs_;
  const FileSystem::CloneRequest ask_;
  const FileSystem::ChangeContext context_;
  std::function<void(Result<u64>)> done_;
  u64 count_ = 0;           // bytes
  u64 done_blocks_ = 0;     // shared so far
  Inode::Ranges unsynced_;  // of the source
  ByteRange lock_;          // of the destination, in the round under way
  unsigned rounds_ = 0;
  bool again_ = false;
  bool differs_ = false;

  Mutex mutex_{LockRank::kLeaf};
  std::shared_ptr<Change> inner_ GUARDED_BY(mutex_);
  unsigned changes_ GUARDED_BY(mutex_) = 0;
  bool interrupted_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
};

}  // namespace pindax
