// SPDX-License-Identifier: BSD-3-Clause
//
// Moving a file's blocks together.
#include <fcntl.h>
#include <linux/falloc.h>

#include <future>

#include "data_helpers.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr u64 kHuge = 512;  // blocks

Result<FileSystem::DefragmentStep> step(World& w, const InodeRef& f, u64 offset) {
  std::promise<Result<FileSystem::DefragmentStep>> promise;
  auto result = promise.get_future();
  FileSystem::ChangeContext context;
  context.policy = BusyPolicy::kRefuse;
  const auto change = w.fs().defragment(f, offset, context, [&](Result<FileSystem::DefragmentStep> r) { promise.set_value(std::move(r)); });
  return result.get();
}

// All of it; how many bytes moved.
u64 defragment(World& w, const InodeRef& f) {
  u64 moved = 0;
  for (u64 at = 0; at != kMaxOffset;) {
    const auto s = step(w, f, at);
    REQUIRE(s.ok());
    REQUIRE(s->next > at);
    at = s->next;
    moved += s->moved_bytes;
  }
  return moved;
}

// Two files whose blocks alternate in the pool.
void interleave(World& w, const InodeRef& f, const InodeRef& g, u64 blocks) {
  for (u64 i = 0; i < blocks; ++i) {
    REQUIRE(w.write(f, i * kBlockSize, std::string(kBlockSize, static_cast<char>('a' + i % 26))).ok());
    REQUIRE(w.fallocate(g, 0, i * 2 * kBlockSize, kBlockSize).ok());
  }
}

// Leaves single free blocks only, lets `f` be written into them, and gives the rest back.
void write_scattered(World& w, const InodeRef& f, u64 blocks) {
  auto wall = w.create("wall");
  u64 size = 0;
  for (u64 piece = 4096; piece > 0; piece /= 2)
    while (w.fallocate(wall, 0, size * kBlockSize, piece * kBlockSize).ok()) size += piece;
  for (u64 i = 0; i <= blocks + 64; ++i)
    REQUIRE(w.fallocate(wall, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (size - 1 - 2 * i) * kBlockSize, kBlockSize).ok());
  for (u64 i = 0; i < blocks; ++i)
    REQUIRE(w.write(f, i * kBlockSize, std::string(kBlockSize, static_cast<char>('a' + i / 50 % 26))).ok());
  REQUIRE(w.truncate(wall, 0).ok());
}

}  // namespace

TEST_CASE("fs: defragmenting makes a scattered file one aligned extent and changes no byte") {
  for (const auto& [granularity, mode] : {std::pair{Granularity::kCacheLine, SyncMode::kStrict}, {Granularity::kPage, SyncMode::kPosix}}) {
    World w(192u << 20, granularity, mode);
    auto f = w.create("f");
    constexpr u64 kBlocks = 3 * kHuge + 100;
    write_scattered(w, f, kBlocks);
    REQUIRE(w.extents(f).size() > kBlocks / 2);
    const std::string before = w.contents(f);
    const auto stat = w.fs().attributes(*f).value();
    const u64 free = w.free_blocks();
    unsigned passes = 0;  // so many fragments go together 2 MiB at a time first
    while (defragment(w, f) > 0) ++passes;
    CHECK(passes >= 1);
    CHECK(passes <= 2);
    CHECK(w.contents(f) == before);
    const auto e = w.extents(f);
    CHECK(e.size() == 1);
    CHECK(e[0].block.value % kHuge == 0);
    CHECK(w.free_blocks() >= free);  // its tree went, too
    const auto after = w.fs().attributes(*f).value();
    CHECK(after.mtime == stat.mtime);
    CHECK(after.size_bytes == stat.size_bytes);
    f.reset();
    w.remount();
    CHECK(w.contents(w.open("f")) == before);
  }
}

TEST_CASE("fs: defragmenting keeps holes and unwritten blocks what they are") {
  World w(128u << 20);
  auto f = w.create("f");
  auto g = w.create("filler");
  interleave(w, f, g, 40);
  REQUIRE(w.fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * kBlockSize, 5 * kBlockSize).ok());
  REQUIRE(w.fallocate(f, FALLOC_FL_ZERO_RANGE, 20 * kBlockSize, 5 * kBlockSize).ok());
  const std::string before = w.contents(f);
  const u64 blocks = w.slot(f).blocks;
  defragment(w, f);
  CHECK(w.contents(f) == before);
  CHECK(w.slot(f).blocks <= blocks);
  CHECK(w.fs().seek(*f, 0, false).value() == 10 * kBlockSize);
  for (const auto& e : w.extents(f)) {
    CHECK((e.file_end() <= FileBlock(10) || e.file_block >= FileBlock(15)));
    if (e.file_block >= FileBlock(20) && e.file_end() <= FileBlock(25)) CHECK(e.state == ExtentState::kUnwritten);
  }
}

TEST_CASE("fs: defragmenting loses nothing when the host crashes right after") {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  auto owned = std::make_unique<LossyMedia>(64u << 20, seed);
  LossyMedia& media = *owned;
  World w(std::move(owned), SyncMode::kPosix);
  auto f = w.create("f");
  auto g = w.create("filler");
  interleave(w, f, g, 60);
  REQUIRE(w.fs().sync_all().ok());
  const std::string before = w.contents(f);
  const u64 moved = defragment(w, f);
  CHECK(moved > 0);
  REQUIRE(w.fs().sync_all().ok());  // the exchange lasts, so the copy has to
  f.reset();
  g.reset();
  w.reboot();
  media.crash();
  w.mount();
  CHECK(w.contents(w.open("f")) == before);
}

TEST_CASE("fs: a pool without a free run leaves the file as it is and says how much") {
  World w(16u << 20);
  auto f = w.create("f");
  auto g = w.create("filler");
  interleave(w, f, g, 200);
  auto h = w.create("rest");
  u64 at = 0;
  for (; w.write(h, at, std::string(kBlockSize, 'r')).ok(); at += kBlockSize) {
  }
  // Single blocks become free, no run of two hundred.
  for (u64 i = 0; i < 200; ++i) REQUIRE(w.fallocate(g, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 2 * kBlockSize, kBlockSize).ok());
  const std::string before = w.contents(f);
  const auto s = step(w, f, 0);
  REQUIRE(s.ok());
  CHECK(s->moved_bytes == 0);
  CHECK(s->no_room_bytes == 200 * kBlockSize);
  CHECK(w.contents(f) == before);
}
