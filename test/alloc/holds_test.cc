// SPDX-License-Identifier: BSD-3-Clause
#include "alloc_bench.h"

using namespace pindax;
using test::AllocBench;

namespace {

template <class F>
void in_transaction(AllocBench& b, F&& f) {
  Transaction tx(*b.store);
  f(tx);
  REQUIRE(tx.commit().ok());
}
void hold(AllocBench& b, BlockRun run) {
  in_transaction(b, [&](Transaction& tx) { b.alloc->hold(tx, run); });
}
void release(AllocBench& b, BlockRun run) {
  in_transaction(b, [&](Transaction& tx) { REQUIRE(b.alloc->release_hold(tx, run).ok()); });
}
std::vector<u64> owners_of(AllocBench& b, BlockRun run) {
  const auto found = b.alloc->owners(run, nullptr);
  REQUIRE(found.ok());
  std::vector<u64> out;
  for (const auto& o : *found) out.insert(out.end(), o.run.length, o.owners);
  return out;
}

}  // namespace

TEST_CASE("alloc: held blocks count one owner more for each hold, until its release") {
  AllocBench b;
  const BlockRun run = b.take(6);
  in_transaction(b, [&](Transaction& tx) { REQUIRE(b.alloc->add_owner(tx, {run.start + 4, 2}).ok()); });
  hold(b, {run.start + 1, 4});
  hold(b, {run.start + 3, 2});
  REQUIRE(owners_of(b, run) == std::vector<u64>{1, 2, 2, 3, 4, 2});
  release(b, {run.start + 1, 4});
  REQUIRE(owners_of(b, run) == std::vector<u64>{1, 1, 1, 2, 3, 2});
  release(b, {run.start + 3, 2});
  REQUIRE(owners_of(b, run) == std::vector<u64>{1, 1, 1, 1, 2, 2});
  {
    Transaction tx(*b.store);
    b.alloc->hold(tx, run);
  }  // aborted: nothing was given up
  REQUIRE(owners_of(b, run) == std::vector<u64>{1, 1, 1, 1, 2, 2});
}

TEST_CASE("alloc: quarantine keeps what is held until the last hold goes, and then frees all of it") {
  AllocBench b;
  const BlockRun run = b.take(8);
  const u64 free = b.alloc->summary().free_blocks;
  hold(b, {run.start + 2, 3});
  in_transaction(b, [&](Transaction& tx) {
    REQUIRE(b.alloc->held(tx, run) == std::vector<BlockRun>{{run.start + 2, 3}});
    REQUIRE(b.alloc->quarantine(tx, run, format::QuarantineReason::kPinned).ok());
    b.alloc->hold(tx, run);
  });
  REQUIRE(b.alloc->summary().quarantine_blocks == 8);
  release(b, run);
  REQUIRE(b.alloc->summary().quarantine_blocks == 3);
  const auto left = b.alloc->quarantined();
  REQUIRE(left.ok());
  REQUIRE(left->size() == 1);
  REQUIRE(left->front().run == BlockRun{run.start + 2, 3});
  release(b, {run.start + 2, 3});
  REQUIRE(b.alloc->summary().quarantine_blocks == 0);
  REQUIRE(b.alloc->summary().free_blocks == free + 8);
}

TEST_CASE("alloc: while former clients live everything counts as if somebody else owned it, too (D2)") {
  AllocBench b;
  const BlockRun run = b.take(2);
  b.alloc->set_quarantine_all(true);
  REQUIRE(owners_of(b, run) == std::vector<u64>{2, 2});
  b.alloc->set_quarantine_all(false);
  REQUIRE(owners_of(b, run) == std::vector<u64>{1, 1});
}
