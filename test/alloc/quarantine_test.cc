// SPDX-License-Identifier: BSD-3-Clause
#include "alloc_bench.h"

using namespace pindax;
using format::QuarantineReason;
using test::AllocBench;

namespace {

void put(AllocBench& b, BlockRun run, QuarantineReason reason = QuarantineReason::kPinned) {
  Transaction tx(*b.store);
  REQUIRE(b.alloc->quarantine(tx, run, reason).ok());
  REQUIRE(tx.commit().ok());
}
void release(AllocBench& b, BlockRun run) {
  Transaction tx(*b.store);
  REQUIRE(b.alloc->release_quarantine(tx, run).ok());
  REQUIRE(tx.commit().ok());
}

}  // namespace

TEST_CASE("alloc: quarantine survives reopening and gives back exactly what is released") {
  AllocBench b;
  const BlockRun run = b.take(100), other = b.take(50);
  const u64 before = b.alloc->summary().free_blocks;
  put(b, run);
  put(b, other, QuarantineReason::kKernelIo);
  b.reopen();
  REQUIRE(b.alloc->summary().quarantine_blocks == 150);
  auto all = b.alloc->quarantined();
  REQUIRE(all.ok());
  REQUIRE(all->size() == 2);
  release(b, {run.start + 10, 20});
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.alloc->summary().quarantine_blocks == 130);
  REQUIRE(b.media.punched_bytes == 20 * kBlockSize);
  all = b.alloc->quarantined();
  REQUIRE(all->size() == 3);
  REQUIRE((*all)[0].run == BlockRun{run.start, 10});
  REQUIRE((*all)[1].run == BlockRun{run.start + 30, 70});
  release(b, {BlockNo(1), b.geometry.pool_blocks - 1});
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.alloc->summary().quarantine_blocks == 0);
  REQUIRE(b.alloc->summary().free_blocks == before + 150);
  REQUIRE(b.free_in_groups() == before + 150);
}

TEST_CASE("alloc: an aborted quarantine did not happen, and one block is not quarantined twice") {
  AllocBench b;
  const BlockRun run = b.take(100);
  {
    Transaction tx(*b.store);
    REQUIRE(b.alloc->quarantine(tx, run, QuarantineReason::kPinned).ok());
  }
  REQUIRE(b.alloc->quarantined()->empty());
  REQUIRE(b.alloc->summary().quarantine_blocks == 0);
  put(b, {run.start, 50});
  Transaction tx(*b.store);
  REQUIRE(b.alloc->quarantine(tx, {run.start + 49, 10}, QuarantineReason::kPinned).code() == Errc::kCorrupt);
}

TEST_CASE("alloc: while former clients live every free is a quarantine, and what was free is punched before use") {
  AllocBench b;
  const BlockRun run = b.take(100);
  put(b, {run.start, 10});
  b.alloc->set_quarantine_all(true);
  b.give({run.start + 10, 90});
  REQUIRE(b.alloc->summary().quarantine_blocks == 100);
  // A pin's end does not free it while a former client may look.
  release(b, {run.start, 10});
  REQUIRE(b.alloc->summary().quarantine_blocks == 100);
  const auto all = b.alloc->quarantined();
  for (const auto& q : *all) REQUIRE(q.reason == QuarantineReason::kFormerClient);
  REQUIRE(b.take(1000).length == 1000);
  REQUIRE(b.media.punched_bytes > 0);
  b.alloc->set_quarantine_all(false);
  release(b, run);
  REQUIRE(b.alloc->summary().quarantine_blocks == 0);
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.free_in_groups() == b.alloc->summary().free_blocks);
}

TEST_CASE("alloc: what was kept from former clients is free when they are gone, though the kernel holds its punch up") {
  AllocBench b;
  b.media.hold_punches = true;
  b.alloc->set_quarantine_all(true);
  {
    Transaction tx(*b.store);
    REQUIRE(b.alloc->allocate(tx, {.wanted = 10}).code() == Errc::kNoSpace);
  }
  REQUIRE(b.media.held);
  b.alloc->set_quarantine_all(false);
  REQUIRE(b.take(1000).length == 1000);
}

TEST_CASE("alloc: many quarantined runs make a tree and leave nothing behind") {
  AllocBench b;
  std::vector<BlockRun> runs;
  const u64 before = b.alloc->summary().free_blocks;
  for (int i = 0; i < 600; ++i) {
    runs.push_back(b.take(2));
    put(b, {runs.back().start, 1});
  }
  b.reopen();
  for (const BlockRun& r : runs) {
    release(b, {r.start, 1});
    b.give({r.start + 1, 1});
  }
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.alloc->summary().free_blocks == before);
  REQUIRE(b.free_in_groups() == before);
}
