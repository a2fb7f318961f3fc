// SPDX-License-Identifier: BSD-3-Clause
//
// store_range(): the one routine that gives file blocks their contents. A part is one transaction under
// Inode::mutex: blocks that hold data are overwritten in place; unwritten ones are filled and change state;
// holes get new blocks, filled before the commit that makes them reachable; shared ones are replaced by copies. Nothing
// is reachable before it has its contents, so a crash shows the file before or after each part.
#include <algorithm>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/share.h"

namespace pindax {

namespace {

class Storer {
 public:
  Storer(FileSystemImpl& fs, Inode& inode, const StoreJob& job) : fs_(fs), inode_(inode), job_(job) {}

  Result<u64> run() {
    u64 at = job_.offset;
    unsigned limit = kMostExtents;
    while (at < job_.end) {
      const u64 known_bad = fs_.allocator().bad_count();
      const auto next = part(at, limit);
      if (next.ok()) {
        at = *next;
        continue;
      }
      if (next.code() == Errc::kNoSpace && extents_done_ > 0) {
        limit = extents_done_;  // a tree node was missing: as much as there are nodes for
        continue;
      }
      // A block turned out to be bad on the way, a new one perhaps: none of these is met twice.
      if (next.code() == Errc::kPoisoned && fs_.allocator().bad_count() != known_bad) continue;
      if ((next.code() == Errc::kNoSpace || next.code() == Errc::kPoisoned) && at > job_.offset) break;
      return next.status();
    }
    return at - job_.offset;
  }

 private:
  // In one transaction, under one hold of Inode::mutex.
  static constexpr unsigned kMostExtents = 256;
  static constexpr u64 kMostBytes = u64{16} << 20;

  // Stores from `at` on, as much as one transaction takes. Returns where it stopped, always behind `at`.
  Result<u64> part(u64 at, unsigned limit) {
    extents_done_ = 0;
    met_shared_ = replaced_ = false;
    WriteLock lock(inode_.mutex);
    Transaction tx(fs_.store());
    PINDAX_ASSIGN(format::Inode * slot, fs_.change_slot(tx, inode_));
    RecordBudget budget(tx);
    const u64 start = at;
    const u64 size = slot->size_bytes;
    end_ = job_.end;
    if (job_.write_back) {
      end_ = std::min(end_, size);
      if (at >= end_ || !fs_.layout().may_write_back(*inode_.layout(), block_aligned({at, end_})))
        return job_.end;
    }
    const bool grows = job_.extends && job_.end > size;
    // Also where the write itself covers the tail: a write that a crash undid may have left bytes there.
    if (grows) PINDAX_TRY(zero_tail(fs_, inode_, ExtentReader(tx, *slot), *slot, std::max(start, end_)));
    while (at < end_ && at - start < kMostBytes && extents_done_ < limit && budget.has_room()) {
      const auto next = segment(tx, *slot, at, budget);
      const bool ends_here = next.code() == Errc::kNoSpace || next.code() == Errc::kPoisoned;
      if (ends_here && at > start && !tree_failed_) break;
      if (!next.ok()) return next.status();
      at = *next;
    }
    if (at == start) return Errc::kNoSpace;
    PINDAX_TRY(drain());
    if (replaced_) ++inode_.removals;
    if (grows) slot->size_bytes = std::max(size, at);
    if (job_.data != nullptr || grows) stamp(*slot, kStampMtime | kStampCtime, now());
    if (!job_.keep_set_id) clear_set_id(*slot);
    PINDAX_STEP("fs.store_filled");
    PINDAX_TRY(tx.commit());
    PINDAX_STEP("fs.store_committed");
    if (grows && at > size) publish_size(fs_, inode_, at);
    if (met_shared_) publish_private(fs_, inode_, round_down(start, kBlockSize), round_up(at, kBlockSize));
    if (fs_.media().granularity() == Granularity::kPage) note_unsynced(fs_, inode_, start, at);
    extents_done_ = 0;
    return at;
  }

