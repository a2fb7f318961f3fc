// SPDX-License-Identifier: BSD-3-Clause
//
// Blocks: taking runs out of the groups, and bringing them back.
#include "alloc/allocator.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "alloc/allocator_impl.h"
#include "alloc/media_counts.h"
#include "base/fail_points.h"
#include "base/steps.h"
#include "fmt/format.h"

namespace pindax {

Result<std::unique_ptr<Allocator>> Allocator::open(MetaStore& store) {
  auto allocator = std::make_unique<AllocatorImpl>(store);
  PINDAX_TRY(allocator->start());
  return std::unique_ptr<Allocator>(std::move(allocator));
}

AllocatorImpl::AllocatorImpl(MetaStore& store)
    : store_(store),
      geometry_(store.geometry()),
      groups_(geometry_.ag_count),
      resting_(store.media(), geometry_, [this](BlockRun run) { give_back(run); }) {
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    const u64 data = geometry_.ag_start(ag) + geometry_.ag_length(ag) - geometry_.first_data(ag).value;
    total_blocks_ += data;
    longest_group_ = std::max(longest_group_, data);
  }
  for (unsigned w = 0; w < kCursors; ++w) cursors_[w] = geometry_.pool_blocks / kCursors * w;
}

AllocatorImpl::~AllocatorImpl() {
  store_.set_durable_listener(nullptr);
  resting_.stop();  // it gives back to the groups
  for (auto& g : groups_) delete g.load();
}

Status AllocatorImpl::start() {
  const BlockNo self(geometry_.state_block);
  PINDAX_ASSIGN(MetaView view, store_.view(block_offset(self), sizeof(format::StateRecord)));
  const auto& state = view.as<format::StateRecord>();
  PINDAX_TRY(format::check_state(state, self));
  if (state.free_blocks > total_blocks_) return Status(Errc::kCorrupt, "state record: more free blocks than the pool has: run fsck");
  free_blocks_ = static_cast<i64>(state.free_blocks.get());
  inodes_used_ = static_cast<i64>(state.inodes_used.get());
  inodes_allocated_ = static_cast<i64>(state.inodes_allocated.get());
  next_generation_ = std::max<u64>(state.next_generation, 1);
  quarantine_root_ = BlockNo(state.quarantine_root);
  quarantine_blocks_ = state.quarantine_blocks;
  PINDAX_TRY(load_bad(state));
  store_.set_durable_listener([this](Lsn durable) { resting_.advance(durable); });
  return {};
}

AllocatorImpl::Group& AllocatorImpl::group(u32 ag) {
  Group* g = groups_[ag].load(std::memory_order_acquire);
  if (g != nullptr) return *g;
  MutexLock lock(groups_mutex_);
  g = groups_[ag].load(std::memory_order_relaxed);
  if (g == nullptr) {
    g = new Group(ag);
    groups_[ag].store(g, std::memory_order_release);
  }
  return *g;
}

// ---- Loading --------------------------------------------------------------------------------------------------------

Status AllocatorImpl::load(Group& g) {
  if (g.loaded) return {};
  const Status s = load_free_space(g);
  if (!s.ok()) {
    g.space.clear();
    return s;
  }
  g.loaded = true;
  take_bad_out(g);
  if (quarantine_all_) {
    // A former client may still see what was free when it lost its daemon: nothing of it is handed out unpunched.
    rest_free_space(g, whole(g.ag), 1, true);
  }
  g.free = g.space.total();
  return {};
}

