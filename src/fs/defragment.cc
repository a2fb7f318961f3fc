// SPDX-License-Identifier: BSD-3-Clause
//
// Making files contiguous and aligned to 2 MiB, a chunk at a time.
//
// A chunk is a piece of the file without holes, at most kWindowBlocks long, that begins at a multiple of 2 MiB wherever it
// could be mapped by 2 MiB pages. It is worth moving if it has several fragments, or lies askew. The move is a layout change
// as any other: the chunk is broken (its pins and translations end, the kernel's pages are dropped), its bytes are copied to
// new blocks and made durable, and one transaction exchanges the extents and frees the old blocks. A crash leaves the old
// extents or the new ones, each with the file's contents; blocks that were allocated and not yet committed are free.
//
// The copy runs without Inode::mutex: the range is held exclusively, so its blocks stay; only the state of extents may
// change meanwhile (fsync), which is looked at again. Chunks with shared or bad blocks stay where they are.
#include <algorithm>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/retried_change.h"
#include "fs/share.h"

namespace pindax {

namespace {

constexpr u64 kHugeBlocks = kHugePageSize / kBlockSize;
constexpr u64 kWindowBlocks = 16 * kHugeBlocks;
constexpr std::size_t kMostFragments = 512;  // in one record
constexpr u64 kCopyBytes = 256 * 1024;

struct Chunk {
  FileBlock begin, end;
  std::vector<ExtentInfo> extents;  // all of it
  std::size_t fragments = 0;
  bool shared = false;

  u64 length() const { return end - begin; }
  bool wants_alignment() const { return begin.value % kHugeBlocks == 0 && length() >= kHugeBlocks; }
  bool aligned() const { return !extents.empty() && extents.front().block.value % kHugeBlocks == 0; }
  // Some 2 MiB page of it can be mapped as such already.
  bool some_huge() const {
    FileBlock from = begin;
    for (std::size_t i = 0; i < extents.size(); ++i) {
      const ExtentInfo& e = extents[i];
      const bool joins = i > 0 && extents[i - 1].block + extents[i - 1].length == e.block;
      if (!joins) from = e.file_block;
      const u64 first = round_up(from.value, kHugeBlocks);
      const bool same_phase = e.file_block.value % kHugeBlocks == e.block.value % kHugeBlocks;
      if (same_phase && first + kHugeBlocks <= e.file_end().value) return true;
    }
    return false;
  }
  bool good() const { return fragments <= 1 && (!wants_alignment() || aligned()); }

  void add(const ExtentInfo& e) {
    const bool joins = !extents.empty() && extents.back().block + extents.back().length == e.block;
    if (!joins) ++fragments;
    shared = shared || e.shared;
    extents.push_back(e);
    end = e.file_end();
  }
};

// The chunk at or behind `from`; empty at the end of the file.
Result<Chunk> chunk_at(ExtentReader reader, FileBlock from, u64 window) {
  Chunk chunk;
  PINDAX_ASSIGN(const auto first, reader.at_or_after(from));
  if (!first) return chunk;
  chunk.begin = chunk.end = std::max(from, first->file_block);
  const FileBlock huge(round_up(chunk.begin.value, kHugeBlocks));
  const FileBlock limit = huge != chunk.begin ? huge : FileBlock(round_down(chunk.begin.value, window) + window);
  PINDAX_TRY(reader.scan(chunk.begin, limit, [&](const ExtentInfo& whole) {
    const ExtentInfo e = clip_extent(whole, chunk.begin, limit);
    if (e.file_block != chunk.end) return false;
    chunk.add(e);
    return true;
  }));
  return chunk;
}

class Move : public std::enable_shared_from_this<Move> {
 public:
  Move(FileSystemImpl& fs, InodeRef inode, u64 offset, const FileSystem::ChangeContext& context)
      : fs_(fs), inode_(std::move(inode)), context_(context) {
    step_.next = offset;
  }

  std::shared_ptr<Change> start(std::function<void(Result<FileSystem::DefragmentStep>)> done) {
    const auto self = shared_from_this();
    auto answer = [self, done = std::move(done)](const Status& status) {
      if (status.ok() || self->busy_) {
        self->step_.busy = !status.ok();
        done(self->step_);
      } else {
        done(status);
      }
    };
    const Status found = find();
    if (!found.ok() || chunk_.extents.empty()) return RetriedChange::failed(found, answer);
    return RetriedChange::start(
        fs_.layout(), inode_, [self] { return self->plan(); },
        [self](const ChangeGrant& grant, bool*) {
          self->busy_ = false;
          return self->apply(grant);
        },
        [self, answer](const Status& status) {
          if (status.code() != Errc::kTextBusy) self->busy_ = false;
          answer(status);
        });
  }

 private:
  // The first chunk that is worth moving; none: the rest of the file is good.
  Status find() {
    PINDAX_TRY(fs_.check_writable());
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    if (!is_regular(*slot)) return Status(Errc::kInvalid, "not a regular file");
    PINDAX_TRY(check_settled(*slot));
    ExtentReader reader(fs_.store(), *slot);
    for (FileBlock at = first_block(step_.next);;) {
      PINDAX_ASSIGN(Chunk chunk, chunk_at(reader, at, kWindowBlocks));
      if (chunk.fragments > kMostFragments) {
        PINDAX_ASSIGN(chunk, chunk_at(reader, at, kHugeBlocks));
      }
      if (chunk.extents.empty()) {
        step_.next = kMaxOffset;
        return {};
      }
      at = chunk.end;
      if (chunk.good() || chunk.shared || has_bad(fs_, chunk.extents)) continue;
      step_.next = byte_of(chunk.end);
      chunk_ = std::move(chunk);
      return {};
    }
  }

