// SPDX-License-Identifier: BSD-3-Clause
//
// The share step of a clone (clone.h): blocks of the source enter the destination.
#include <algorithm>

#include "base/steps.h"
#include "fs/clone.h"
#include "fs/share.h"

namespace pindax {

Result<ChangeRequest> Clone::plan() {
  ReadLock lock(target().mutex);
  PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(target()));
  const u64 size = slot->size_bytes;
  ChangeRequest request = make_change_request(fs_, *slot, ask_.dedupe ? "dedupe" : "clone", context_);
  request.lock_range = request.break_range = block_aligned({ask_.destination_offset, target_end()});
  if (target_end() > size) {
    request.lock_range = {round_down(std::min(ask_.destination_offset, size), kBlockSize), kMaxOffset};
    request.break_range.begin = std::min(request.break_range.begin, grow_begin(fs_, target(), size));
  }
  request.only_frees = false;
  set_patience(request);
  lock_ = request.lock_range;
  return request;
}

// An fsync of the source that is under way has taken its ranges and is not done with them.
void Clone::note_source_unsynced() {
  Mutex& syncing = fs_.sync_mutex_of(source());
  const bool idle = syncing.try_lock();
  MutexLock lock(source().lazy_mutex);
  unsynced_.clear();
  if (!idle)
    add_range(unsynced_, 0, kMaxOffset);
  else if (source().recent)
    unsynced_ = source().unsynced();
  if (idle) syncing.unlock();
}

Status Clone::share_all(const ChangeGrant& grant) {
  note_source_unsynced();
  PINDAX_TRY(finish_pending(fs_, target(), lock_.begin, lock_.end));
  PINDAX_TRY(finish_pending(fs_, source(), source_range().begin, source_range().end));
  if (InodeLayout* layout = target().layout_if_any())
    fs_.layout().set_shared(*layout, block_aligned({ask_.destination_offset, target_end()}), true);
  if (ask_.dedupe) {
    InodeLocks locks{&source(), &target()};
    PINDAX_ASSIGN(const bool same, equal(0, blocks_for(count_)));
    if (!same) {
      differs_ = true;
      return {};
    }
  }
  while (done_blocks_ < blocks_for(count_) && !again_) PINDAX_TRY(piece(grant));
  return again_ ? Status(Errc::kTryAgain) : Status();
}

// Sets again_ if the sizes of the moment are not those of the plan.
Status Clone::look_again(const format::Inode& from, const format::Inode& to) {
  PINDAX_ASSIGN(const u64 count, clone_length(ask_, from, to));
  const bool grows = target_end() > to.size_bytes;
  again_ = from.pending_end > from.pending_begin || count < count_ ||
           (grows && (lock_.end != kMaxOffset || to.size_bytes < lock_.begin ||
                      (done_blocks_ == 0 && cached_tail(fs_, target(), to.size_bytes))));
  return {};
}

// One transaction's worth.
Status Clone::piece(const ChangeGrant& grant) {
  InodeLocks locks{&source(), &target()};
  Transaction tx(fs_.store());
  PINDAX_ASSIGN(format::Inode * to, fs_.change_slot(tx, target()));
  const bool same_file = &source() == &target();
  SlotView view;
  if (!same_file) {
    PINDAX_ASSIGN(view, fs_.read_slot(source()));
  }
  const format::Inode& from = same_file ? *to : *view;
  PINDAX_TRY(look_again(from, *to));
  if (again_) return {};
  const u64 size = to->size_bytes;
  const bool grows = target_end() > size;
  if (grows) PINDAX_TRY(zero_tail(fs_, target(), ExtentReader(tx, *to), *to, target_end()));
  ExtentReader reader = same_file ? ExtentReader(tx, *to) : ExtentReader(fs_.store(), from);
  RecordBudget budget(tx);
  const u64 begin = done_blocks_, end = blocks_for(count_);
  u64 at = begin;
  for (unsigned n = 0; at < end && n < kMostExtents && budget.has_room(); ++n) {
    PINDAX_ASSIGN(const u64 step, segment(tx, *to, reader, at, end, grant, budget));
    if (step == 0) break;
    at += step;
  }
  if (at == begin) {
    again_ = true;  // stored into since it was marked
    return {};
  }
  const u64 new_size = std::min(target_end(), ask_.destination_offset + (at << kBlockShift));
  if (new_size > size) to->size_bytes = new_size;
  if (!ask_.dedupe) {
    stamp(*to, kStampMtime | kStampCtime, now());
    if (!context_.caller.privileged) clear_set_id(*to, &context_.caller);
  }
  ++target().removals;
  PINDAX_STEP("fs.clone_shared");
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("fs.clone_committed");
  if (new_size > size) publish_size(fs_, target(), new_size);
  pass_on_unsynced(begin, at);
  done_blocks_ = at;
  return {};
}

