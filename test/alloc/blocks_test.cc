// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <map>
#include <mutex>
#include <thread>

#include "alloc_bench.h"

using namespace pindax;
using test::AllocBench;

TEST_CASE("alloc: an empty pool is free but for its own metadata") {
  AllocBench b;
  u64 data = 0;
  for (u32 ag = 0; ag < b.geometry.ag_count; ++ag) {
    const auto runs = b.alloc->free_runs(ag).value();
    REQUIRE(runs.size() == 1);
    REQUIRE(runs[0].start == b.geometry.first_data(ag));
    REQUIRE(runs[0].end().value == b.geometry.ag_start(ag) + b.geometry.ag_length(ag));
    data += runs[0].length;
  }
  const SpaceSummary s = b.alloc->summary();
  REQUIRE(s.total_blocks == data);
  REQUIRE(s.free_blocks == data);
  REQUIRE(s.inodes_allocated == 0);
}

TEST_CASE("alloc: an aborted allocation comes back, a committed one stays, also after reopening") {
  AllocBench b;
  const u64 before = b.alloc->summary().free_blocks;
  {
    Transaction tx(*b.store);
    REQUIRE(b.alloc->allocate(tx, {.wanted = 100}).ok());
    REQUIRE(b.alloc->summary().free_blocks == before - 100);
  }
  REQUIRE(b.alloc->summary().free_blocks == before);
  const BlockRun run = b.take(100);
  REQUIRE(run.length == 100);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(b.alloc->summary().free_blocks == before - 100);
    REQUIRE(b.free_in_groups() == before - 100);
    b.reopen();
  }
  b.give(run);
  b.reopen();
  REQUIRE(b.free_in_groups() == before);
}

TEST_CASE("alloc: freeing a free block is refused and nothing happens") {
  AllocBench b;
  const BlockRun run = b.take(10);
  const u64 before = b.alloc->summary().free_blocks;
  Transaction tx(*b.store);
  b.alloc->free(tx, {run.start, 11}, false);
  REQUIRE(tx.commit().code() == Errc::kCorrupt);
  REQUIRE(b.alloc->summary().free_blocks == before);
  Transaction outside(*b.store);
  b.alloc->free(outside, {BlockNo(3), 1}, false);
  REQUIRE(outside.commit().code() == Errc::kCorrupt);
  b.give(run);
}

TEST_CASE("alloc: a file grows right behind its last block") {
  AllocBench b;
  BlockRun last = b.take(1);
  for (int i = 0; i < 100; ++i) {
    const BlockRun next = b.take({.wanted = 1, .near = last.end()});
    REQUIRE(next.start == last.end());
    last = next;
  }
}

TEST_CASE("alloc: parallel appenders do not interleave") {
  AllocBench b;
  const bool same_worker = GENERATE(true, false);
  std::vector<BlockRun> last;
  std::vector<unsigned> seams(6, 0);
  for (unsigned f = 0; f < 6; ++f) last.push_back(b.take({.wanted = 1, .worker = same_worker ? 0 : f}));
  for (int i = 0; i < 200; ++i)
    for (unsigned f = 0; f < 6; ++f) {
      const BlockRun next = b.take({.wanted = 1, .near = last[f].end(), .worker = same_worker ? 0 : f});
      if (next.start != last[f].end()) ++seams[f];
      last[f] = next;
    }
  REQUIRE(*std::max_element(seams.begin(), seams.end()) <= 2);
}

TEST_CASE("alloc: huge requests start at 2 MiB of the pool while such a run is free") {
  AllocBench b(256u << 20);
  b.take(3);
  for (int i = 0; i < 20; ++i) {
    const BlockRun run = b.take({.wanted = 1024, .huge_align = true});
    REQUIRE(run.length == 1024);
    REQUIRE(run.start.value % 512 == 0);
    b.take(1);
  }
}

TEST_CASE("alloc: metadata and data come from different ends of a group") {
  AllocBench b;
  const BlockRun data = b.take({.near = b.geometry.first_data(1)});
  const BlockRun node = b.take({.near = data.start, .use = BlockUse::kMetadata});
  REQUIRE(b.geometry.ag_of(data.start) == b.geometry.ag_of(node.start));
  REQUIRE(data.start == b.geometry.first_data(1));
  REQUIRE(node.end().value == b.geometry.ag_start(2));
}

