// SPDX-License-Identifier: BSD-3-Clause
//
// Bad blocks under files: who gets errors, what repairs them, what becomes of the blocks.
#include <fcntl.h>
#include <linux/falloc.h>

#include <future>

#include "data_helpers.h"
#include "fsck/fsck.h"
#include "layout/fixture.h"
#include "poisoned_media.h"

using namespace pindax;
using namespace pindax::test;
using layout_test::FakeClient;
using layout_test::pages;

namespace {

std::unique_ptr<Media> poisonable(Granularity g) { return std::make_unique<PoisonedMedia>(64u << 20, g); }

struct Bench {
  World w;
  explicit Bench(Granularity g = Granularity::kCacheLine) : w(poisonable(g), default_sync_mode(g)) {}
  PoisonedMedia& media() { return static_cast<PoisonedMedia&>(w.media()); }
  Allocator& alloc() { return w.fs().allocator(); }
  BlockNo block(const InodeRef& f, u64 file_block) {
    for (const ExtentInfo& e : w.extents(f))
      if (e.file_block.value <= file_block && file_block < e.file_end().value) return e.block + (file_block - e.file_block.value);
    FAIL("a hole");
    return BlockNo(0);
  }
  // The block is bad from now on, and the file system knows.
  BlockNo spoil(const InodeRef& f, u64 file_block) {
    const BlockNo b = block(f, file_block);
    media().poison(b);
    REQUIRE(alloc().note_bad(b));
    return b;
  }
  Errc read_error(const InodeRef& f, u64 offset, u64 length) { return w.read(f, offset, length).code(); }
  // What fsck says of the pool as it stands, which is nothing but notes.
  FsckReport settle() {
    REQUIRE(w.fs().sync_all().ok());
    REQUIRE(alloc().reclaim().ok());
    REQUIRE(w.fs().tend_bad_blocks().ok());
    REQUIRE(w.fs().store().checkpoint().ok());
    const auto copy = make_memory_media(media().size());
    REQUIRE(copy->write(PoolOffset(0), media().view(PoolOffset(0), media().size()), media().size()).ok());
    auto report = fsck(*copy, {});
    REQUIRE(report.ok());
    std::string found;
    for (const auto& f : report->findings)
      if (f.severity != FsckSeverity::kNote) found += f.structure + ": " + f.where + ": " + f.message + "\n";
    CHECK(found == "");
    return *report;
  }
};

}  // namespace

TEST_CASE("fs: reads end before a bad block, and begin with an error at it") {
  Bench b(GENERATE(Granularity::kCacheLine, Granularity::kPage));
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  b.spoil(f, 2);
  CHECK(b.w.read(f, 0, 4 * kBlockSize).value() == text('x', 2 * kBlockSize));
  CHECK(b.read_error(f, 2 * kBlockSize, 1) == Errc::kPoisoned);
  CHECK(b.read_error(f, 3 * kBlockSize - 1, 2) == Errc::kPoisoned);
  CHECK(b.w.read(f, 3 * kBlockSize, kBlockSize).value() == text('x', kBlockSize));
  CHECK(b.w.fill(f, 0, 4 * kBlockSize, false).code() == Errc::kPoisoned);  // a short answer would be zeros
  CHECK(b.w.fill(f, kBlockSize, kBlockSize, true).value() == text('x', kBlockSize));
  CHECK(b.media().touches() == 0);
}

TEST_CASE("fs: a write of a whole bad block repairs it with another one, and the old one is retired for good") {
  Bench b(GENERATE(Granularity::kCacheLine, Granularity::kPage));
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  const BlockNo bad = b.spoil(f, 1);
  CHECK(b.w.write(f, kBlockSize + 1, "y").code() == Errc::kPoisoned);
  CHECK(b.w.write(f, kBlockSize, text('y', kBlockSize - 1)).code() == Errc::kPoisoned);
  CHECK(b.read_error(f, kBlockSize, kBlockSize) == Errc::kPoisoned);
  // What can be written is, up to a part of a bad block.
  CHECK(b.w.write(f, 0, text('z', kBlockSize + 10)).value() == kBlockSize);
  REQUIRE(b.w.write(f, kBlockSize, text('y', kBlockSize)).value() == kBlockSize);
  CHECK(b.block(f, 1) != bad);
  CHECK(b.w.contents(f) == text('z', kBlockSize) + text('y', kBlockSize) + text('x', 2 * kBlockSize));
  CHECK(b.media().touches() == 0);
  const FsckReport report = b.settle();
  CHECK(report.bad_blocks == 1);
  CHECK(report.retired_blocks == 1);
  CHECK(report.damage.empty());
  CHECK(b.alloc().summary().retired_blocks == 1);
  // Fill the pool: nobody gets the block.
  const InodeRef all = b.w.create("all");
  for (u64 at = 0;; at += 1u << 20)
    if (b.w.write(all, at, text('a', 1u << 20)).code() != Errc::kOk) break;
  for (const ExtentInfo& e : b.w.extents(all)) CHECK(!(e.block <= bad && bad < e.block + e.length));
  CHECK(b.media().touches() == 0);
  b.settle();
}