// What fsync of the source has still to do, fsync of the destination must do as well. A page pool's
// provisional extents and its host's dirty pages are many; elsewhere those of the source are known.
void Clone::pass_on_unsynced(u64 begin, u64 end) {
  const u64 in = ask_.source_offset, out = ask_.destination_offset;
  const ByteRange part{in + (begin << kBlockShift), in + (end << kBlockShift)};
  if (fs_.media().granularity() == Granularity::kVolatile) return;
  if (fs_.media().granularity() == Granularity::kPage)
    return note_unsynced(fs_, target(), part.begin - in + out, part.end - in + out);
  for (const auto& [from, to] : unsynced_)
    if (const ByteRange r = intersect({from, to}, part); !r.empty())
      note_unsynced(fs_, target(), r.begin - in + out, r.end - in + out);
}

// As much as one step takes from block `at` of the range on. Returns its length; 0 if the source is not
// marked there.
Result<u64> Clone::segment(Transaction& tx, format::Inode& to, ExtentReader& reader, u64 at, u64 end,
                           const ChangeGrant& grant, RecordBudget& budget) {
  const FileBlock s = first_block(ask_.source_offset) + at, d = first_block(ask_.destination_offset) + at;
  PINDAX_ASSIGN(const auto found, reader.at_or_after(s));
  const bool mapped = found && found->file_block <= s;
  u64 length = end - at;
  if (found) length = std::min(length, (mapped ? found->file_end() : found->file_block) - s);
  if (!mapped || !holds_data(fs_, *found)) return take_out(tx, to, d, d + length, grant, budget);
  if (!found->shared) return u64{0};
  ExtentInfo e = clip_extent(*found, s, s + length);
  PINDAX_ASSIGN(const auto old, ExtentReader(tx, to).at_or_after(d));
  if (old && old->file_block <= d && old->block + (d - old->file_block) == e.block && holds_data(fs_, *old))
    return std::min<u64>(length, old->file_end() - d);  // shared with each other already
  if (ask_.dedupe) {
    PINDAX_ASSIGN(const bool same, equal(at, at + length));
    if (!same) return u64{0};
  }
  PINDAX_ASSIGN(length, fs_.allocator().countable(tx, {e.block, e.length}));
  PINDAX_ASSIGN(length, take_out(tx, to, d, d + length, grant, budget));
  PINDAX_TRY(fs_.allocator().add_owner(tx, {e.block, length}));
  e.file_block = d;
  e.length = static_cast<u32>(length);
  InodeNodes nodes(fs_.allocator(), to);
  PINDAX_TRY(ExtentEditor(tx, to, nodes).insert(e));
  return length;
}

// Takes blocks out of [d, stop) of the destination. Returns how many blocks from d on are holes now.
Result<u64> Clone::take_out(Transaction& tx, format::Inode& to, FileBlock d, FileBlock stop,
                            const ChangeGrant& grant, RecordBudget& budget) {
  PINDAX_ASSIGN(const FileBlock limit, releasable_end(fs_, tx, to, d, stop));
  RunReleaser releaser(fs_, tx, grant);
  InodeNodes nodes(fs_.allocator(), to);
  ExtentEditor editor(tx, to, nodes);
  PINDAX_ASSIGN(const FileBlock next, editor.remove(d, limit, kExtentsAtOnce, [&](const ExtentInfo& e) {
    budget.count(e.length);
    return releaser.release(e);
  }));
  return next - d;
}

// True if blocks [begin, end) of both ranges hold the same bytes. Both inodes are locked; nobody stores into
// either: the source is marked, the destination held.
Result<bool> Clone::equal(u64 begin, u64 end) {
  PINDAX_ASSIGN(const SlotView from, fs_.read_slot(source()));
  PINDAX_ASSIGN(const SlotView to, fs_.read_slot(target()));
  const u64 at = begin << kBlockShift;
  return same_bytes(fs_, *from, ask_.source_offset + at, *to, ask_.destination_offset + at,
                    std::min(end << kBlockShift, count_) - at);
}

}  // namespace pindax