  // One extent's worth from `at` on. Returns its end.
  Result<u64> segment(Transaction& tx, format::Inode& slot, u64 at, RecordBudget& budget) {
    tree_failed_ = false;
    const FileBlock block = first_block(at);
    ExtentReader reader(tx, slot);
    PINDAX_ASSIGN(const auto found, reader.at_or_after(block));
    const bool mapped = found && found->file_block <= block;
    const u64 same_until = found ? std::min(end_, byte_of(mapped ? found->file_end() : found->file_block)) : end_;
    if (job_.only_shared && !(mapped && found->shared)) return same_until;
    u64 stop = std::min(same_until, round_down(at, kBlockSize) + kMostBytes);
    if (mapped) {
      const ExtentInfo part = clip_extent(*found, block, end_block(stop));
      if (const auto bad = fs_.allocator().first_bad({part.block, part.length})) {
        stop = std::min(stop, byte_of(block + std::max<u64>(*bad - part.block, 1)));
        if (*bad == part.block) return bad_block(tx, slot, clip_extent(part, block, block + 1), at, stop, budget);
      }
    }
    if (mapped && found->shared) {
      met_shared_ = true;
      const ExtentInfo part = clip_extent(*found, block, end_block(stop));
      PINDAX_ASSIGN(const auto owned, fs_.allocator().owners({part.block, part.length}, &tx));
      stop = std::min(stop, byte_of(block + owned.front().run.length));
      const ExtentInfo same = clip_extent(part, block, end_block(stop));
      if (owned.front().owners > 1) return copy_shared(tx, slot, same, at, stop, budget);
      PINDAX_TRY(take_over(tx, slot, same));
      if (job_.only_shared) return stop;
    }
    if (mapped && holds_data(fs_, *found)) {
      const ExtentInfo part = clip_extent(*found, block, end_block(stop));
      if (job_.data != nullptr)
        PINDAX_TRY(overwrite(fs_, block_offset(part.block) + at % kBlockSize, source(at), stop - at));
      stored_in_place_ = true;
      return stop;
    }
    ExtentInfo e;
    if (mapped) {
      e = clip_extent(*found, block, end_block(stop));
      e.shared = false;
      PINDAX_TRY(fs_.allocator().reserve_on_host({e.block, e.length}, BlockUse::kData));  // of a sparse pool: ENOSPC, not SIGBUS
    } else {
      PINDAX_ASSIGN(const BlockRun run,
                    fs_.allocator().allocate(tx, allocation_near(reader, block, end_block(stop) - block)));
      e.file_block = block;
      e.block = run.start;
      e.length = static_cast<u32>(run.length);
      stop = std::min(stop, byte_of(e.file_end()));
      tree_failed_ = true;  // the run is taken
    }
    PINDAX_TRY(fill(e, at, stop));
    const bool provisional = commits_provisional(fs_);
    e.state = provisional ? ExtentState::kProvisional : ExtentState::kWritten;
    e.epoch = provisional ? fs_.mount_epoch() : 0;
    tree_failed_ = true;  // what fails from here on leaves the transaction half done
    InodeNodes nodes(fs_.allocator(), slot);
    ExtentEditor editor(tx, slot, nodes);
    if (mapped) {
      PINDAX_TRY(editor.set_state(e.file_block, e.file_end(), e.state, e.epoch, ~0u));
    } else {
      PINDAX_TRY(editor.insert(e));
    }
    tree_failed_ = false;
    budget.count(mapped ? 0 : e.length);
    ++extents_done_;
    return stop;
  }

  // `old` is one bad block. What was never written, or is written whole, gets another one.
  Result<u64> bad_block(Transaction& tx, format::Inode& slot, const ExtentInfo& old, u64 at, u64 stop, RecordBudget& budget) {
    if (holds_data(fs_, old)) {
      const u64 begin = byte_of(old.file_block), end = std::min(byte_of(old.file_end()), slot.size_bytes.get());
      const bool whole = job_.data != nullptr && at <= begin && stop >= end;
      if (job_.data == nullptr && !job_.only_shared) return stop;
      if (!whole) return lost_bytes(old.block);
    }
    met_shared_ = true;  // what clients remember of the place is void as well
    return copy_shared(tx, slot, old, at, stop, budget);
  }

  // The file is the only owner that is left: the flag goes.
  Status take_over(Transaction& tx, format::Inode& slot, const ExtentInfo& part) {
    tree_failed_ = true;
    InodeNodes nodes(fs_.allocator(), slot);
    ExtentEditor editor(tx, slot, nodes);
    PINDAX_TRY(editor.set_shared(part.file_block, part.file_end(), false, ~0u, [](const ExtentInfo&) { return true; }));
    tree_failed_ = false;
    ++extents_done_;
    return {};
  }

  // Replaces the blocks of `old`, which others own as well or which are bad, by new ones with the same bytes but for those that the job
  // stores in [at, stop). Whoever else lets go of the old ones meanwhile makes this the last owner: then they are freed here
  // (T2, R29).
  Result<u64> copy_shared(Transaction& tx, format::Inode& slot, const ExtentInfo& old, u64 at, u64 stop, RecordBudget& budget) {
    u64 countable = old.length;
    if (old.shared) {
      PINDAX_ASSIGN(countable, fs_.allocator().countable(tx, {old.block, old.length}));
    }
    PINDAX_ASSIGN(const BlockRun run, fs_.allocator().allocate(
                                          tx, allocation_near(ExtentReader(tx, slot), old.file_block, countable)));
    ExtentInfo e;
    e.file_block = old.file_block;
    e.block = run.start;
    e.length = static_cast<u32>(run.length);
    stop = std::min(stop, byte_of(e.file_end()));
    // What was durable must not be lost with a copy that is not.
    const bool lasts = old.state == ExtentState::kWritten ||
                       (old.state == ExtentState::kProvisional && old.epoch != fs_.mount_epoch() && holds_data(fs_, old));
    const bool durable = lasts || !commits_provisional(fs_);
    e.state = durable ? ExtentState::kWritten : ExtentState::kProvisional;
    e.epoch = durable ? 0 : fs_.mount_epoch();
    tree_failed_ = true;  // the run is taken
    PINDAX_TRY(fill_copy(e, old, at, stop, durable));
    PINDAX_STEP("fs.cow_copied");
    ChangeGrant grant;
    if (job_.grant != nullptr) grant = *job_.grant;
    grant.was_mapped = true;
    RunReleaser releaser(fs_, tx, grant);
    InodeNodes nodes(fs_.allocator(), slot);
    ExtentEditor editor(tx, slot, nodes);
    PINDAX_ASSIGN(const FileBlock removed, editor.remove(e.file_block, e.file_end(), ~0u, [&](const ExtentInfo& gone) {
      budget.count(gone.length);
      return releaser.release(gone);
    }));
    PINDAX_ASSERT(removed == e.file_end());
    PINDAX_TRY(editor.insert(e));
    tree_failed_ = false;
    replaced_ = true;
    budget.count(e.length);
    ++extents_done_;
    return stop;
  }

