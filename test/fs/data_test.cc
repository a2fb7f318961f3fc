// SPDX-License-Identifier: BSD-3-Clause
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "base/steps.h"
#include "data_helpers.h"
#include "fs/file_data.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr int kZero = FALLOC_FL_ZERO_RANGE;
constexpr int kKeep = FALLOC_FL_KEEP_SIZE;

}  // namespace

TEST_CASE("fs: what was written is read back") {
  World w;
  auto f = w.create("f");
  CHECK(w.write(f, 0, "hello").value() == 5);
  CHECK(w.contents(f) == "hello");
  CHECK(w.write(f, 3, "p!").value() == 2);
  CHECK(w.contents(f) == "help!");
  CHECK(w.write(f, 10000, "far").value() == 3);
  CHECK(w.contents(f) == "help!" + text('\0', 9995) + "far");
  CHECK(w.read(f, 10003, 10).value().empty());
  CHECK(w.read(f, 20000, 10).value().empty());
  CHECK(w.read(f, 10001, 10).value() == "ar");
  CHECK(w.read(f, 0, 0).value().empty());
  CHECK(w.fs().size(*f).value() == 10003);
}

TEST_CASE("fs: data, size and blocks survive kill -9 of the daemon without an fsync") {
  for (const Granularity g : {Granularity::kVolatile, Granularity::kPage, Granularity::kCacheLine}) {
    World w(32u << 20, g, default_sync_mode(g));
    auto f = w.create("f");
    const std::string data = text('x', 300000);
    CHECK(w.write(f, 1000, data).value() == data.size());
    CHECK(w.append(f, "end").value() == 3);
    f.reset();
    w.remount();
    CHECK(w.contents(w.open("f")) == text('\0', 1000) + data + "end");
  }
}

TEST_CASE("fs: a large sequential file is one extent, merged as it grows") {
  World w(64u << 20);
  auto f = w.create("f");
  for (int i = 0; i < 64; ++i)
    CHECK(w.append(f, text(static_cast<char>('a' + i % 26), 4096)).value() == 4096);
  CHECK(w.extents(f).size() == 1);
  CHECK(w.slot(f).blocks == 64);
}

TEST_CASE("fs: neighbours that are contiguous in file and pool and alike are merged, others are not") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.fallocate(f, 0, 0, 16 * kBlockSize).ok());
  REQUIRE(w.extents(f).size() == 1);
  CHECK(w.extents(f)[0].state == ExtentState::kUnwritten);
  REQUIRE(w.write(f, 4 * kBlockSize, text('x', kBlockSize)).ok());
  auto e = w.extents(f);
  REQUIRE(e.size() == 3);
  CHECK(e[1].state == ExtentState::kWritten);
  CHECK(e[1].length == 1);
  CHECK(e[2].block == e[0].block + 5);
  for (u64 b = 0; b < 16; ++b) REQUIRE(w.write(f, b * kBlockSize + 7, "y").ok());
  CHECK(w.extents(f).size() == 1);
  CHECK(w.slot(f).blocks == 16);
}

TEST_CASE("fs: a file of ten thousand extents grows into a tree and shrinks back into its inode") {
  World w(128u << 20);
  auto f = w.create("f");
  const u64 before = w.free_blocks();
  for (u64 i = 0; i < 10000; ++i) REQUIRE(w.write(f, 2 * i * kBlockSize, "block " + std::to_string(i)).ok());
  CHECK(w.extents(f).size() == 10000);
  f.reset();
  w.remount();
  f = w.open("f");
  CHECK(w.extents(f).size() == 10000);
  CHECK(w.read(f, 2 * 7777 * kBlockSize, 10).value() == "block 7777");
  CHECK(w.read(f, 3 * kBlockSize, 10).value() == text('\0', 10));
  REQUIRE(w.truncate(f, 5).ok());
  CHECK(w.contents(f) == "block");
  CHECK(w.slot(f).blocks == 1);
  CHECK(w.slot(f).pending_end == 0);
  REQUIRE(w.truncate(f, 0).ok());
  CHECK(w.slot(f).blocks == 0);
  CHECK(w.slot(f).data_kind == static_cast<u16>(format::DataKind::kInlineExtents));
  CHECK(w.free_blocks() == before);
}

