// SPDX-License-Identifier: BSD-3-Clause
#include <thread>

#include "alloc_bench.h"

using namespace pindax;
using test::AllocBench;

namespace {

void add(AllocBench& b, BlockRun run) {
  Transaction tx(*b.store);
  REQUIRE(b.alloc->add_owner(tx, run).ok());
  REQUIRE(tx.commit().ok());
}
// One owner less; the last one frees. Returns how many blocks were freed.
u64 drop(AllocBench& b, BlockRun run) {
  Transaction tx(*b.store);
  std::vector<BlockRun> last;
  REQUIRE(b.alloc->drop_owner(tx, run, &last).ok());
  u64 freed = 0;
  for (const BlockRun& r : last) {
    b.alloc->free(tx, r, false);
    freed += r.length;
  }
  REQUIRE(tx.commit().ok());
  return freed;
}
std::vector<u64> owners_of(AllocBench& b, BlockRun run) {
  const auto found = b.alloc->owners(run, nullptr);
  REQUIRE(found.ok());
  std::vector<u64> out;
  BlockNo at = run.start;
  for (const auto& o : *found) {
    REQUIRE(o.run.start == at);
    out.insert(out.end(), o.run.length, o.owners);
    at = o.run.end();
  }
  REQUIRE(at == run.end());
  return out;
}

}  // namespace

TEST_CASE("alloc: share counts are kept by the block, survive reopening, and the last owner is told") {
  AllocBench b;
  const BlockRun run = b.take(100);
  const u64 free = b.alloc->summary().free_blocks;
  REQUIRE(owners_of(b, run) == std::vector<u64>(100, 1));
  add(b, run);
  add(b, {run.start + 10, 20});
  b.reopen();
  std::vector<u64> want(100, 2);
  std::fill(want.begin() + 10, want.begin() + 30, 3);
  REQUIRE(owners_of(b, run) == want);
  REQUIRE(drop(b, run) == 0);
  REQUIRE(drop(b, {run.start + 5, 20}) == 5);  // five had one owner, fifteen have another left
  REQUIRE(drop(b, {run.start + 10, 15}) == 15);
  REQUIRE(owners_of(b, {run.start + 25, 75})[0] == 2);
  REQUIRE(drop(b, {run.start + 25, 5}) == 0);
  REQUIRE(drop(b, {run.start, 5}) == 5);
  REQUIRE(drop(b, {run.start + 25, 75}) == 75);
  REQUIRE(b.alloc->reclaim().ok());
  REQUIRE(b.alloc->summary().free_blocks == free + 100);  // the tree's own block is back, too
  REQUIRE(b.free_in_groups() == free + 100);
}

TEST_CASE("alloc: an aborted change of share counts did not happen") {
  AllocBench b;
  const BlockRun run = b.take(50);
  add(b, run);
  {
    Transaction tx(*b.store);
    REQUIRE(b.alloc->add_owner(tx, {run.start, 10}).ok());
    REQUIRE(b.alloc->owners({run.start, 1}, &tx)->front().owners == 3);
    std::vector<BlockRun> last;
    REQUIRE(b.alloc->drop_owner(tx, {run.start + 20, 10}, &last).ok());
    REQUIRE(last.empty());
  }
  REQUIRE(owners_of(b, run) == std::vector<u64>(50, 2));
}

TEST_CASE("alloc: random share counts agree with a model, step by step and after reopening") {
  AllocBench b;
  std::mt19937_64 random(test::seed());
  const BlockRun run = b.take(400);
  std::vector<u64> model(run.length, 1);
  for (unsigned round = 0; round < 600; ++round) {
    const u64 begin = random() % run.length, length = 1 + random() % std::min<u64>(run.length - begin, 60);
    const BlockRun part{run.start + begin, length};
    if (random() % 2 == 0) {
      add(b, part);
      for (u64 i = 0; i < length; ++i) ++model[begin + i];
    } else {
      // Only what somebody shares is let go here, so that the run stays ours.
      for (u64 i = 0; i < length; ++i)
        if (model[begin + i] > 1) {
          REQUIRE(drop(b, {part.start + i, 1}) == 0);
          --model[begin + i];
        }
    }
    if (round % 100 == 99) b.reopen();
    if (round % 10 == 9) REQUIRE(owners_of(b, run) == model);
  }
  // In steps as long as a transaction likes them.
  for (BlockNo at = run.start; at < run.end();) {
    Transaction tx(*b.store);
    const auto step = b.alloc->countable(tx, {at, run.end() - at});
    REQUIRE(step.ok());
    REQUIRE(*step > 0);
    REQUIRE(b.alloc->add_owner(tx, {at, *step}).ok());
    REQUIRE(tx.commit().ok());
    at = at + *step;
  }
  for (u64& m : model) ++m;
  REQUIRE(owners_of(b, run) == model);
}

TEST_CASE("alloc: of owners that let go at once exactly one is the last [R29]") {
  AllocBench b;
  constexpr unsigned kThreads = 4, kRounds = 200;
  for (unsigned round = 0; round < kRounds; ++round) {
    const BlockRun run = b.take(8);
    for (unsigned i = 1; i < kThreads; ++i) add(b, run);
    std::atomic<u64> freed{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
      threads.emplace_back([&] {
        Transaction tx(*b.store);
        std::vector<BlockRun> last;
        if (!b.alloc->drop_owner(tx, run, &last).ok()) return;
        for (const BlockRun& r : last) {
          b.alloc->free(tx, r, false);
          freed += r.length;
        }
        if (!tx.commit().ok()) freed += 1000;
      });
    for (auto& t : threads) t.join();
    REQUIRE(freed == run.length);
  }
}
