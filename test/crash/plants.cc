// SPDX-License-Identifier: BSD-3-Clause
//
// Each plant is a filter of media events: it loses, delays or reorders what the rooms above did in the right order. Regions of
// the pool tell whose event it is.
#include "plants.h"

#include <memory>

namespace pindax::testing {

namespace {
std::string awake;
}

bool planted(const char* name);
bool planted(const char* name) { return awake == name; }

}  // namespace pindax::testing

namespace pindax::crash {

void wake_planted(const std::string& name) { testing::awake = name; }

namespace {

using Kind = MediaEvent::Kind;
using Emit = RecordingMedia::Emit;
using Filter = RecordingMedia::Filter;

enum class Region { kSuperblock, kJournalHeader, kRing, kBlocks };

Region region_of(const format::Geometry& g, u64 at) {
  const u64 block = at >> kBlockShift;
  if (block >= g.journal_block && block < g.journal_block + 2) return Region::kJournalHeader;
  if (block >= g.journal_block && block < g.journal_block + g.journal_blocks) return Region::kRing;
  for (u64 offset : format::kSuperblockOffsets)
    if (block == offset >> kBlockShift) return Region::kSuperblock;
  return Region::kBlocks;
}

bool is_store(const MediaEvent& e) { return e.kind == Kind::kStore || e.kind == Kind::kStoreNt; }

// Flushes of a region never happen.
Plant without_flush(Region region) {
  return [region](const format::Geometry& g) -> Filter {
    return [g, region](const MediaEvent& e, const Emit& emit) {
      if (e.kind == Kind::kFlush && region_of(g, e.at) == region) return;
      emit(e);
    };
  };
}

// The fence that follows a flush of the region is forgotten.
Plant without_fence_after(Region region) {
  return [region](const format::Geometry& g) -> Filter {
    auto pending = std::make_shared<bool>(false);
    return [g, region, pending](const MediaEvent& e, const Emit& emit) {
      if (e.kind == Kind::kFlush) *pending = region_of(g, e.at) == region;
      if (e.kind == Kind::kFence && *pending) {
        *pending = false;
        return;
      }
      emit(e);
    };
  };
}

// Flushes and fences of one region come only after the next flush of another: the wrong order.
Plant flush_after(Region late, Region early) {
  return [late, early](const format::Geometry& g) -> Filter {
    auto held = std::make_shared<std::vector<MediaEvent>>();
    return [g, late, early, held](const MediaEvent& e, const Emit& emit) {
      if (e.kind == Kind::kFlush && region_of(g, e.at) == late) {
        held->push_back(e);
        return;
      }
      emit(e);
      if (e.kind == Kind::kFlush && region_of(g, e.at) == early) {
        for (const MediaEvent& h : *held) emit(h);
        held->clear();
      }
    };
  };
}

// Stores of one region reach even the cache only after the next flush of another.
Plant store_after(Region late, Region early) {
  return [late, early](const format::Geometry& g) -> Filter {
    auto held = std::make_shared<std::vector<MediaEvent>>();
    return [g, late, early, held](const MediaEvent& e, const Emit& emit) {
      if ((is_store(e) || e.kind == Kind::kFlush) && region_of(g, e.at) == late) {
        held->push_back(e);
        return;
      }
      emit(e);
      if (e.kind == Kind::kFlush && region_of(g, e.at) == early) {
        for (const MediaEvent& h : *held) emit(h);
        held->clear();
      }
    };
  };
}

Plant past_cache_without_fence() {
  return [](const format::Geometry&) -> Filter {
    return [](const MediaEvent& e, const Emit& emit) {
      MediaEvent changed = e;
      if (e.kind == Kind::kStoreNt) changed.kind = Kind::kStore;  // and nobody flushes it
      emit(changed);
    };
  };
}

Plant without(Kind kind) {
  return [kind](const format::Geometry&) -> Filter {
    return [kind](const MediaEvent& e, const Emit& emit) {
      if (e.kind != kind) emit(e);
    };
  };
}

// Every other flush is forgotten.
Plant every_second_flush() {
  return [](const format::Geometry&) -> Filter {
    auto count = std::make_shared<u64>(0);
    return [count](const MediaEvent& e, const Emit& emit) {
      if (e.kind != Kind::kFlush || ++*count % 2 != 0) emit(e);
    };
  };
}

// The last line of a flushed range is left out: an end rounded down.
Plant short_flush(Region region) {
  return [region](const format::Geometry& g) -> Filter {
    return [g, region](const MediaEvent& e, const Emit& emit) {
      MediaEvent cut = e;
      if (e.kind == Kind::kFlush && region_of(g, e.at) == region) {
        const u64 end = round_down(e.at + e.length - 1, kCacheLineSize);
        if (end <= e.at) return;
        cut.length = end - e.at;
      }
      emit(cut);
    };
  };
}

// The two copies of the superblock are stored and only then flushed: one crash may tear both.
Plant superblocks_together() {
  return [](const format::Geometry& g) -> Filter {
    auto held = std::make_shared<std::vector<MediaEvent>>();
    return [g, held](const MediaEvent& e, const Emit& emit) {
      const bool mine = e.kind == Kind::kFlush && region_of(g, e.at) == Region::kSuperblock;
      if (mine && held->empty()) {
        held->push_back(e);
        return;
      }
      emit(e);
      if (!mine) return;
      for (const MediaEvent& h : *held) emit(h);
      held->clear();
    };
  };
}

}  // namespace

const std::vector<NamedPlant>& plants() {
  static const std::vector<NamedPlant> kPlants = {
      {"no-flush-of-records", "the journal's records are never flushed", without_flush(Region::kRing), {"line-strict"}, {1}},
      {"no-fence-after-records", "no fence follows the flush of a record", without_fence_after(Region::kRing), {"line-strict"}, {1}},
      {"short-flush-of-records", "the last line of a record is not flushed", short_flush(Region::kRing), {"line-strict"}, {1}},
      {"no-flush-of-blocks", "new data and checkpoints are never flushed", without_flush(Region::kBlocks), {"line-strict"}, {1, 2}},
      {"no-fence-after-blocks", "no fence follows the flush of data and checkpoints", without_fence_after(Region::kBlocks), {"line-strict"}, {1, 2}},
      {"commit-before-data", "new data is flushed after the record that makes it reachable", flush_after(Region::kBlocks, Region::kRing), {"line-strict"}, {1, 2}},
      {"data-stored-late", "new data is stored after the record that makes it reachable", store_after(Region::kBlocks, Region::kRing), {"line-strict"}, {1}},
      {"head-before-checkpoint", "the journal's head moves before the blocks are in their places", flush_after(Region::kBlocks, Region::kJournalHeader), {"line-strict"}, {1, 2}},
      {"no-flush-of-head", "the journal's header is never flushed", without_flush(Region::kJournalHeader), {"line-strict"}, {1, 2}},
      {"head-before-records", "records are flushed after the header", flush_after(Region::kRing, Region::kJournalHeader), {"line-strict"}, {1, 2}},
      {"cached-overwrites", "overwrites stay in the cache", past_cache_without_fence(), {"line-strict"}, {1}},
      {"no-fences", "fences do nothing", without(Kind::kFence), {"line-strict"}, {1}},
      {"every-second-flush", "every second flush is forgotten", every_second_flush(), {"line-strict"}, {1, 2}},
      {"superblocks-together", "both copies of the superblock are in flight at once", superblocks_together(), {"line-strict", "page-posix"}, {1, 2}},
      {"no-msync-of-data", "fsync does not write the file's pages", without_flush(Region::kBlocks), {"page-posix"}, {1, 2}},
      {"no-msync-of-records", "fsync does not write the journal's pages", without_flush(Region::kRing), {"page-posix"}, {1, 2}},
      {"settled-before-data", "fsync writes the data after it said that it is written", flush_after(Region::kBlocks, Region::kRing), {"page-posix"}, {1, 2}},
      {"no-sync-after-death", "the successor of a killed daemon does not sync the pool", without(Kind::kSyncAll), {"page-posix"}, {2}, {OpKind::kWrite, OpKind::kAppend}, {OpKind::kKill}},
  };
  return kPlants;
}

const std::vector<NamedPlant>& code_plants() {
  static const std::vector<NamedPlant> kPlants = {
      {"free-before-commit", "freed blocks are used again before the record that freed them is durable", {}, {"page-posix"}, {2},
       {OpKind::kTruncate, OpKind::kUnlink, OpKind::kPunch}, {OpKind::kWrite, OpKind::kAppend}},
      {"quarantine-forgotten", "the quarantine's root is not stored", {}, {"line-strict"}, {2}, {OpKind::kKillMapped},
       {OpKind::kUnlink, OpKind::kTruncate}},
      {"bad-unlisted", "the root of the list of bad blocks is not stored", {}, {"line-strict"}, {1}, {OpKind::kRepair}, {}},
      {"shares-forgotten", "the root of the share counts is not stored", {}, {"line-strict"}, {1}, {OpKind::kClone}, {}},
      {"shared-in-place", "a store into a shared block does not copy it", {}, {"line-strict"}, {1, 2}, {OpKind::kClone}, {OpKind::kWrite}},
      {"copy-not-synced", "the copy of a shared block is committed as written before it is durable", {}, {"page-posix"}, {1, 2},
       {OpKind::kWrite}, {OpKind::kWrite}},
      {"same-epoch", "recovery goes on with the old epoch: torn records get valid successors", {}, {"page-posix"}, {2},
       {OpKind::kChmod, OpKind::kUtimes, OpKind::kSetXattr, OpKind::kRename}, {}, 1},
      {"replay-before-flush", "recovery stores in place before the records are durable", {}, {"page-posix"}, {2}, {}, {OpKind::kKill}},
      {"no-checksum", "a torn record is replayed", {}, {"line-strict"}, {1}},
      {"checkpoint-before-log", "a checkpoint stores in place before the records are durable", {}, {"page-posix"}, {2}, {},
       {OpKind::kCheckpoint}},
      {"orphan-unlisted", "an unlinked file is not on the orphan list", {}, {"line-strict"}, {1}},
      {"tail-not-zeroed", "old bytes behind the end of a file show when it grows", {}, {"page-strict"}, {1},
       {OpKind::kAppend}, {}, 1},
      {"commit-before-drain", "a write commits before its bytes are drained", {}, {"line-strict"}, {1}},
      {"fsync-without-journal", "fsync leaves the records in flight", {}, {"page-posix"}, {2}, {}, {OpKind::kFsync}},
      {"mount-unrecorded", "the mount does not store its epoch", {}, {"page-posix"}, {1, 2}},
      {"lost-epochs-ignored", "provisional extents of a lost mount show what was on the media", {}, {"page-posix"}, {1}},
  };
  return kPlants;
}

const NamedPlant* find_plant(const std::string& name) {
  for (const auto* list : {&plants(), &code_plants()})
    for (const NamedPlant& p : *list)
      if (name == p.name) return &p;
  return nullptr;
}

}  // namespace pindax::crash