TEST_CASE("fs: what a write covers of a bad block is measured by the end of the file") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 100)).ok());
  b.spoil(f, 0);
  CHECK(b.w.write(f, 0, text('y', 99)).code() == Errc::kPoisoned);
  CHECK(b.w.append(f, "more").code() == Errc::kPoisoned);
  CHECK(b.w.write(f, 0, text('y', 100)).value() == 100);
  CHECK(b.w.contents(f) == text('y', 100));
  REQUIRE(b.w.truncate(f, kBlockSize).ok());
  CHECK(b.w.contents(f) == text('y', 100) + text('\0', kBlockSize - 100));
  b.settle();
}

TEST_CASE("fs: a block that turns out to be bad in a write is replaced at once") {
  Bench b(GENERATE(Granularity::kCacheLine, Granularity::kPage));
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  const BlockNo bad = b.block(f, 1);
  b.media().poison(bad);
  CHECK(b.w.write(f, 0, text('y', 4 * kBlockSize)).value() == 4 * kBlockSize);
  CHECK(b.w.contents(f) == text('y', 4 * kBlockSize));
  CHECK(b.block(f, 1) != bad);
  CHECK(b.alloc().bad_count() == 1);
  // A new block that is bad: another one is taken, and nothing leaks.
  const InodeRef g = b.w.create("g");
  const BlockNo next = b.block(f, 3) + 1;
  for (u64 i = 0; i < 600; ++i) b.media().poison(next + 2 * i);
  REQUIRE(b.w.write(g, 0, text('g', 300 * kBlockSize)).value() == 300 * kBlockSize);
  CHECK(b.w.contents(g) == text('g', 300 * kBlockSize));
  const FsckReport report = b.settle();
  CHECK(report.bad_blocks == report.retired_blocks);
  CHECK(report.damage.empty());
}

TEST_CASE("fs: the list of bad blocks outlives the daemon, however it ends") {
  Bench b;
  InodeRef keep = b.w.create("f");
  REQUIRE(b.w.write(keep, 0, text('x', 3 * kBlockSize)).ok());
  const BlockNo used = b.spoil(keep, 1);
  const BlockNo free = used + 5000;
  REQUIRE(b.alloc().note_bad(free));
  REQUIRE(b.w.fs().tend_bad_blocks().ok());
  CHECK(b.alloc().summary().retired_blocks == 1);
  keep.reset();
  b.w.remount();
  CHECK(b.alloc().bad_count() == 2);
  CHECK(b.alloc().first_bad({used, 1}).has_value());
  CHECK(b.alloc().first_bad({free, 1}).has_value());
  CHECK((b.w.fs().superblock().features_ro_compat & format::kRoCompatBadBlocks) != 0);
  {
    const InodeRef f = b.w.open("f");
    CHECK(b.read_error(f, kBlockSize, 1) == Errc::kPoisoned);
    REQUIRE(b.w.truncate(f, 0).ok());  // given up, not settled
  }
  b.w.remount();
  CHECK(b.alloc().summary().retired_blocks == 2);
  b.settle();
}