TEST_CASE("fs: a truncate that a crash cuts short is finished by recovery, and its blocks never show again") {
  World w(128u << 20);
  auto f = w.create("f");
  const u64 before = w.free_blocks();
  for (u64 i = 0; i < 3000; ++i) REQUIRE(w.write(f, 2 * i * kBlockSize, text('o', kBlockSize)).ok());
  // The pool as it is after the first of several transactions.
  auto copy = make_memory_media(w.media().size());
  int steps_seen = 0;
  steps::arm("fs.remove_committed", [&] {
    if (++steps_seen != 1) return;
    for (u64 at = 0; at < w.media().size(); at += kBlockSize)
      (void)copy->write(PoolOffset(at), w.media().view(PoolOffset(at), kBlockSize), kBlockSize);
  });
  REQUIRE(w.truncate(f, 100).ok());
  steps::disarm_all();
  REQUIRE(steps_seen > 1);

  World after(std::move(copy), SyncMode::kStrict, false);
  auto g = after.open("f");
  CHECK(after.fs().size(*g).value() == 100);
  REQUIRE(after.truncate(g, 6000 * kBlockSize).ok());
  const std::string all = after.contents(g);
  CHECK(all == text('o', 100) + text('\0', 6000 * kBlockSize - 100));
  REQUIRE(after.fs().clean_orphans().ok());
  CHECK(after.slot(g).pending_end == 0);
  CHECK(after.fs().orphan_count() == 0);
  CHECK(after.slot(g).blocks == 1);
  CHECK(after.free_blocks() == before - 1);
}

TEST_CASE("fs: writing goes on until space runs out, short, then kNoSpace, and nothing leaks") {
  World w(16u << 20);
  auto f = w.create("f");
  const u64 before = w.free_blocks();
  const std::string chunk = text('z', 1u << 20);
  u64 size = 0;
  for (;;) {
    const auto n = w.append(f, chunk);
    if (!n.ok()) {
      CHECK(n.code() == Errc::kNoSpace);
      break;
    }
    size += *n;
    if (*n < chunk.size()) {
      CHECK(w.append(f, chunk).code() == Errc::kNoSpace);
      break;
    }
  }
  CHECK(size > (8u << 20));
  CHECK(w.fs().size(*f).value() == size);
  CHECK(w.contents(f) == text('z', size));
  CHECK(w.fallocate(f, 0, size, 64 * kBlockSize).code() == Errc::kNoSpace);
  CHECK(w.fs().size(*f).value() == size);
  REQUIRE(w.truncate(f, 0).ok());
  CHECK(w.free_blocks() == before);
  // What was freed can be used again.
  CHECK(w.write(f, 0, chunk).value() == chunk.size());
}

TEST_CASE("fs: fallocate that does not fit is rolled back") {
  World w(16u << 20);
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, "data").ok());
  const u64 before = w.free_blocks();
  CHECK(w.fallocate(f, 0, 0, u64{1} << 40).code() == Errc::kNoSpace);
  CHECK(w.fallocate(f, kKeep, 0, (before + 100) * kBlockSize).code() == Errc::kNoSpace);
  CHECK(w.contents(f) == "data");
  CHECK(w.free_blocks() == before);
  CHECK(w.slot(f).blocks == 1);
}