TEST_CASE("alloc: the pool can be filled to its last block, and says so then") {
  AllocBench b(16u << 20);
  std::vector<BlockRun> runs;
  for (;;) {
    Transaction tx(*b.store);
    auto run = b.alloc->allocate(tx, {.wanted = 300});
    if (!run.ok()) {
      REQUIRE(run.code() == Errc::kNoSpace);
      break;
    }
    REQUIRE(tx.commit().ok());
    runs.push_back(*run);
  }
  // Data leaves a reserve, so that deleting still works; metadata takes it, to the last block.
  REQUIRE(b.alloc->summary().reserved_blocks > 0);
  REQUIRE(b.alloc->summary().free_blocks == b.alloc->summary().reserved_blocks);
  REQUIRE_FALSE(b.alloc->room_to_grow());
  b.fill(runs);
  Transaction tx(*b.store);
  REQUIRE(b.alloc->allocate(tx, {.use = BlockUse::kMetadata}).code() == Errc::kNoSpace);
  for (const BlockRun& r : runs) b.give(r);
  REQUIRE(b.free_in_groups() == b.alloc->summary().total_blocks);
}

TEST_CASE("alloc: freed blocks rest until their record is durable, and are hurried when needed") {
  AllocBench b(16u << 20, SyncMode::kPosix);
  std::vector<BlockRun> runs;
  while (b.alloc->room_to_grow()) runs.push_back(b.take(100));
  b.fill(runs);
  for (int i = 0; i < 3; ++i) b.give(runs[static_cast<unsigned>(i)]);
  REQUIRE(b.free_in_groups() == 0);
  REQUIRE(b.alloc->summary().resting_blocks == 300);
  REQUIRE(b.alloc->summary().free_blocks == 300);
  REQUIRE(b.take(100).length == 100);  // syncs
  REQUIRE(b.alloc->summary().resting_blocks == 0);
}

TEST_CASE("alloc: blocks that clients may map are punched before they are free; a failed punch is tried again") {
  AllocBench b;
  const BlockRun run = b.take(10);
  const u64 before = b.alloc->summary().free_blocks;
  b.media.fail_punches = true;
  b.give(run, true);
  REQUIRE(b.alloc->reclaim().code() == Errc::kIo);
  REQUIRE(b.alloc->summary().resting_blocks == 10);
  REQUIRE(b.free_in_groups() == before);
  b.media.fail_punches = false;
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.media.punched_bytes == 10 * kBlockSize);
  REQUIRE(b.alloc->summary().resting_blocks == 0);
  REQUIRE(b.free_in_groups() == before + 10);
}

TEST_CASE("alloc: a punch that the kernel holds up for good holds nobody else up, and the allocator can be ended") {
  AllocBench b;
  const BlockRun run = b.take(10);
  const u64 before = b.alloc->summary().free_blocks;
  b.media.hold_punches = true;
  b.give(run, true);
  REQUIRE(b.alloc->reclaim().code() == Errc::kTryAgain);
  REQUIRE(b.media.held);
  REQUIRE(b.alloc->summary().punching_ms > 0);
  REQUIRE(b.alloc->summary().resting_blocks == 10);
  REQUIRE(b.take(100).length == 100);
  b.alloc.reset();
  b.media.hold_punches = false;
  b.reopen();
  REQUIRE(b.alloc->summary().free_blocks == before + 10 - 100);
}

TEST_CASE("alloc: a full pool waits for punches under way, however slow the host is") {
  AllocBench b;
  std::vector<BlockRun> all;
  b.fill(all);
  // Ten runs that do not touch, so ten punches, each of which takes its time.
  std::atomic<bool> first{true};
  b.media.before_punch = [&first] {
    std::this_thread::sleep_for(std::chrono::milliseconds(first.exchange(false) ? 700 : 20));
  };
  {
    Transaction tx(*b.store);
    for (u64 i = 0; i < 10; ++i) b.alloc->free(tx, {all.front().start + 20 * i, 10}, true);
    REQUIRE(tx.commit().ok());
  }
  u64 got = 0;
  while (got < 100) got += b.take({.wanted = 10, .minimum = 10, .use = BlockUse::kMetadata}).length;
  REQUIRE(b.alloc->summary().free_blocks == 0);
  Transaction tx(*b.store);
  REQUIRE(b.alloc->allocate(tx, {.wanted = 1, .use = BlockUse::kMetadata}).code() == Errc::kNoSpace);
}

TEST_CASE("alloc: a damaged group serves nothing, the others go on, and freeing into it is refused") {
  AllocBench b;
  const BlockRun run = b.take({.near = b.geometry.first_data(2)});
  REQUIRE(b.geometry.ag_of(run.start) == 2);
  REQUIRE(b.store->checkpoint().ok());
  const u8 junk = 0x5a;
  REQUIRE(b.media.write(block_offset(b.geometry.bitmap(2, 0)) + 1000, &junk, 1).ok());
  b.reopen();
  REQUIRE(b.alloc->free_runs(2).code() == Errc::kCorrupt);
  const BlockRun other = b.take({.near = run.end()});
  REQUIRE(b.geometry.ag_of(other.start) != 2);
  Transaction tx(*b.store);
  b.alloc->free(tx, run, false);
  REQUIRE(tx.commit().code() == Errc::kCorrupt);
}

