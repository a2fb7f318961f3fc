// SPDX-License-Identifier: BSD-3-Clause
//
// clone_range(): a range of one file gets the blocks of another (FICLONERANGE), or shares those that are equal
// already (FIDEDUPERANGE).
//
//   mark    a complete break of the source's range (pins, writable translations, dirty pages of the kernel)
//           flags its extents as shared. Skipped where all of them are flagged already: then nobody stores into
//           them (fs/share.h, invariants 2, 4).
//   share   a complete break of the destination's range; in it, a transaction at a time under both inodes'
//           mutexes (T1: ascending inode numbers, whatever the direction): blocks of the destination leave, those
//           of the source are counted up and enter. An extent of the source that is not flagged any more was
//           stored into meanwhile: back to mark.
//
// Range locks of two inodes are never held at once, so a wait for pins of one file holds nobody up on the other
// (R28). Going round again means that somebody else got on. A crash leaves a prefix of the range shared, in
// whole transactions.
#include <algorithm>
#include <cstring>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/share.h"

namespace pindax {

namespace {

constexpr unsigned kMostRounds = 16;
constexpr unsigned kMostExtents = 128;  // of one transaction
constexpr unsigned kExtentsAtOnce = 16;
constexpr u64 kMostDedupeBytes = u64{16} << 20;  // compared under both locks

class Clone final : public Change, public std::enable_shared_from_this<Clone> {
 public:
  Clone(FileSystemImpl& fs, const FileSystem::CloneRequest& request, const FileSystem::ChangeContext& context,
        std::function<void(Result<u64>)> done)
      : fs_(fs), ask_(request), context_(context), done_(std::move(done)) {}

  void start() {
    Status status = prepare();
    if (!status.ok() || count_ == 0) return finish(status);
    mark();
  }

  void interrupt() override {
    std::shared_ptr<Change> inner;
    {
      MutexLock lock(mutex_);
      interrupted_ = true;
      inner = inner_;
    }
    if (inner) inner->interrupt();
  }

 private:
  Inode& source() const { return *ask_.source; }
  Inode& target() const { return *ask_.destination; }
  ByteRange source_range() const { return block_aligned({ask_.source_offset, ask_.source_offset + count_}); }
  u64 target_end() const { return ask_.destination_offset + count_; }

  // ---- What is asked for, by the sizes of the moment (generic_remap_file_range_prep) ----

  Result<u64> resolve(const format::Inode& from, const format::Inode& to) const {
    const u64 size_in = from.size_bytes, size_out = to.size_bytes;
    const u64 in = ask_.source_offset, out = ask_.destination_offset;
    if (!is_regular(from) || !is_regular(to)) {
      if (is_directory(from) || is_directory(to)) return Errc::kIsDirectory;
      return Status(Errc::kInvalid, "only regular files share blocks");
    }
    if (!ask_.dedupe)
      PINDAX_TRY(check_data_change(to, false));
    else if ((to.flags & format::kFlagImmutable) != 0)
      return Errc::kPermission;
    if (in % kBlockSize != 0 || out % kBlockSize != 0)
      return Status(Errc::kInvalid, "offsets must be multiples of 4096");
    u64 length = ask_.length;
    if (length == 0) {
      if (ask_.dedupe || in == size_in) return u64{0};
      if (in < size_in) length = size_in - in;
    }
    if (in >= size_in) return Status(Errc::kInvalid, "the source ends before the range");
    if (out > format::kMaxFileBytes || length > format::kMaxFileBytes - out) return Errc::kTooBig;
    u64 count = std::min(length, size_in - in);
    if (ask_.dedupe && (out >= size_out || count > size_out - out || count < length))
      return Status(Errc::kInvalid, "a range reaches beyond its file");
    // A part of a block can only be shared where both files end in it.
    const bool to_the_end =
        in + count == size_in && (ask_.dedupe ? out + count == size_out : out + count >= size_out);
    if (!to_the_end) count = round_down(count, kBlockSize);
    if (count < length && !ask_.may_shorten && !ask_.dedupe)
      return Status(Errc::kInvalid,
                    "the length must be a multiple of 4096, or end where the source ends and not inside the "
                    "destination");
    if (ask_.source == ask_.destination && in < out + round_up(count, kBlockSize) &&
        out < in + round_up(count, kBlockSize))
      return Status(Errc::kInvalid, "the ranges overlap");
    return ask_.dedupe ? std::min(count, kMostDedupeBytes) : count;
  }