TEST_CASE("fs: an extension reads zeros, whatever was stored behind the end [R46]") {
  for (const Granularity g : {Granularity::kPage, Granularity::kCacheLine}) {
    World w(32u << 20, g, default_sync_mode(g));
    auto f = w.create("f");
    REQUIRE(w.write(f, 0, "12345").ok());
    const PoolOffset block = block_offset(w.extents(f)[0].block);
    const auto dirty = [&] { REQUIRE(w.media().write(block + 5, text('#', 4000).data(), 4000).ok()); };
    dirty();
    REQUIRE(w.truncate(f, 100).ok());
    CHECK(w.contents(f) == "12345" + text('\0', 95));
    REQUIRE(w.truncate(f, 5).ok());
    dirty();
    REQUIRE(w.write(f, 50, "x").ok());
    CHECK(w.contents(f) == "12345" + text('\0', 45) + "x");
    REQUIRE(w.truncate(f, 5).ok());
    dirty();
    REQUIRE(w.write(f, 9000, "x").ok());
    CHECK(w.contents(f) == "12345" + text('\0', 8995) + "x");
    REQUIRE(w.truncate(f, 5).ok());
    dirty();
    REQUIRE(w.fallocate(f, 0, 0, 8192).ok());
    CHECK(w.contents(f) == "12345" + text('\0', 8187));
    REQUIRE(w.truncate(f, 5).ok());
    dirty();
    REQUIRE(w.append(f, "6").ok());
    REQUIRE(w.truncate(f, 4096).ok());
    CHECK(w.contents(f) == "123456" + text('\0', 4090));
  }
}

TEST_CASE("fs: a shrink zeros the rest of the cut block") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 3 * kBlockSize)).ok());
  REQUIRE(w.truncate(f, kBlockSize + 10).ok());
  const auto e = w.extents(f);
  REQUIRE(e.size() == 1);
  REQUIRE(e[0].length == 2);
  const std::byte* tail = w.media().view(block_offset(e[0].block) + kBlockSize, kBlockSize);
  CHECK(tail[9] == std::byte{'x'});
  for (u64 i = 10; i < kBlockSize; ++i) REQUIRE(tail[i] == std::byte{0});
}

TEST_CASE("fs: truncate to the same size keeps the data and moves the times") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, "abc").ok());
  const auto before = w.slot(f);
  REQUIRE(w.truncate(f, 3).ok());
  const auto after = w.slot(f);
  CHECK(w.contents(f) == "abc");
  CHECK(slot_mtime(after) > slot_mtime(before));
  CHECK(after.version_counter > before.version_counter);
  CHECK(w.truncate(f, format::kMaxFileBytes + 1).code() == Errc::kTooBig);
  CHECK(w.truncate(f, format::kMaxFileBytes).ok());
  CHECK(w.write(f, format::kMaxFileBytes, "x").code() == Errc::kTooBig);
  CHECK(w.write(f, format::kMaxFileBytes - 1, "xy").value() == 1);
  CHECK(w.append(f, "x").code() == Errc::kTooBig);
  CHECK(w.truncate(f, 1).ok());
  CHECK(w.contents(f) == "a");
}

TEST_CASE("fs: punch frees whole blocks and zeros parts, at the range's exact ends [R13]") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  REQUIRE(w.fallocate(f, kPunch, kBlockSize + 100, 3 * kBlockSize).ok());
  std::string model = text('x', 8 * kBlockSize);
  std::fill_n(model.begin() + kBlockSize + 100, 3 * kBlockSize, '\0');
  CHECK(w.contents(f) == model);
  CHECK(w.slot(f).blocks == 6);
  CHECK(w.fallocate(f, kPunch, 0, 0).code() == Errc::kInvalid);
  CHECK(w.fallocate(f, FALLOC_FL_PUNCH_HOLE, 0, 1).code() == Errc::kNotSupported);
  CHECK(w.fallocate(f, 0x80, 0, kBlockSize).code() == Errc::kNotSupported);
  CHECK(w.fallocate(f, 0, format::kMaxFileBytes, 1).code() == Errc::kTooBig);
  // Inside one block, behind the end, and all of it.
  REQUIRE(w.fallocate(f, kPunch, 10, 20).ok());
  std::fill_n(model.begin() + 10, 20, '\0');
  CHECK(w.contents(f) == model);
  REQUIRE(w.fallocate(f, kPunch, 100 * kBlockSize, kBlockSize).ok());
  CHECK(w.fs().size(*f).value() == 8 * kBlockSize);
  REQUIRE(w.fallocate(f, kPunch, 0, format::kMaxFileBytes).ok());
  CHECK(w.slot(f).blocks == 0);
  CHECK(w.contents(f) == text('\0', 8 * kBlockSize));
}

