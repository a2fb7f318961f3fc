// SPDX-License-Identifier: BSD-3-Clause
//
// COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE.
#include <fcntl.h>
#include <linux/falloc.h>

#include <chrono>

#include "base/steps.h"
#include "data_helpers.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
constexpr int kCollapse = FALLOC_FL_COLLAPSE_RANGE;
constexpr int kInsert = FALLOC_FL_INSERT_RANGE;
constexpr int kUnshare = FALLOC_FL_UNSHARE_RANGE;

// Block `n` of a file says so; every second block is a hole, so that each is an extent.
std::string block_text(u64 n) { return "block " + std::to_string(n) + std::string(20, '.'); }
void write_blocks(World& w, const InodeRef& f, u64 count, u64 stride = 2) {
  for (u64 i = 0; i < count; ++i) REQUIRE(w.write(f, stride * i * kBlockSize, block_text(i)).ok());
}
std::string read_block(World& w, const InodeRef& f, u64 block, u64 n) {
  return w.read(f, block * kBlockSize, block_text(n).size()).value();
}

}  // namespace

TEST_CASE("fs: collapse takes a range out of the file and frees its blocks, insert makes room") {
  World w;
  auto f = w.create("f");
  const std::string a(5000, 'a'), b(9000, 'b'), c(4096 * 3, 'c');
  REQUIRE(w.write(f, 0, a + b + c).ok());
  std::string all = a + b + c;
  const u64 free = w.free_blocks();
  REQUIRE(w.fallocate(f, kCollapse, 4096, 8192).ok());
  all.erase(4096, 8192);
  CHECK(w.contents(f) == all);
  CHECK(w.free_blocks() == free + 2);
  REQUIRE(w.fallocate(f, kInsert, 4096, 3 * 4096).ok());
  all.insert(4096, std::string(3 * 4096, '\0'));
  CHECK(w.contents(f) == all);
  CHECK(w.free_blocks() == free + 2);
  CHECK(w.fs().seek(*f, 4096, true).value() == 4 * 4096);
  CHECK(w.fs().seek(*f, 0, false).value() == 4096);
  // The other way round gives back what was there, as one extent.
  REQUIRE(w.fallocate(f, kCollapse, 4096, 3 * 4096).ok());
  all.erase(4096, 3 * 4096);
  CHECK(w.contents(f) == all);
  auto g = w.create("g");
  REQUIRE(w.write(g, 0, std::string(8 * 4096, 'g')).ok());
  REQUIRE(w.extents(g).size() == 1);
  REQUIRE(w.fallocate(g, kInsert, 8192, 4096).ok());
  CHECK(w.extents(g).size() == 2);
  REQUIRE(w.fallocate(g, kCollapse, 8192, 4096).ok());
  CHECK(w.extents(g).size() == 1);
  CHECK(w.slot(g).blocks == 8);
}

TEST_CASE("fs: collapse and insert refuse what Linux refuses, and then nothing has changed") {
  World w;
  auto f = w.create("f");
  const std::string all(10000, 'x');
  REQUIRE(w.write(f, 0, all).ok());
  const auto refused = [&](int mode, u64 offset, u64 length, Errc why) {
    CAPTURE(mode, offset, length);
    CHECK(w.fallocate(f, mode, offset, length).code() == why);
    CHECK(w.contents(f) == all);
  };
  refused(kCollapse, 1, 4096, Errc::kInvalid);
  refused(kCollapse, 0, 4095, Errc::kInvalid);
  refused(kCollapse, 4096, 8192, Errc::kInvalid);  // passes the end
  refused(kCollapse, 8192, 4096, Errc::kInvalid);
  refused(kCollapse, 0, 12288, Errc::kInvalid);
  refused(kCollapse, 1u << 20, 4096, Errc::kInvalid);
  refused(kCollapse | kKeep, 0, 4096, Errc::kInvalid);
  refused(kCollapse | kInsert, 0, 4096, Errc::kInvalid);
  refused(kCollapse, 0, 0, Errc::kInvalid);
  refused(kInsert, 100, 4096, Errc::kInvalid);
  refused(kInsert, 4096, 100, Errc::kInvalid);
  refused(kInsert, 12288, 4096, Errc::kInvalid);  // at or behind the end
  refused(kInsert | kKeep, 0, 4096, Errc::kInvalid);
  refused(kInsert, 0, (u64{1} << 63) - 8192, Errc::kTooBig);
  refused(kInsert, 0, u64{1} << 63, Errc::kInvalid);  // negative
  refused(kInsert, 4096, (u64{1} << 63) - 4096, Errc::kTooBig);
  refused(kUnshare | FALLOC_FL_PUNCH_HOLE | kKeep, 0, 4096, Errc::kInvalid);
  refused(FALLOC_FL_PUNCH_HOLE, 0, 4096, Errc::kNotSupported);
  refused(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | kKeep, 0, 4096, Errc::kNotSupported);
  refused(0x1000, 0, 4096, Errc::kNotSupported);
  refused(0, (u64{1} << 63) - 4096, 8192, Errc::kTooBig);
  REQUIRE(w.fs().set_flags(*f, format::kFlagAppend).ok());
  refused(kCollapse, 0, 4096, Errc::kPermission);
  refused(kInsert, 0, 4096, Errc::kPermission);
  refused(kUnshare, 0, 4096, Errc::kPermission);
  CHECK(w.fallocate(f, kKeep, 0, 4096).ok());  // reserving is appending
  REQUIRE(w.fs().set_flags(*f, format::kFlagImmutable).ok());
  refused(kCollapse, 0, 4096, Errc::kPermission);
  refused(kKeep, 0, 4096, Errc::kPermission);
  REQUIRE(w.fs().set_flags(*f, 0).ok());
  // Blocks that were reserved far behind the end would have nowhere to go.
  REQUIRE(w.fallocate(f, kKeep, (u64{1} << 63) - 8192, 4096).ok());
  refused(kInsert, 0, 8192, Errc::kInvalid);
  CHECK(w.fallocate(f, kInsert, 0, 4096).ok());
}

