// SPDX-License-Identifier: BSD-3-Clause
//
// Sparse pools on a host that has less space than they promise.
#include "alloc_bench.h"

using namespace pindax;
using test::AllocBench;

namespace {

constexpr u64 kSpare = 1024;  // blocks of the host that data leaves alone: 4 MiB

Status try_to_take(AllocBench& b, u64 blocks) {
  Transaction tx(*b.store);
  auto run = b.alloc->allocate(tx, {.wanted = blocks, .minimum = blocks});
  return run.ok() ? tx.commit().status() : run.status();
}

}  // namespace

TEST_CASE("alloc: what free blocks hold of a full host is given back before there is no space") {
  AllocBench b;
  b.media.host_blocks = kSpare + 1000;
  const BlockRun first = b.take(600);
  const u64 metadata = b.media.reserved() - 600;
  REQUIRE(try_to_take(b, 600).code() == Errc::kNoSpace);
  b.give(first);
  REQUIRE(b.media.reserved() == 600 + metadata);
  // More than what was freed: other blocks, too.
  REQUIRE(try_to_take(b, 900).ok());
  REQUIRE(b.media.reserved() <= 1000u);
  REQUIRE(try_to_take(b, 200).code() == Errc::kNoSpace);
  REQUIRE(b.free_in_groups() == b.alloc->summary().free_blocks);
}

TEST_CASE("alloc: a block that was allocated without the host's space gets it later, or there is no space") {
  AllocBench b;
  b.media.host_blocks = kSpare + 500;
  const BlockRun kept = b.take(250);
  const u64 before = b.media.reserved();
  const BlockRun promised = b.take({.wanted = 600, .minimum = 600, .reserve_on_host = false});
  REQUIRE(b.media.reserved() == before);
  REQUIRE(b.alloc->reserve_on_host({promised.start, 200}, BlockUse::kData).ok());
  REQUIRE(b.alloc->reserve_on_host(promised, BlockUse::kData).code() == Errc::kNoSpace);
  b.give(kept);
  REQUIRE(b.alloc->reserve_on_host({promised.start, 450}, BlockUse::kData).ok());
}

TEST_CASE("alloc: trim gives back free extents of the range that are long enough, and all stays free") {
  AllocBench b;
  const BlockRun all{BlockNo(0), b.geometry.pool_blocks};
  REQUIRE(b.alloc->trim(all, 1).status().code() == Errc::kNotSupported);
  b.media.host_blocks = 100'000;
  const BlockRun run = b.take(300);
  const u64 held = b.media.reserved() - 300;
  b.give(run);
  const u64 free = b.alloc->summary().free_blocks;
  REQUIRE(b.media.reserved() == held + 300);
  REQUIRE(*b.alloc->trim({run.start, 100}, 1) == 100u);
  REQUIRE(b.media.reserved() == held + 200);
  REQUIRE(*b.alloc->trim({run.start, 300}, 301) == 0u);
  REQUIRE(*b.alloc->trim(run, 300) == 300u);
  REQUIRE(b.media.reserved() == held);
  REQUIRE(*b.alloc->trim(all, 0) == free);
  REQUIRE(*b.alloc->trim(all, 0) == 0u);  // nothing became free since
  b.give(b.take(10));
  REQUIRE(*b.alloc->trim(all, 0) != 0u);
  REQUIRE(b.media.reserved() == held);
  REQUIRE(b.alloc->summary().free_blocks == free);
  REQUIRE(b.free_in_groups() == free);
}