TEST_CASE("fs: zero range keeps the blocks as unwritten and can extend the file") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  REQUIRE(w.fallocate(f, kZero, kBlockSize / 2, 2 * kBlockSize).ok());
  std::string model = text('x', 4 * kBlockSize);
  std::fill_n(model.begin() + kBlockSize / 2, 2 * kBlockSize, '\0');
  CHECK(w.contents(f) == model);
  CHECK(w.slot(f).blocks == 4);
  CHECK(w.extents(f).size() == 3);
  REQUIRE(w.fallocate(f, kZero, 3 * kBlockSize, 3 * kBlockSize).ok());
  std::fill_n(model.begin() + 3 * kBlockSize, kBlockSize, '\0');
  model.resize(6 * kBlockSize);
  CHECK(w.contents(f) == model);
  CHECK(w.slot(f).blocks == 6);
  REQUIRE(w.fallocate(f, kZero | kKeep, 0, 10 * kBlockSize).ok());
  CHECK(w.contents(f) == text('\0', 6 * kBlockSize));
  CHECK(w.slot(f).blocks == 10);
  REQUIRE(w.truncate(f, 6 * kBlockSize).ok());
  CHECK(w.slot(f).blocks == 6);
}

TEST_CASE("fs: blocks reserved behind the end are used by the writes that come") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.fallocate(f, kKeep, 0, 100 * kBlockSize).ok());
  CHECK(w.fs().size(*f).value() == 0);
  CHECK(w.slot(f).blocks == 100);
  for (int i = 0; i < 30; ++i) REQUIRE(w.append(f, text('r', 10000)).ok());
  CHECK(w.contents(f) == text('r', 300000));
  CHECK(w.slot(f).blocks == 100);
}

TEST_CASE("fs: seek tells data from holes; unwritten blocks are holes") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 4 * kBlockSize, text('d', 2 * kBlockSize)).ok());
  REQUIRE(w.fallocate(f, 0, 8 * kBlockSize, 4 * kBlockSize).ok());
  REQUIRE(w.write(f, 10 * kBlockSize, "d").ok());
  auto& fs = w.fs();
  CHECK(fs.seek(*f, 0, true).value() == 4 * kBlockSize);
  CHECK(fs.seek(*f, 0, false).value() == 0);
  CHECK(fs.seek(*f, 4 * kBlockSize + 5, true).value() == 4 * kBlockSize + 5);
  CHECK(fs.seek(*f, 4 * kBlockSize, false).value() == 6 * kBlockSize);
  CHECK(fs.seek(*f, 6 * kBlockSize, true).value() == 10 * kBlockSize);
  CHECK(fs.seek(*f, 10 * kBlockSize, false).value() == 11 * kBlockSize);
  CHECK(fs.seek(*f, 11 * kBlockSize, true).code() == Errc::kNoDevice);
  CHECK(fs.seek(*f, 11 * kBlockSize, false).value() == 11 * kBlockSize);
  CHECK(fs.seek(*f, 12 * kBlockSize, false).code() == Errc::kNoDevice);
  CHECK(fs.seek(*f, 12 * kBlockSize, true).code() == Errc::kNoDevice);
}

TEST_CASE(
    "fs: a write by an unprivileged caller clears the set-id bits, one by a privileged caller does not") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, "x").ok());
  const auto chmod = [&](u32 mode) {
    SetAttributes set;
    set.valid = SetAttributes::kMode;
    set.mode = mode;
    Caller root;
    root.privileged = true;
    REQUIRE(w.fs().set_attributes(*f, set, root).ok());
  };
  chmod(06775);
  REQUIRE(w.write(f, 0, "y").ok());
  CHECK((w.slot(f).mode & 07777) == 0775);
  chmod(06765);
  REQUIRE(w.write(f, 0, "y").ok());
  CHECK((w.slot(f).mode & 07777) == 02765);  // mandatory locking, not set-group-ID
  chmod(06775);
  REQUIRE(w.fallocate(f, kPunch, 0, 10).ok());
  CHECK((w.slot(f).mode & 07777) == 0775);
}