TEST_CASE("fs: collapse and insert stamp the file and clear set-id bits of the unprivileged") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, std::string(20000, 'x')).ok());
  SetAttributes set;
  for (const int mode : {kCollapse, kInsert}) {
    set.valid = SetAttributes::kMode | SetAttributes::kMtime | SetAttributes::kCtime;
    set.mode = 06755;
    set.mtime = set.ctime = {1000, 0};
    Caller root;
    root.privileged = true;
    REQUIRE(w.fs().set_attributes(*f, set, root).ok());
    REQUIRE(w.fallocate(f, mode, 4096, 4096).ok());
    const auto now_there = w.fs().attributes(*f).value();
    CHECK((now_there.mode & 07777) == 0755);
    CHECK(now_there.mtime.seconds > 1000);
    CHECK(now_there.ctime.seconds > 1000);
  }
}

TEST_CASE("fs: blocks behind the end of the file move along") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, std::string(16384, 'x')).ok());
  REQUIRE(w.fallocate(f, kKeep, 32768, 8192).ok());
  REQUIRE(w.fallocate(f, kCollapse, 0, 8192).ok());
  auto e = w.extents(f);
  REQUIRE(e.size() == 2);
  CHECK(e[1].file_block == FileBlock(6));
  REQUIRE(w.fallocate(f, kInsert, 4096, 4096).ok());
  e = w.extents(f);
  REQUIRE(e.size() == 3);
  CHECK(e[2].file_block == FileBlock(7));
  CHECK(w.slot(f).blocks == 4);
}

TEST_CASE("fs: unshare makes a range allocated, and the file longer unless told not to") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, "x").ok());
  REQUIRE(w.fallocate(f, kUnshare | kKeep, 0, 20000).ok());
  CHECK(w.fs().size(*f).value() == 1);
  CHECK(w.slot(f).blocks == 5);
  REQUIRE(w.fallocate(f, kUnshare, 0, 20000).ok());
  CHECK(w.contents(f) == "x" + std::string(19999, '\0'));
}

TEST_CASE("fs: a file of many extents collapses and grows in several transactions, each crash of which recovery finishes") {
  constexpr u64 kBlocks = 12000;
  for (const int mode : {kCollapse, kInsert}) {
    World w(64u << 20);
    auto f = w.create("f");
    write_blocks(w, f, kBlocks);
    // A quarter of the blocks leaves, or room for as many comes.
    constexpr u64 kFrom = kBlocks / 2, kCount = kBlocks / 2;
    const u64 free = w.free_blocks();
    std::vector<std::unique_ptr<Media>> crashes;
    unsigned steps_seen = 0;
    steps::arm("fs.shift_committed", [&] {
      if (++steps_seen > 3) return;
      auto copy = make_memory_media(w.media().size());
      for (u64 at = 0; at < w.media().size(); at += kBlockSize)
        (void)copy->write(PoolOffset(at), w.media().view(PoolOffset(at), kBlockSize), kBlockSize);
      crashes.push_back(std::move(copy));
    });
    REQUIRE(w.fallocate(f, mode, kFrom * kBlockSize, kCount * kBlockSize).ok());
    steps::disarm_all();
    INFO("mode " << mode);
    CHECK(steps_seen >= 2);
    const auto check = [&](World& world, const InodeRef& file) {
      const bool out = mode == kCollapse;
      CHECK(world.fs().size(*file).value() ==
            (2 * kBlocks - 2) * kBlockSize + block_text(kBlocks - 1).size() + (out ? u64{0} - kCount * kBlockSize : kCount * kBlockSize));
      for (u64 i = 0; i < kBlocks; i += 97) {
        const u64 was = 2 * i;
        if (out && was >= kFrom && was < kFrom + kCount) continue;
        const u64 is = was < kFrom ? was : out ? was - kCount : was + kCount;
        REQUIRE(read_block(world, file, is, i) == block_text(i));
      }
      CHECK(world.slot(file).pending_end == 0);
      CHECK(world.slot(file).pending_shift == 0);
      CHECK(world.fs().orphan_count() == 0);
      CHECK(world.extents(file).size() == (out ? kBlocks - kCount / 2 : kBlocks));
    };
    check(w, f);
    CHECK(w.free_blocks() >= free + (mode == kCollapse ? kCount / 2 : 0));
    for (auto& media : crashes) {
      World after(std::move(media), SyncMode::kStrict, false);
      auto g = after.open("f");
      check(after, g);
      CHECK(after.free_blocks() == w.free_blocks());
    }
  }
}