  Status fill_copy(const ExtentInfo& e, const ExtentInfo& old, u64 at, u64 stop, bool durable) {
    if (!holds_data(fs_, old)) return fill(e, at, stop);
    Media& media = fs_.media();
    const PoolOffset start = block_offset(e.block), from = block_offset(old.block);
    const u64 length = u64{e.length} << kBlockShift;
    const u64 head = job_.data != nullptr ? at - byte_of(e.file_block) : length;
    const u64 body = job_.data != nullptr ? stop - at : 0;
    const u64 tail = length - head - body;
    const bool lost = fs_.allocator().first_bad({old.block, e.length}).has_value();
    if (head > 0) PINDAX_TRY(copy(from, start, head));
    if (body > 0) PINDAX_TRY(overwrite(fs_, start + head, source(at), body));
    if (tail > 0 && !lost) PINDAX_TRY(copy(from + head + body, start + head + body, tail));
    if (tail > 0 && lost) {  // behind the end of the file
      PINDAX_TRY(media.zero(start + head + body, tail));
      PINDAX_TRY(media.flush(start + head + body, tail));
    }
    stored_new_ = true;
    if (!durable || media.granularity() != Granularity::kPage) return {};
    must_drain_ = true;
    return media.flush(start, length);
  }

  // By way of memory: the source may turn out to be bad.
  Status copy(PoolOffset from, PoolOffset to, u64 length) {
    std::byte bytes[4 * kBlockSize];
    for (u64 done = 0; done < length;) {
      const u64 n = std::min<u64>(sizeof bytes, length - done);
      PINDAX_TRY(fs_.media().read(from + done, bytes, n));
      PINDAX_TRY(overwrite(fs_, to + done, bytes, n));
      done += n;
    }
    return {};
  }

  // New contents of the extent's blocks: the bytes of [at, stop), zeros around them.
  Status fill(const ExtentInfo& e, u64 at, u64 stop) {
    Media& media = fs_.media();
    const PoolOffset start = block_offset(e.block);
    const u64 length = u64{e.length} << kBlockShift;
    const u64 head = job_.data != nullptr ? at - byte_of(e.file_block) : length;
    const u64 body = job_.data != nullptr ? stop - at : 0;
    const u64 tail = length - head - body;
    if (head > 0) PINDAX_TRY(media.zero(start, head));
    if (body > 0) PINDAX_TRY(overwrite(fs_, start + head, source(at), body));
    if (tail > 0) PINDAX_TRY(media.zero(start + head + body, tail));
    stored_new_ = true;
    switch (media.granularity()) {
      case Granularity::kVolatile:
        return {};
      case Granularity::kPage:
        return commits_provisional(fs_) ? Status() : media.flush(start, length);
      default:
        break;
    }
    if (head > 0) PINDAX_TRY(media.flush(start, head));
    return tail > 0 ? media.flush(start + head + body, tail) : Status();
  }

  Status drain() {
    const bool needed = must_drain_ || ((stored_new_ || stored_in_place_) && !commits_provisional(fs_));
    stored_new_ = stored_in_place_ = must_drain_ = false;
    return needed ? fs_.media().drain() : Status();
  }

  const std::byte* source(u64 at) const { return job_.data + (at - job_.offset); }

  FileSystemImpl& fs_;
  Inode& inode_;
  const StoreJob& job_;
  u64 end_ = 0;                // of the part under way
  unsigned extents_done_ = 0;  // changed in the transaction under way, or in the one that failed last
  bool tree_failed_ = false;
  bool stored_new_ = false;
  bool stored_in_place_ = false;
  bool must_drain_ = false;   // a copy of what was durable
  bool met_shared_ = false;   // the transaction made flagged blocks the file's own,
  bool replaced_ = false;     // some of them by copies
};

}  // namespace

Result<u64> store_range(FileSystemImpl& fs, Inode& inode, const StoreJob& job) {
  PINDAX_TRY(finish_pending(fs, inode, job.offset, job.end));
  return Storer(fs, inode, job).run();
}

}  // namespace pindax