TEST_CASE("fs: append-only and immutable files refuse what they must") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, "base").ok());
  REQUIRE(w.fs().set_flags(*f, format::kFlagAppend).ok());
  CHECK(w.write(f, 0, "x").code() == Errc::kPermission);
  CHECK(w.append(f, "+").value() == 1);
  CHECK(w.truncate(f, 0).code() == Errc::kPermission);
  CHECK(w.fallocate(f, kPunch, 0, 1).code() == Errc::kPermission);
  REQUIRE(w.fs().set_flags(*f, format::kFlagImmutable).ok());
  CHECK(w.append(f, "+").code() == Errc::kPermission);
  CHECK(w.fs().translate(*f, {0, kBlockSize}, true).status().code() == Errc::kPermission);
  CHECK(w.contents(f) == "base+");
}

TEST_CASE("fs: translations show blocks, holes and the end; for writing, holes get blocks [R17]") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 2 * kBlockSize, text('t', kBlockSize + 1)).ok());
  auto t = w.fs().translate(*f, {0, 6 * kBlockSize}, false).value();
  REQUIRE(t.size() == 3);
  CHECK(t[0].kind == Translation::Kind::kHole);
  CHECK(t[0].length == 2 * kBlockSize);
  CHECK(t[1].kind == Translation::Kind::kBlocks);
  CHECK(t[1].length == 2 * kBlockSize);
  CHECK(*w.media().view(t[1].pool_offset, 1) == std::byte{'t'});
  CHECK(t[2].kind == Translation::Kind::kBeyondEnd);
  CHECK(w.slot(f).blocks == 2);
  t = w.fs().translate(*f, {kBlockSize, 6 * kBlockSize}, true).value();
  CHECK(t.front().kind == Translation::Kind::kBlocks);
  CHECK(t.front().writable);
  CHECK(t.back().kind == Translation::Kind::kBeyondEnd);
  CHECK(w.slot(f).blocks == 3);
  // A direct store and what remembers it.
  REQUIRE(w.media().write(t.front().pool_offset, "direct", 6).ok());
  w.fs().note_direct_stores(*f, {kBlockSize, 2 * kBlockSize});
  CHECK(w.fs().fsync(*f, false).ok());
  CHECK(w.read(f, kBlockSize, 6).value() == "direct");
  CHECK(w.read(f, 0, 4).value() == text('\0', 4));
}

TEST_CASE("fs: a fill for a writable handle gives holes their blocks, or says that there is no space [R44]") {
  World w(16u << 20);
  auto f = w.create("f");
  REQUIRE(w.truncate(f, 3 * kBlockSize - 100).ok());
  CHECK(w.fill(f, 0, kBlockSize, false).value() == text('\0', kBlockSize));
  CHECK(w.slot(f).blocks == 0);
  CHECK(w.fill(f, kBlockSize, 2 * kBlockSize, true).value() == text('\0', 2 * kBlockSize - 100));
  CHECK(w.slot(f).blocks == 2);
  const std::string page = text('p', kBlockSize);
  CHECK(w.fs().write_back(*f, 2 * kBlockSize, std::as_bytes(std::span(page))).ok());
  CHECK(w.fs().size(*f).value() == 3 * kBlockSize - 100);
  CHECK(w.read(f, 2 * kBlockSize, kBlockSize).value() == text('p', kBlockSize - 100));
  auto g = w.create("g");
  while (w.append(g, text('g', 1u << 20)).ok()) {
  }
  CHECK(w.fill(f, 0, kBlockSize, true).status().code() == Errc::kNoSpace);
}