Status AllocatorImpl::load_free_space(Group& g) {
  PINDAX_ASSIGN(MetaView header, media_counts::read_header(store_, g.ag));
  g.shares_root = header.as<format::AgHeader>().refcount_root;
  const u64 start = group_start(g);
  const u64 length = geometry_.ag_length(g.ag);
  const u64 first = geometry_.first_data(g.ag).value - start;
  Span run;  // bits, relative to the group
  for (u32 index = 0; index < geometry_.bitmap_blocks(g.ag); ++index) {
    PINDAX_ASSIGN(MetaView view, media_counts::read_bitmap(store_, g.ag, index, media_counts::kBlockBitmap));
    const auto& bits = view.as<format::BitmapBlock>().bits;
    const u64 base = u64{index} * format::kBitmapBits;
    for (u32 i = 0; i < format::kBitmapBits;) {
      if (i % 64 == 0) {
        u64 word;
        std::memcpy(&word, bits + i / 8, sizeof word);
        if (word == ~u64{0} || word == 0) {
          if (word == 0) {
            if (run.length == 0) run.start = base + i;
            run.length += 64;
          } else if (run.length != 0) {
            g.space.insert({start + run.start, run.length});
            run.length = 0;
          }
          i += 64;
          continue;
        }
      }
      if ((bits[i / 8] >> (i % 8) & 1) == 0) {
        if (run.length == 0) run.start = base + i;
        ++run.length;
      } else if (run.length != 0) {
        g.space.insert({start + run.start, run.length});
        run.length = 0;
      }
      ++i;
    }
  }
  if (run.length != 0) g.space.insert({start + run.start, run.length});
  const auto& free = g.space.by_place();
  if (!free.empty() && (free.begin()->start < start + first || free.rbegin()->end() > start + length))
    return Status(Errc::kCorrupt, fmt::format("bitmap of allocation group {} frees what is no data: run fsck", g.ag));
  if (g.space.total() != header.as<format::AgHeader>().free_blocks)
    return Status(Errc::kCorrupt, fmt::format("allocation group {} miscounts its free blocks: run fsck", g.ag));
  return {};
}

// ---- Allocation -----------------------------------------------------------------------------------------------------

Result<BlockRun> AllocatorImpl::allocate(Transaction& tx, const AllocateRequest& asked) {
  AllocateRequest request = asked;
  request.minimum = std::max<u64>(request.minimum, 1);
  if (request.wanted < request.minimum) request.wanted = request.minimum;
  request.wanted = std::min(request.wanted, longest_group_);
  if (request.minimum > longest_group_) return Status(Errc::kNoSpace, "no allocation group is that large");
  if (request.near.value >= geometry_.pool_blocks) request.near = BlockNo(0);
  if (request.use == BlockUse::kData) {
    const i64 spare = free_blocks_.load() - reserved_blocks();
    if (spare < static_cast<i64>(request.minimum)) return Status(Errc::kNoSpace, "the pool is full");
    request.wanted = std::min(request.wanted, static_cast<u64>(spare));
  }
  for (;;) {
    const u64 seen = resting_.given_back();
    PINDAX_ASSIGN(std::optional<BlockRun> found, take(request));
    if (found) {
      const BlockRun run = *found;
      Status reserved;
      if (request.reserve_on_host) reserved = reserve_on_host(run, request.use);
      if (!reserved.ok() || PINDAX_FAILS("alloc.blocks")) {
        give_back(run);
        return reserved.ok() ? Status(Errc::kNoSpace, "the pool is full") : reserved;
      }
      free_blocks_ -= static_cast<i64>(run.length);
      tx.at_commit([run](Transaction& t) { return media_counts::allocate_blocks(t, run); });
      tx.on_abort([this, run] {
        free_blocks_ += static_cast<i64>(run.length);
        group(geometry_.ag_of(run.start)).holds_host_space = true;
        give_back(run);
      });
      return run;
    }
    if (!hurry(seen)) return Status(Errc::kNoSpace, "the pool is full");
  }
}