  Result<ChangeRequest> plan() {
    ReadLock lock(inode_->mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
    ChangeRequest request = make_change_request(fs_, *slot, "defragment", context_);
    request.lock_range = request.break_range = {byte_of(chunk_.begin), byte_of(chunk_.end)};
    request.only_frees = false;
    busy_ = true;
    return request;
  }

  // The chunk as it is now; empty if it has changed since it was found.
  Result<Chunk> look(ExtentReader reader) const {
    PINDAX_ASSIGN(const auto extents, reader.list(chunk_.begin, chunk_.end));
    Chunk now_there;
    now_there.begin = now_there.end = chunk_.begin;
    for (const ExtentInfo& e : extents) {
      if (e.file_block != now_there.end) return Chunk();
      now_there.add(e);
    }
    const bool same = now_there.end == chunk_.end && !now_there.shared && now_there.fragments <= kMostFragments;
    return same ? now_there : Chunk();
  }

  Status apply(const ChangeGrant& grant) {
    PINDAX_STEP("fs.defragment_locked");
    Transaction tx(fs_.store());
    AllocateRequest request;
    {
      ReadLock lock(inode_->mutex);
      PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(*inode_));
      PINDAX_ASSIGN(chunk_, look(ExtentReader(fs_.store(), *slot)));
      if (chunk_.extents.empty() || chunk_.good()) return {};
      request = allocation_near(ExtentReader(fs_.store(), *slot), chunk_.begin, chunk_.length());
    }
    request.minimum = request.wanted;
    request.huge_align = chunk_.wants_alignment();
    const auto run = fs_.allocator().allocate(tx, request);
    if (run.code() == Errc::kNoSpace) {
      step_.no_room_bytes += chunk_.length() << kBlockShift;
      return {};
    }
    PINDAX_TRY(run);
    // One piece is better than several, but not for the price of its alignment.
    if (run->start.value % kHugeBlocks != 0 && (chunk_.fragments <= 1 || chunk_.some_huge())) {
      step_.no_room_bytes += chunk_.length() << kBlockShift;
      return {};
    }
    const Status copied = copy(*run);
    if (copied.code() == Errc::kPoisoned) return {};  // it stays where it is; the lost bytes have their own finder
    PINDAX_TRY(copied);
    PINDAX_STEP("fs.defragment_copied");
    return exchange(tx, *run, grant);
  }

  // The bytes of every extent that holds data, durable as far as the pool can make them.
  Status copy(BlockRun run) {
    Media& media = fs_.media();
    std::vector<std::byte> buffer(kCopyBytes);
    for (const ExtentInfo& e : chunk_.extents) {
      if (!holds_data(fs_, e)) continue;
      const PoolOffset to = block_offset(run.start + (e.file_block - chunk_.begin));
      const u64 length = u64{e.length} << kBlockShift;
      for (u64 done = 0; done < length;) {
        const u64 n = std::min<u64>(kCopyBytes, length - done);
        PINDAX_TRY(media.read(block_offset(e.block) + done, buffer.data(), n));
        PINDAX_TRY(overwrite(fs_, to + done, buffer.data(), n));
        done += n;
      }
      if (media.granularity() == Granularity::kPage) PINDAX_TRY(media.flush(to, length));
    }
    return media.granularity() == Granularity::kVolatile ? Status() : media.drain();
  }

  Status exchange(Transaction& tx, BlockRun run, const ChangeGrant& grant) {
    WriteLock lock(inode_->mutex);
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, *inode_));
    PINDAX_ASSIGN(const Chunk now_there, look(ExtentReader(tx, *slot)));
    if (now_there.fragments != chunk_.fragments) return {};
    InodeNodes nodes(fs_.allocator(), *slot);
    ExtentEditor editor(tx, *slot, nodes);
    RunReleaser releaser(fs_, tx, grant);
    PINDAX_ASSIGN(const FileBlock removed, editor.remove(chunk_.begin, chunk_.end, ~0u, [&](const ExtentInfo& e) { return releaser.release(e); }));
    if (removed != chunk_.end) return Status(Errc::kCorrupt, "extents changed under an exclusive hold");
    for (ExtentInfo e : now_there.extents) {
      const bool data = holds_data(fs_, e);
      e.block = run.start + (e.file_block - chunk_.begin);
      e.state = data ? ExtentState::kWritten : ExtentState::kUnwritten;
      e.epoch = 0;
      PINDAX_TRY(editor.insert(e));
    }
    ++inode_->removals;
    PINDAX_STEP("fs.defragment_exchanged");
    PINDAX_TRY(tx.commit());
    step_.moved_bytes += chunk_.length() << kBlockShift;
    return {};
  }

  FileSystemImpl& fs_;
  const InodeRef inode_;
  const FileSystem::ChangeContext context_;
  FileSystem::DefragmentStep step_;
  Chunk chunk_;
  bool busy_ = false;  // the break is under way: what ends it now is somebody's pin
};

}  // namespace

std::shared_ptr<Change> FileSystemImpl::defragment(InodeRef inode, u64 offset, const ChangeContext& context,
                                                   std::function<void(Result<DefragmentStep>)> done) {
  return std::make_shared<Move>(*this, std::move(inode), offset, context)->start(std::move(done));
}

}  // namespace pindax
