// SPDX-License-Identifier: BSD-3-Clause
#include "alloc_bench.h"
#include "format/decode.h"

using namespace pindax;
using namespace pindax::test;

namespace {

// Everything that can be had, and that none of it is `bad`.
std::vector<BlockRun> take_all(AllocBench& b, BlockNo bad) {
  std::vector<BlockRun> runs;
  for (;;) {
    Transaction tx(*b.store);
    auto run = b.alloc->allocate(tx, {.wanted = 1000, .use = BlockUse::kMetadata});
    if (!run.ok()) break;
    CHECK(!(run->start <= bad && bad < run->end()));
    REQUIRE(tx.commit().ok());
    runs.push_back(*run);
  }
  return runs;
}

format::StateRecord state_of(AllocBench& b) {
  format::StateRecord s;
  auto view = b.store->view(block_offset(BlockNo(b.geometry.state_block)), sizeof s);
  REQUIRE(view.ok());
  return view->as<format::StateRecord>();
}

}  // namespace

TEST_CASE("alloc: a free block that is bad is not handed out, from the moment it is noted") {
  AllocBench b(8u << 20);
  const BlockRun first = b.take(1);  // the group is loaded
  const BlockNo bad = first.start + 100;
  const bool settled = GENERATE(false, true);
  REQUIRE(b.alloc->note_bad(bad));
  CHECK(!b.alloc->note_bad(bad));
  CHECK(b.alloc->first_bad({first.start, 200}) == bad);
  CHECK(!b.alloc->first_bad({first.start, 100}));
  CHECK(!b.alloc->first_bad({bad + 1, 100}));
  const u64 free = b.alloc->summary().free_blocks;
  if (settled) {
    REQUIRE(b.alloc->settle_bad().ok());
    CHECK(b.alloc->summary().free_blocks + 2 == free);  // it, and the tree's node
    CHECK(b.alloc->summary().retired_blocks == 1);
    CHECK(b.alloc->summary().bad_blocks == 1);
  }
  take_all(b, bad);
  if (settled) CHECK(b.alloc->summary().free_blocks == 0);
}

TEST_CASE("alloc: the list of bad blocks is on media, and what is retired stays so") {
  AllocBench b(8u << 20);
  const BlockRun used = b.take(10);
  REQUIRE(b.alloc->note_bad(used.start + 3));
  REQUIRE(b.alloc->note_bad(used.start + 500));
  REQUIRE(b.alloc->settle_bad().ok());
  CHECK(state_of(b).bad_blocks == 2);
  CHECK(state_of(b).retired_blocks == 1);
  b.reopen();
  auto all = b.alloc->bad_blocks();
  REQUIRE(all.size() == 2);
  CHECK(!all[0].retired);
  CHECK(all[1].retired);
  CHECK(all[0].since_ns != 0);
  // Its owner lets go of it: it is retired, too; the others are free.
  const u64 before = b.alloc->summary().free_blocks;
  b.give(used);
  REQUIRE(b.alloc->settle_bad().ok());
  CHECK(b.alloc->summary().retired_blocks == 2);
  CHECK(b.alloc->summary().free_blocks == before + 9);
  b.reopen();
  CHECK(b.alloc->summary().retired_blocks == 2);
  take_all(b, used.start + 3);
}

TEST_CASE("alloc: a bad block that was freed before a crash and not retired yet is retired after it") {
  AllocBench b(8u << 20);
  const BlockRun used = b.take(10);
  REQUIRE(b.alloc->note_bad(used.start + 3));
  REQUIRE(b.alloc->settle_bad().ok());
  b.give(used);
  CHECK(state_of(b).retired_blocks == 0);
  b.reopen();
  const bool early = GENERATE(false, true);
  if (early) take_all(b, used.start + 3);
  REQUIRE(b.alloc->settle_bad().ok());
  CHECK(state_of(b).retired_blocks == 1);
  if (!early) take_all(b, used.start + 3);
}

TEST_CASE("alloc: a block that turns out to be bad in the hands of a transaction that fails does not come back") {
  AllocBench b(8u << 20);
  BlockNo bad;
  {
    Transaction tx(*b.store);
    auto run = b.alloc->allocate(tx, {.wanted = 20});
    REQUIRE(run.ok());
    bad = run->start + 7;
    REQUIRE(b.alloc->note_bad(bad));
    REQUIRE(b.alloc->settle_bad().ok());  // it is nobody's and not free either
    CHECK(b.alloc->summary().retired_blocks == 0);
  }
  CHECK(b.alloc->bad_blocks().at(0).retired);
  REQUIRE(b.alloc->settle_bad().ok());
  CHECK(b.alloc->summary().retired_blocks == 1);
  take_all(b, bad);
}

TEST_CASE("alloc: many bad blocks, settled in many transactions") {
  AllocBench b(16u << 20);
  const BlockRun used = b.take(400);
  u64 told = 0;
  b.alloc->set_bad_listener([&] { ++told; });
  for (u64 i = 0; i < 400; i += 2) REQUIRE(b.alloc->note_bad(used.start + i));
  for (u64 i = 0; i < 300; i += 3) REQUIRE(b.alloc->note_bad(used.end() + i));
  CHECK(told >= 300);
  const u64 free = b.alloc->summary().free_blocks;
  REQUIRE(b.alloc->settle_bad().ok());
  CHECK(state_of(b).bad_blocks == 300);
  CHECK(state_of(b).retired_blocks == 100);
  CHECK(free - b.alloc->summary().free_blocks >= 100);
  CHECK(b.alloc->summary().free_blocks == state_of(b).free_blocks);
  CHECK(b.free_in_groups() == b.alloc->summary().free_blocks);
  b.reopen();
  CHECK(b.alloc->bad_count() == 300);
}