TEST_CASE("fs: posix mode commits new blocks as provisional, and fsync settles them") {
  World w(32u << 20, Granularity::kPage, SyncMode::kPosix);
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('p', 5 * kBlockSize)).ok());
  REQUIRE(w.extents(f).size() == 1);
  CHECK(w.extents(f)[0].state == ExtentState::kProvisional);
  CHECK(w.extents(f)[0].epoch == w.fs().mount_epoch());
  REQUIRE(w.fs().fsync(*f, true).ok());
  CHECK(w.extents(f)[0].state == ExtentState::kWritten);
  REQUIRE(w.append(f, "more").ok());
  CHECK(w.extents(f).size() == 2);
  REQUIRE(w.fs().sync_all().ok());
  CHECK(w.extents(f).size() == 1);
  REQUIRE(w.write(f, 7 * kBlockSize, "s", true).ok());
  for (const auto& e : w.extents(f)) CHECK(e.state == ExtentState::kWritten);
}

TEST_CASE(
    "fs: provisional data is good after kill -9, zeros after a crash of the host, also if written to again") {
  World w(32u << 20, Granularity::kPage, SyncMode::kPosix);
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('s', 4096)).ok());
  REQUIRE(w.fs().fsync(*f, false).ok());
  REQUIRE(w.write(f, 4096, text('u', 8192)).ok());
  f.reset();
  w.remount();
  CHECK(w.contents(w.open("f")) == text('s', 4096) + text('u', 8192));
  f = w.open("f");
  REQUIRE(w.write(f, 12288, text('v', 8192)).ok());
  f.reset();
  w.reboot();
  w.mount();
  f = w.open("f");
  CHECK(w.contents(f) == text('s', 4096) + text('u', 8192) + text('\0', 8192));
  REQUIRE(w.write(f, 12300, "new").ok());
  CHECK(w.contents(f) == text('s', 4096) + text('u', 8192) + text('\0', 12) + "new" + text('\0', 8177));
  CHECK(w.fs().seek(*f, 16384, true).code() == Errc::kNoDevice);
}

TEST_CASE("fs: what was written to an unnamed file is synced after it got a name and its last user went") {
  World w(32u << 20, Granularity::kPage, SyncMode::kPosix);
  {
    auto root = w.fs().root();
    REQUIRE(root.ok());
    auto f = w.fs().create_unnamed(**root, {.mode = 0100644, .rdev = 0, .symlink_target = {}}, {});
    REQUIRE(f.ok());
    REQUIRE(w.write(*f, 0, text('t', 6000)).ok());
    REQUIRE(w.fs().link(**f, **root, "f").ok());
  }
  auto f = w.open("f");
  REQUIRE(w.fs().fsync(*f, false).ok());
  f.reset();
  w.reboot();
  w.mount();
  CHECK(w.contents(w.open("f")) == text('t', 6000));
}

TEST_CASE("fs: a hundred gibibytes are reserved in few extents") {
  const u64 bytes = u64{1} << 37;
  auto media = make_memory_media(bytes);
  World w(std::move(media), SyncMode::kStrict);
  auto f = w.create("f");
  const u64 before = w.free_blocks();
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(w.fallocate(f, 0, 0, u64{100} << 30).ok());
  const auto took = std::chrono::steady_clock::now() - start;
  UNSCOPED_INFO(std::chrono::duration_cast<std::chrono::microseconds>(took).count() << " us");
  CHECK(w.extents(f).size() < 400);
  CHECK(w.fs().size(*f).value() == u64{100} << 30);
  CHECK(w.read(f, u64{99} << 30, 10).value() == text('\0', 10));
  REQUIRE(w.write(f, (u64{99} << 30) + 5, "x").ok());
  CHECK(w.read(f, u64{99} << 30, 7).value() == text('\0', 5) + "x" + text('\0', 1));
  REQUIRE(w.truncate(f, 0).ok());
  CHECK(w.free_blocks() == before);
}