TEST_CASE("alloc: random work with aborts and reopening never hands a block out twice") {
  std::mt19937_64 rng(test::seed());
  AllocBench b(32u << 20, rng() % 2 == 0 ? SyncMode::kStrict : SyncMode::kPosix);
  std::map<u64, u64> owned;  // committed: start -> length
  const auto disjoint = [](const std::map<u64, u64>& runs, BlockRun r) {
    auto it = runs.lower_bound(r.end().value);
    return it == runs.begin() || std::prev(it)->first + std::prev(it)->second <= r.start.value;
  };
  for (int round = 0; round < 1500; ++round) {
    auto changed = owned;
    std::map<u64, u64> born;  // in this transaction
    {
      Transaction tx(*b.store);
      for (u64 i = 1 + rng() % 4; i > 0; --i) {
        if (rng() % 100 < 55 || changed.empty()) {
          AllocateRequest request{.wanted = 1 + rng() % (rng() % 8 == 0 ? 1500 : 20)};
          request.near = BlockNo(rng() % 2 == 0 ? 0 : rng() % b.geometry.pool_blocks);
          request.use = rng() % 4 == 0 ? BlockUse::kMetadata : BlockUse::kData;
          request.huge_align = rng() % 4 == 0;
          request.worker = static_cast<unsigned>(rng() % 4);
          auto run = b.alloc->allocate(tx, request);
          if (!run.ok()) {
            REQUIRE(run.code() == Errc::kNoSpace);
            continue;
          }
          REQUIRE(b.geometry.is_data(run->start, run->length));
          REQUIRE((disjoint(owned, *run) && disjoint(born, *run)));
          born[run->start.value] = run->length;
          changed[run->start.value] = run->length;
        } else {
          auto it = changed.lower_bound(rng() % b.geometry.pool_blocks);
          if (it == changed.end()) it = changed.begin();
          const u64 part = rng() % 3 == 0 ? 1 + rng() % it->second : it->second;
          const BlockRun run{BlockNo(it->first), part};
          if (part < it->second) changed[it->first + part] = it->second - part;
          changed.erase(run.start.value);
          b.alloc->free(tx, run, rng() % 3 == 0);
        }
      }
      if (rng() % 6 != 0) {
        REQUIRE(tx.commit().ok());
        owned = changed;
      }
    }
    if (round % 300 != 299) continue;
    REQUIRE(b.alloc->reclaim().ok());
    for (int opened = 0; opened < 2; ++opened) {
      u64 used = 0;
      for (const auto& [start, length] : owned) used += length;
      REQUIRE(b.alloc->summary().free_blocks == b.alloc->summary().total_blocks - used);
      REQUIRE(b.free_in_groups() == b.alloc->summary().free_blocks);
      if (opened == 0) b.reopen();
    }
  }
}

TEST_CASE("alloc: threads never get the same block") {
  AllocBench b(64u << 20);
  std::mutex mutex;
  std::map<u64, u64> owned;
  std::atomic<bool> overlap{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 rng(t + 1);
      std::vector<BlockRun> mine;
      for (int i = 0; i < 400; ++i) {
        Transaction tx(*b.store);
        if (mine.size() < 20 || rng() % 2 == 0) {
          auto run = b.alloc->allocate(tx, {.wanted = 1 + rng() % 50, .worker = t});
          if (!run.ok() || !tx.commit().ok()) continue;
          const std::lock_guard lock(mutex);
          auto it = owned.lower_bound(run->end().value);
          if (it != owned.begin() && std::prev(it)->first + std::prev(it)->second > run->start.value) overlap = true;
          owned[run->start.value] = run->length;
          mine.push_back(*run);
        } else {
          const BlockRun run = mine.back();
          mine.pop_back();
          {
            const std::lock_guard lock(mutex);
            owned.erase(run.start.value);
          }
          b.alloc->free(tx, run, rng() % 2 == 0);
          if (!tx.commit().ok()) overlap = true;
        }
      }
    });
  for (auto& t : threads) t.join();
  REQUIRE_FALSE(overlap);
  u64 used = 0;
  for (const auto& [start, length] : owned) used += length;
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.free_in_groups() == b.alloc->summary().total_blocks - used);
}