// Resting blocks become free now, as far as that needs the media only. True: something was given back since `seen`, so another
// look is worth while. The caller's transaction may hold inode locks: syncing the journal waits for the media, never for a
// client. Punches run on the resting thread, however slow the host is; but since the kernel may hold one up for a pin of its
// own (fsdax), one that does not move for kPunchBound is not waited for.
bool AllocatorImpl::hurry(u64 seen) {
  constexpr std::chrono::milliseconds kPunchBound{2000};
  if (resting_.blocks() == 0) return resting_.given_back() != seen;
  PINDAX_STEP("alloc.hurry");
  if (!store_.sync(store_.last_lsn()).ok()) return false;
  resting_.advance(store_.durable_lsn());
  resting_.wait_for_progress(seen, kPunchBound);
  return resting_.given_back() != seen;
}

Result<std::optional<BlockRun>> AllocatorImpl::take(const AllocateRequest& request) {
  using Effort = Placement::Effort;
  static constexpr Effort kHugeEfforts[] = {Effort::kWhole, Effort::kAligned, Effort::kAnyPlace, Effort::kAny};
  static constexpr Effort kEfforts[] = {Effort::kWhole, Effort::kAny};
  const bool huge = request.huge_align;
  const u64 from = request.near.value != 0 ? request.near.value
                                           : cursors_[request.worker % kCursors].load(std::memory_order_relaxed);
  const u32 first = geometry_.ag_of(BlockNo(from));
  Status damage;
  for (const Effort effort : huge ? std::span<const Effort>(kHugeEfforts) : std::span<const Effort>(kEfforts)) {
    const u64 enough = effort == Effort::kWhole || effort == Effort::kAnyPlace ? request.wanted : request.minimum;
    for (u32 i = 0; i < geometry_.ag_count; ++i) {
      Group& g = group((first + i) % geometry_.ag_count);
      if (g.free.load(std::memory_order_relaxed) < enough) continue;
      auto run = take_from(g, request, effort);
      if (!run.ok()) damage = run.status();
      else if (*run) return *run;
    }
  }
  // A damaged group serves nothing; the others do what they can.
  if (!damage.ok() && resting_.blocks() == 0) return damage;
  return std::optional<BlockRun>();
}

Result<std::optional<BlockRun>> AllocatorImpl::take_from(Group& g, const AllocateRequest& request,
                                                         Placement::Effort effort) {
  std::atomic<u64>& cursor = cursors_[request.worker % kCursors];
  MutexLock lock(g.mutex);
  if (!g.loaded) {
    PINDAX_ASSIGN(MetaView header, media_counts::read_header(store_, g.ag));
    g.free = header.as<format::AgHeader>().free_blocks;
    if (g.free < request.minimum) return std::optional<BlockRun>();
    PINDAX_TRY(load(g));
  }
  const auto mine = [&](u64 block) { return block != 0 && geometry_.ag_of(BlockNo(block)) == g.ag ? block : 0; };
  Want want;
  want.wanted = request.wanted;
  want.minimum = request.minimum;
  want.near = mine(request.near.value);
  want.cursor = std::max(mine(cursor.load(std::memory_order_relaxed)), geometry_.first_data(g.ag).value);
  want.huge = request.huge_align;
  want.metadata = request.use == BlockUse::kMetadata;
  std::optional<Span> span;
  for (;;) {
    span = g.placement.choose(g.space, want, effort);
    if (!span) return std::optional<BlockRun>();
    const auto bad = first_bad({BlockNo(span->start), span->length});
    if (!bad) break;
    // It was noted since the group was loaded.
    take_bad_out(g);
    g.free = g.space.total();
  }
  const bool taken = g.space.take(*span);
  PINDAX_ASSERT(taken);
  g.placement.taken(g.space, want, *span);
  g.free = g.space.total();
  if (!want.metadata && request.near.value == 0)
    cursor.store(span->end() < geometry_.pool_blocks ? span->end() : 0, std::memory_order_relaxed);
  return std::optional<BlockRun>(BlockRun{BlockNo(span->start), span->length});
}

// ---- The way back ---------------------------------------------------------------------------------------------------

