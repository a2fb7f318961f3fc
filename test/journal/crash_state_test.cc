// SPDX-License-Identifier: BSD-3-Clause
#include "crash_state.h"

#include <set>

#include "catch.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr u64 kSize = 64 * kBlockSize;

// A recorded pool that began as zeros.
struct Recorded {
  explicit Recorded(Granularity granularity = Granularity::kCacheLine) : media(kSize, granularity) {
    media.record(&log);
  }
  CrashState state() { return CrashState(std::make_unique<RecordingMedia>(kSize, media.granularity()), log); }
  RecordingMedia media;
  MediaLog log;
};

u64 word(const Media& media, u64 at) {
  u64 v = 0;
  REQUIRE(media.read(PoolOffset(at), &v, 8).ok());
  return v;
}

void put(Media& media, u64 at, u64 value, bool nt = false) {
  REQUIRE((nt ? media.write_nt(PoolOffset(at), &value, 8) : media.write(PoolOffset(at), &value, 8)).ok());
}

}  // namespace

TEST_CASE("crash state: a store is undecided until it is flushed and drained") {
  Recorded rec;
  RecordingMedia& media = rec.media;
  put(media, 0, 1);
  REQUIRE(media.flush(PoolOffset(0), 8).ok());
  REQUIRE(media.drain().ok());
  CrashState state = rec.state();
  CHECK(state.units().empty());
  for (u64 events = 1; events <= 2; ++events) {
    state.advance_to(events);
    CHECK(state.units().size() == 1);
    CHECK(word(*state.image(lose_all()), 0) == 0);
    CHECK(word(*state.image(keep_all()), 0) == 1);
  }
  state.advance_to(3);
  CHECK(state.units().empty());
  CHECK(word(*state.image(lose_all()), 0) == 1);
}

TEST_CASE("crash state: stores to one line arrive as a prefix, lines by themselves, non-temporal ones in any subset") {
  Recorded rec;
  RecordingMedia& media = rec.media;
  put(media, 0, 1);
  put(media, 8, 2);
  put(media, 64, 3);
  CrashState state = rec.state();
  state.advance_to(3);
  std::set<std::vector<u64>> seen;
  for (u32 a = 0; a <= 2; ++a)
    for (u32 b = 0; b <= 1; ++b) {
      auto image = state.image([&](const CrashUnit& u) { return CrashChoice{u.at.value == 0 ? a : b, 0}; });
      seen.insert({word(*image, 0), word(*image, 8), word(*image, 64)});
    }
  CHECK(seen == std::set<std::vector<u64>>{{0, 0, 0}, {1, 0, 0}, {1, 2, 0}, {0, 0, 3}, {1, 0, 3}, {1, 2, 3}});

  Recorded nt;
  put(nt.media, 0, 1, true);
  put(nt.media, 8, 2, true);
  CrashState nt_state = nt.state();
  nt_state.advance_to(2);
  REQUIRE(nt_state.units().size() == 1);
  CHECK(nt_state.units()[0].unordered == 2);
  auto image = nt_state.image([](const CrashUnit&) { return CrashChoice{0, 2}; });
  CHECK(word(*image, 0) == 0);
  CHECK(word(*image, 8) == 2);
}

TEST_CASE("crash state: a drain completes earlier flushes only, and non-temporal stores without one") {
  Recorded rec;
  RecordingMedia& media = rec.media;
  put(media, 0, 1);
  REQUIRE(media.flush(PoolOffset(0), 8).ok());
  put(media, 0, 2);
  put(media, 128, 7, true);
  REQUIRE(media.drain().ok());
  CrashState state = rec.state();
  state.advance_to(rec.log.events.size());
  auto image = state.image(lose_all());
  CHECK(word(*image, 0) == 1);
  CHECK(word(*image, 128) == 7);
  CHECK(word(*state.image(keep_all()), 0) == 2);
}

TEST_CASE("crash state: at page granularity each sector is as at some moment since the page's flush") {
  Recorded rec(Granularity::kPage);
  RecordingMedia& media = rec.media;
  put(media, 0, 1);
  put(media, 0, 2);
  put(media, 512, 3);
  put(media, 4096, 4, true);
  REQUIRE(media.drain().ok());
  {
    CrashState state = rec.state();
    state.advance_to(rec.log.events.size());
    CHECK(state.units().size() == 3);
    auto image = state.image([](const CrashUnit& u) { return CrashChoice{u.at.value == 0 ? 1u : 0u, ~u64{0}}; });
    CHECK(word(*image, 0) == 1);
    CHECK(word(*image, 512) == 0);
    CHECK(word(*image, 4096) == 0);
  }
  REQUIRE(media.flush(PoolOffset(3000), 1).ok());
  CrashState state = rec.state();
  state.advance_to(rec.log.events.size());
  auto image = state.image(lose_all());
  CHECK(word(*image, 0) == 2);
  CHECK(word(*image, 512) == 3);
  CHECK(word(*image, 4096) == 0);
  REQUIRE(media.sync_all().ok());
  CrashState all = rec.state();
  all.advance_to(rec.log.events.size());
  CHECK(word(*all.image(lose_all()), 4096) == 4);
}

TEST_CASE("crash state: at byte granularity only the last store can be cut") {
  Recorded rec(Granularity::kByte);
  RecordingMedia& media = rec.media;
  put(media, 0, 1);
  const u64 two[2] = {2, 3};
  REQUIRE(media.write(PoolOffset(64), two, 16).ok());
  CrashState state = rec.state();
  state.advance_to(2);
  CHECK(word(*state.image(lose_all()), 0) == 1);
  CHECK(word(*state.image(lose_all()), 64) == 0);
  auto image = state.image([](const CrashUnit&) { return CrashChoice{1, 0}; });
  CHECK(word(*image, 64) == 2);
  CHECK(word(*image, 72) == 0);
}