  Status measure() NO_THREAD_SAFETY_ANALYSIS {
    InodeLocks locks{&source(), &target()};
    PINDAX_ASSIGN(const SlotView from, fs_.read_slot(source()));
    PINDAX_ASSIGN(const SlotView to, fs_.read_slot(target()));
    PINDAX_ASSIGN(count_, resolve(*from, *to));
    return {};
  }

  Status prepare() {
    PINDAX_TRY(fs_.check_writable());
    PINDAX_TRY(measure());
    if (count_ == 0) return {};
    PINDAX_TRY(fs_.check_room());
    PINDAX_TRY(fs_.use_feature(format::kRoCompatShareCounts));
    return ask_.dedupe ? Status() : fs_.drop_capability(target());
  }

  // ---- Mark ----

  Result<bool> is_marked() {
    ReadLock lock(source().mutex);
    PINDAX_ASSIGN(const SlotView slot, fs_.read_slot(source()));
    bool marked = true;
    PINDAX_TRY(ExtentReader(fs_.store(), *slot)
                   .scan(first_block(source_range().begin), end_block(source_range().end),
                         [&](const ExtentInfo& e) { return marked = e.shared || !holds_data(fs_, e); }));
    return marked;
  }

  void mark() {
    if (++rounds_ > kMostRounds)
      return finish(Status(Errc::kTryAgain, "the source is being written all the time"));
    if (rounds_ > 1) {
      const Status status = measure();
      if (!status.ok() || done_blocks_ >= blocks_for(count_)) return finish(status);
    }
    const Result<bool> marked = is_marked();
    if (!marked.ok()) return finish(marked.status());
    if (*marked) return share();
    ChangeRequest request;
    {
      ReadLock lock(source().mutex);
      const Result<SlotView> slot = fs_.read_slot(source());
      if (slot.ok()) request = make_change_request(fs_, **slot, ask_.dedupe ? "dedupe" : "clone", context_);
    }
    request.lock_range = request.break_range = source_range();
    request.only_frees = false;
    set_patience(request);
    const auto self = shared_from_this();
    run(
        source(), request, [self](const ChangeGrant&) { return self->flag_source(); },
        [self](Status status) { status.ok() ? self->share() : self->finish(std::move(status)); });
  }

  Status flag_source() {
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
      for (unsigned n = 0; at < end && n < kMostExtents && (n == 0 || budget.has_room());
           n += kExtentsAtOnce) {
        PINDAX_ASSIGN(at, editor.set_shared(at, end, true, kExtentsAtOnce,
                                            [&](const ExtentInfo& e) { return holds_data(fs_, e); }));
      }
      PINDAX_STEP("fs.clone_marked");
      PINDAX_TRY(tx.commit());
    }
    return {};
  }

