// SPDX-License-Identifier: BSD-3-Clause
#include "catch.h"
#include "server/fault_ahead.h"

using namespace pindax;

namespace {

// Stores to block after block from `block` on; how many faults that takes.
u64 faults_of(FaultAhead& ahead, u64 block, u64 count) {
  u64 faults = 0;
  for (u64 at = block * kBlockSize, end = at + count * kBlockSize; at < end; ++faults) {
    const u64 bytes = ahead.wanted(at);
    REQUIRE(bytes % kBlockSize == 0);
    REQUIRE(bytes >= kBlockSize);
    REQUIRE(bytes <= kMaxAheadBytes);
    ahead.allocated({at, at + bytes});
    at += bytes;
  }
  return faults;
}

}  // namespace

TEST_CASE("server: stores that run upwards get more blocks at once, others one each") {
  FaultAhead ahead;
  CHECK(faults_of(ahead, 100, 3) == 3);
  CHECK(faults_of(ahead, 1000, 1024) < 40);
  CHECK(ahead.wanted(5 * kBlockSize) == kBlockSize);
  for (u64 i = 0; i < 100; ++i) {
    const u64 at = (5000 + 2 * i) * kBlockSize;
    CHECK(ahead.wanted(at) == kBlockSize);
    ahead.allocated({at, at + kBlockSize});
  }
  for (u64 i = 100; i > 0; --i) {
    const u64 at = (9000 + i) * kBlockSize;
    CHECK(ahead.wanted(at) == kBlockSize);
    ahead.allocated({at, at + kBlockSize});
  }
}

TEST_CASE("server: what is allocated ahead is at most half of what the run has got before") {
  FaultAhead ahead;
  u64 got = 0;
  for (u64 at = 0; at < 4 * kMaxAheadBytes;) {
    const u64 bytes = ahead.wanted(at);
    if (bytes > kBlockSize) CHECK(bytes <= got / 2);
    ahead.allocated({at, at + bytes});
    at += bytes;
    got += bytes;
  }
  CHECK(ahead.wanted(got) == kMaxAheadBytes);
}

TEST_CASE("server: threads that fill parts of a file side by side are runs of their own") {
  FaultAhead ahead;
  u64 at[3] = {0, u64{1} << 30, u64{1} << 31}, faults = 0;
  while (at[0] < 1024 * kBlockSize) {
    for (u64& a : at) {
      const u64 bytes = ahead.wanted(a);
      ahead.allocated({a, a + bytes});
      a += bytes;
      ++faults;
    }
  }
  CHECK(faults < 120);
}