TEST_CASE("fs: truncate and punch retire a bad block, of which a part cannot be zeroed") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  b.spoil(f, 1);
  b.spoil(f, 3);
  b.spoil(f, 6);
  CHECK(b.w.fallocate(f, kPunch, kBlockSize, 100).code() == Errc::kPoisoned);
  REQUIRE(b.w.fallocate(f, kPunch, kBlockSize, kBlockSize).ok());
  CHECK(b.w.read(f, kBlockSize, kBlockSize).value() == text('\0', kBlockSize));
  REQUIRE(b.w.fallocate(f, FALLOC_FL_ZERO_RANGE, 3 * kBlockSize, kBlockSize).ok());
  CHECK(b.w.read(f, 3 * kBlockSize, kBlockSize).value() == text('\0', kBlockSize));
  REQUIRE(b.w.truncate(f, 6 * kBlockSize + 50).ok());  // its tail is as lost as the rest
  CHECK(b.read_error(f, 6 * kBlockSize, 1) == Errc::kPoisoned);
  REQUIRE(b.w.truncate(f, 7 * kBlockSize).ok());
  CHECK(b.read_error(f, 7 * kBlockSize - 1, 1) == Errc::kPoisoned);
  REQUIRE(b.w.truncate(f, 5 * kBlockSize).ok());
  CHECK(b.media().touches() == 0);
  const FsckReport report = b.settle();
  CHECK(report.bad_blocks == 3);
  CHECK(report.retired_blocks == 2);  // the third one is the file's, unwritten
  CHECK(report.damage.empty());
}

TEST_CASE("fs: an unwritten bad block reads as zeros without being touched, and its first write gets another one") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.fallocate(f, 0, 0, 4 * kBlockSize).ok());
  const BlockNo bad = b.spoil(f, 1);
  CHECK(b.w.contents(f) == text('\0', 4 * kBlockSize));
  CHECK(b.w.write(f, kBlockSize + 7, "y").value() == 1);
  CHECK(b.block(f, 1) != bad);
  CHECK(b.w.read(f, kBlockSize, 10).value() == text('\0', 7) + "y" + text('\0', 2));
  CHECK(b.media().touches() == 0);
  b.settle();
}

TEST_CASE("fs: [R30] a bad block that files share is lost to each of them, and each is repaired by itself") {
  Bench b;
  const InodeRef a = b.w.create("a"), c = b.w.create("c"), other = b.w.create("other");
  REQUIRE(b.w.write(a, 0, text('a', 4 * kBlockSize)).ok());
  REQUIRE(b.w.write(other, 0, text('o', 4 * kBlockSize)).ok());
  REQUIRE(b.w.clone(a, 0, c, 0).ok());
  const BlockNo bad = b.spoil(a, 1);
  CHECK(b.read_error(a, kBlockSize, 1) == Errc::kPoisoned);
  CHECK(b.read_error(c, kBlockSize, 1) == Errc::kPoisoned);
  CHECK(b.w.contents(other) == text('o', 4 * kBlockSize));
  // A clone of lost bytes is lost, too; and nothing is equal to them.
  const InodeRef d = b.w.create("d");
  REQUIRE(b.w.clone(a, 0, d, 0).ok());
  CHECK(b.read_error(d, kBlockSize, 1) == Errc::kPoisoned);
  CHECK(b.w.clone({.source = other, .destination = d, .length = 4 * kBlockSize, .dedupe = true}).value() == 0);
  CHECK(b.w.clone({.source = other, .destination = d, .source_offset = kBlockSize, .destination_offset = kBlockSize, .length = kBlockSize, .dedupe = true}).code() ==
        Errc::kPoisoned);
  FileSystem::DamageScan scan;
  while (b.w.fs().find_damaged(scan).value()) {
  }
  CHECK(scan.owners.size() == 3);
  CHECK(b.w.write(c, kBlockSize + 1, "part").code() == Errc::kPoisoned);
  REQUIRE(b.w.write(c, kBlockSize, text('C', kBlockSize)).ok());
  CHECK(b.w.contents(c) == text('a', kBlockSize) + text('C', kBlockSize) + text('a', 2 * kBlockSize));
  CHECK(b.read_error(a, kBlockSize, 1) == Errc::kPoisoned);
  CHECK(b.read_error(d, kBlockSize, 1) == Errc::kPoisoned);
  REQUIRE(b.w.truncate(a, kBlockSize + 10).ok());  // cuts the shared block: nothing to copy, nothing to zero
  REQUIRE(b.w.truncate(a, 0).ok());
  const FsckReport report = b.settle();
  REQUIRE(report.damage.size() == 1);
  CHECK(report.damage[0].path == "/d");
  CHECK(report.damage[0].offset_bytes == kBlockSize);
  CHECK(report.damage[0].block == bad.value);
  CHECK(report.retired_blocks == 0);
  REQUIRE(b.w.truncate(d, kBlockSize).ok());  // the last owner lets go
  CHECK(b.settle().retired_blocks == 1);
}