  // Invariant 6 of share.h.
  Status zero_source_tail() {
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

  // ---- Share ----

  void share() {
    Result<ChangeRequest> request = plan();
    if (!request.ok()) return finish(request.status());
    again_ = false;
    const auto self = shared_from_this();
    run(
        target(), *request, [self](const ChangeGrant& grant) { return self->share_all(grant); },
        [self](Status status) {
          if (self->again_)
            self->mark();
          else
            self->finish(std::move(status));
        });
  }

  Result<ChangeRequest> plan() {
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

  void set_patience(ChangeRequest& request) const {
    if (!ask_.never_wait) return;
    request.policy = BusyPolicy::kRefuse;
    request.deadline = std::chrono::milliseconds(0);
  }

  Status share_all(const ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS {
    {
      // An fsync of the source that is under way has taken its ranges and is not done with them.
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
  Status look_again(const format::Inode& from, const format::Inode& to) {
    PINDAX_ASSIGN(const u64 count, resolve(from, to));
    const bool grows = target_end() > to.size_bytes;
    again_ = from.pending_end > from.pending_begin || count < count_ ||
             (grows && (lock_.end != kMaxOffset || to.size_bytes < lock_.begin ||
                        (done_blocks_ == 0 && cached_tail(fs_, target(), to.size_bytes))));
    return {};
  }

  // One transaction's worth.
  Status piece(const ChangeGrant& grant) NO_THREAD_SAFETY_ANALYSIS {
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
  void pass_on_unsynced(u64 begin, u64 end) {
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
  Result<u64> segment(Transaction& tx, format::Inode& to, ExtentReader& reader, u64 at, u64 end,
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
  Result<u64> take_out(Transaction& tx, format::Inode& to, FileBlock d, FileBlock stop,
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

  // True if blocks [begin, end) of both ranges hold the same bytes. Both inodes are locked; nobody stores
  // into either: the source is marked, the destination held.
  Result<bool> equal(u64 begin, u64 end) NO_THREAD_SAFETY_ANALYSIS {
    std::byte a[kBlockSize], b[kBlockSize];
    PINDAX_ASSIGN(const SlotView from, fs_.read_slot(source()));
    PINDAX_ASSIGN(const SlotView to, fs_.read_slot(target()));
    for (u64 at = begin; at < end; ++at) {
      const u64 offset = at << kBlockShift;
      if (offset >= count_) break;
      const u64 bytes = std::min(kBlockSize, count_ - offset);
      PINDAX_ASSIGN(const BlockNo left, block_at(*from, ask_.source_offset + offset));
      PINDAX_ASSIGN(const BlockNo right, block_at(*to, ask_.destination_offset + offset));
      if (left == right) continue;
      PINDAX_TRY(load_block(left, a));
      PINDAX_TRY(load_block(right, b));
      if (std::memcmp(a, b, bytes) != 0) return false;
    }
    return true;
  }

  // 0: zeros.
  Result<BlockNo> block_at(const format::Inode& slot, u64 offset) {
    const FileBlock block = first_block(offset);
    PINDAX_ASSIGN(const auto extents,
                  visible_extents(ExtentReader(fs_.store(), slot), slot, block, block + 1));
    if (extents.empty() || !holds_data(fs_, extents[0])) return BlockNo(0);
    return extents[0].block;
  }

  Status load_block(BlockNo block, std::byte* out) {
    if (block.value == 0) return std::memset(out, 0, kBlockSize), Status();
    if (fs_.allocator().first_bad({block, 1})) return lost_bytes(block);
    return fs_.media().read(block_offset(block), out, kBlockSize);
  }

  // ---- The machine ----

  void run(Inode& inode, const ChangeRequest& request, std::function<Status(const ChangeGrant&)> apply,
           std::function<void(Status)> done) {
    unsigned number = 0;
    {
      MutexLock lock(mutex_);
      inner_.reset();
      number = ++changes_;
    }
    auto inner = fs_.layout().change(*inode.layout(), request, std::move(apply), std::move(done));
    bool interrupt_it = false;
    {
      MutexLock lock(mutex_);
      if (number == changes_ && !finished_)
        inner_ = inner;  // the next one, or the end, may have come before this line
      interrupt_it = interrupted_ && !finished_;
    }
    if (interrupt_it) inner->interrupt();
  }

  void finish(Status status) {
    std::shared_ptr<Change> inner;
    {
      MutexLock lock(mutex_);
      finished_ = true;
      inner = std::move(inner_);
    }
    const auto done = std::move(done_);
    const u64 shared = std::min(count_, done_blocks_ << kBlockShift);
    if (differs_)
      done(u64{0});
    else if (status.ok())
      done(count_);
    else if (ask_.may_shorten && shared > 0)
      done(shared);
    else
      done(std::move(status));
  }

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

}  // namespace

std::shared_ptr<Change> FileSystemImpl::clone_range(const CloneRequest& request, const ChangeContext& context,
                                                    std::function<void(Result<u64>)> done) {
  auto clone = std::make_shared<Clone>(*this, request, context, std::move(done));
  clone->start();
  return clone;
}

}  // namespace pindax