void AllocatorImpl::free(Transaction& tx, BlockRun run, bool mapped) {
  if (!quarantine_all_) return free_now(tx, run, mapped, false);
  const Status s = quarantine(tx, run, format::QuarantineReason::kFormerClient);
  if (!s.ok()) tx.at_commit([s](Transaction&) { return s; });
}

void AllocatorImpl::free_claimed(Transaction& tx, BlockRun run) {
  if (quarantine_all_) free(tx, run, true);
  else free_now(tx, run, true, true);
}

void AllocatorImpl::free_now(Transaction& tx, BlockRun run, bool mapped, bool claimed) {
  Status s;
  if (!geometry_.is_data(run.start, run.length)) {
    s = Status(Errc::kCorrupt, fmt::format("block {} is to be freed but holds no data: run fsck", run.start.value));
  } else {
    Group& g = group(geometry_.ag_of(run.start));
    MutexLock lock(g.mutex);
    s = load(g);
  }
  if (!s.ok()) {
    tx.at_commit([s](Transaction&) { return s; });
    return;
  }
  tx.at_commit([run](Transaction& t) { return media_counts::free_blocks(t, run); });
  tx.on_commit([this, run, mapped, claimed](Lsn lsn) { rest(run, lsn, mapped, claimed); });
}

void AllocatorImpl::rest(BlockRun run, Lsn lsn, bool mapped, bool claimed) {
  PINDAX_STEP("alloc.freed");
  free_blocks_ += static_cast<i64>(run.length);
  group(geometry_.ag_of(run.start)).holds_host_space = true;
  resting_.add({run, lsn, mapped, false, claimed}, store_.durable_lsn());
  resting_.advance(store_.durable_lsn());  // it may have grown since
}

void AllocatorImpl::give_back(BlockRun run) {
  Group& g = group(geometry_.ag_of(run.start));
  MutexLock lock(g.mutex);
  while (run.length != 0) {
    const auto bad = first_bad(run);
    const u64 good = bad ? *bad - run.start : run.length;
    // The bitmap's check at commit has seen to it that nothing is freed twice.
    const bool inserted = good == 0 || g.space.insert({run.start.value, good});
    PINDAX_ASSERT(inserted);
    if (bad) give_up(*bad);
    const u64 done = good + (bad ? 1 : 0);
    run = {run.start + done, run.length - done};
  }
  g.free = g.space.total();
}

SpaceSummary AllocatorImpl::summary() const {
  SpaceSummary s;
  s.total_blocks = total_blocks_;
  s.free_blocks = static_cast<u64>(std::max<i64>(free_blocks_.load(), 0));
  s.resting_blocks = resting_.blocks();
  s.punching_ms = static_cast<u64>(resting_.punching_for().count());
  s.quarantine_blocks = quarantine_blocks_;
  s.bad_blocks = bad_count();
  s.retired_blocks = retired_count_.load();
  s.reserved_blocks = std::min(s.free_blocks, static_cast<u64>(reserved_blocks()));
  s.inodes_used = static_cast<u64>(std::max<i64>(inodes_used_.load(), 0));
  s.inodes_allocated = static_cast<u64>(std::max<i64>(inodes_allocated_.load(), 0));
  return s;
}

Status AllocatorImpl::reclaim() {
  PINDAX_TRY(store_.sync(store_.last_lsn()));
  resting_.advance(store_.durable_lsn());
  constexpr std::chrono::milliseconds kPunchBound{2000};
  return resting_.drain(kPunchBound);
}

Result<std::vector<BlockRun>> AllocatorImpl::free_runs(u32 ag) {
  if (ag >= geometry_.ag_count) return Status(Errc::kInvalid, "no such allocation group");
  Group& g = group(ag);
  MutexLock lock(g.mutex);
  PINDAX_TRY(load(g));
  std::vector<BlockRun> runs;
  for (const auto& e : g.space.by_place()) runs.push_back({BlockNo(e.start), e.length});
  return runs;
}

}  // namespace pindax