TEST_CASE("fs: a copy of a shared block whose source turns out to be bad fails, and changes nothing") {
  Bench b;
  const InodeRef a = b.w.create("a"), c = b.w.create("c");
  REQUIRE(b.w.write(a, 0, text('a', 4 * kBlockSize)).ok());
  REQUIRE(b.w.clone(a, 0, c, 0).ok());
  b.media().poison(b.block(a, 2));
  CHECK(b.w.write(c, 2 * kBlockSize + 1, "x").code() == Errc::kPoisoned);
  CHECK(b.alloc().bad_count() == 1);
  CHECK(b.w.write(c, kBlockSize + 1, "x").value() == 1);
  b.settle();
}

TEST_CASE("fs: translations leave out exactly the bad blocks, for loads and for stores") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 6 * kBlockSize)).ok());
  const BlockNo bad = b.spoil(f, 2);
  for (const bool write : {false, true}) {
    const auto t = b.w.fs().translate(*f, {0, 6 * kBlockSize}, write).value();
    REQUIRE(t.size() == 3);
    CHECK(t[0].kind == Translation::Kind::kBlocks);
    CHECK(t[0].length == 2 * kBlockSize);
    CHECK(t[1].kind == Translation::Kind::kBad);
    CHECK(t[1].file_offset == 2 * kBlockSize);
    CHECK(t[1].length == kBlockSize);
    CHECK(t[2].kind == Translation::Kind::kBlocks);
    CHECK(t[2].pool_offset == block_offset(bad + 1));
    CHECK(t[2].writable);
  }
  // Holes around it are filled, it stays.
  REQUIRE(b.w.fallocate(f, kPunch, kBlockSize, kBlockSize).ok());
  const auto t = b.w.fs().translate(*f, {0, 4 * kBlockSize}, true).value();
  CHECK(std::count_if(t.begin(), t.end(), [](const Translation& p) { return p.kind == Translation::Kind::kBad; }) == 1);
  CHECK(std::none_of(t.begin(), t.end(), [](const Translation& p) { return p.kind == Translation::Kind::kHole; }));
}

TEST_CASE("fs: a block that becomes bad is recalled from those who have it, and from nobody else") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  Layout& layout = b.w.fs().layout();
  auto client = std::make_shared<FakeClient>(layout, 100);
  client_layout(layout).add_client(client);
  Mapping* m = client_layout(layout).add_mapping(*f->layout(), *client, 1, pages(0, 8), true);
  std::promise<void> granted;
  client_layout(layout).with_fault(*m, pages(0, 8), FaultKind::kRead, [&](Result<SharedHold> hold) {
    GrantPiece piece;
    piece.kind = GrantPiece::Kind::kBlocks;
    piece.range = pages(0, 8);
    piece.pool_offset = 1u << 20;
    piece.writable = true;
    client_layout(layout).grant(*m, *hold, {piece});
    hold->release();
    granted.set_value();
  });
  granted.get_future().wait();
  b.spoil(f, 3);
  REQUIRE(b.w.fs().tend_bad_blocks().ok());
  REQUIRE(layout_test::eventually([&] { return client->recalls() == 1; }));
  CHECK(client->sent().back().range == pages(3, 1));
  client->acknowledge_next();
  REQUIRE(b.w.fs().tend_bad_blocks().ok());  // once is enough
  CHECK(client->recalls() == 1);
  client_layout(layout).client_gone(*client);
  client_layout(layout).client_memory_gone(*client);
}

TEST_CASE("fs: scrubbing finds bad blocks where something is, and the host's list is taken over") {
  Bench b;
  const InodeRef f = b.w.create("f");
  REQUIRE(b.w.write(f, 0, text('x', 1000 * kBlockSize)).ok());
  const BlockNo bad = b.block(f, 700), free = b.block(f, 999) + 4000;
  b.media().poison(bad);
  b.media().poison(free);  // nobody's: not read
  b.media().list(b.block(f, 10));
  CHECK(b.w.fs().read_bad_list().value() == 1);
  CHECK(b.w.fs().read_bad_list().value() == 0);
  u64 found = 0, read = 0;
  for (BlockNo at{0};;) {
    const auto step = b.w.fs().scrub(at, 100).value();
    found += step.found_blocks;
    read += step.read_blocks;
    REQUIRE((step.done || step.next > at));
    at = step.next;
    if (step.done) break;
  }
  CHECK(found == 1);
  CHECK(read >= 998);
  CHECK(b.alloc().first_bad({bad, 1}) == bad);
  CHECK(!b.alloc().first_bad({free, 1}));
  CHECK(b.settle().damage.size() == 2);
}