TEST_CASE("fs: an unfinished collapse is not shown by a read-only mount") {
  World w(64u << 20);
  auto f = w.create("f");
  write_blocks(w, f, 9000);
  std::unique_ptr<Media> crash;
  steps::arm("fs.shift_committed", [&] {
    if (crash != nullptr) return;
    crash = make_memory_media(w.media().size());
    for (u64 at = 0; at < w.media().size(); at += kBlockSize)
      (void)crash->write(PoolOffset(at), w.media().view(PoolOffset(at), kBlockSize), kBlockSize);
  });
  REQUIRE(w.fallocate(f, kCollapse, 0, 8192).ok());
  steps::disarm_all();
  World after(std::move(crash), SyncMode::kStrict, false);
  after.kill();
  after.options.read_only = true;
  // That first mount has finished it; what a reader of the crashed pool sees is tried on the slot.
  format::Inode slot = w.slot(f);
  CHECK(check_settled(slot).ok());
  slot.pending_shift = static_cast<u32>(format::PendingShift::kCollapse);
  CHECK(check_settled(slot).code() == Errc::kIo);
}

TEST_CASE("fs: an fsync under way while a collapse moves what it is about covers it where it went") {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  for (const char* point : {"fs.fsync_taken", "fs.fsync_looked", "fs.fsync_flushed"}) {
    CAPTURE(point);
    auto owned = std::make_unique<LossyMedia>(32u << 20, seed);
    LossyMedia& media = *owned;
    World w(std::move(owned), SyncMode::kPosix);
    auto f = w.create("f");
    REQUIRE(w.fs().sync_all().ok());
    REQUIRE(media.sync_all().ok());
    std::string all(16 * kBlockSize, 'x');
    REQUIRE(w.write(f, 0, all).ok());
    bool done = false;
    steps::arm(point, [&] {
      if (std::exchange(done, true)) return;
      REQUIRE(w.fallocate(f, kInsert, 0, 4 * kBlockSize).ok());
    });
    REQUIRE(w.fs().fsync(*f, false).ok());
    steps::disarm_all();
    REQUIRE(done);
    f.reset();
    w.reboot();
    media.crash();
    w.mount();
    CHECK(w.contents(w.open("f")) == std::string(4 * kBlockSize, '\0') + all);
  }
}

TEST_CASE("fs: what was written before a collapse or an insert is unsynced where it went") {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  for (const int mode : {kCollapse, kInsert}) {
    auto owned = std::make_unique<LossyMedia>(32u << 20, seed);
    LossyMedia& media = *owned;
    World w(std::move(owned), SyncMode::kPosix);
    auto f = w.create("f");
    REQUIRE(w.write(f, 0, std::string(32 * kBlockSize, 'o')).ok());
    REQUIRE(w.fs().fsync(*f, false).ok());
    REQUIRE(w.write(f, 20 * kBlockSize, std::string(4 * kBlockSize, 'n')).ok());
    REQUIRE(w.fallocate(f, mode, 8 * kBlockSize, 8 * kBlockSize).ok());
    const std::string all = w.contents(f);
    REQUIRE(w.fs().fsync(*f, false).ok());
    f.reset();
    w.reboot();
    media.crash();
    w.mount();
    CHECK(w.contents(w.open("f")) == all);
  }
}

TEST_CASE("fs: collapse and insert in a file of 100,000 extents", "[.slow]") {
  World w(u64{1} << 30);
  auto f = w.create("f");
  for (u64 i = 0; i < 100000; ++i) REQUIRE(w.fallocate(f, 0, 2 * i * kBlockSize, kBlockSize).ok());
  const auto timed = [&](int mode) {
    const auto start = std::chrono::steady_clock::now();
    REQUIRE(w.fallocate(f, mode, 0, 4096).ok());
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  const double insert_ms = timed(kInsert), collapse_ms = timed(kCollapse);
  WARN("100,000 extents: insert " << insert_ms << " ms, collapse " << collapse_ms << " ms");
  CHECK(w.extents(f).size() == 100000);
}
