// SPDX-License-Identifier: BSD-3-Clause
//
// Blocks that files share: cloning, copy-on-write, deduplication, and who must wait for whom.
#include <fcntl.h>
#include <linux/falloc.h>

#include <thread>

#include "data_helpers.h"
#include "layout/fixture.h"

using namespace pindax;
using namespace pindax::test;
using layout_test::FakeClient;
using layout_test::pages;

namespace {

u64 shared_blocks(World& w, const InodeRef& f) {
  u64 sum = 0;
  for (const ExtentInfo& e : w.extents(f)) {
    const auto owned = w.fs().allocator().owners({e.block, e.length}, nullptr);
    REQUIRE(owned.ok());
    for (const auto& o : *owned) {
      if (o.owners > 1) REQUIRE(e.shared);
      if (o.owners > 1) sum += o.run.length;
    }
  }
  return sum;
}

struct Pair {
  World w;
  InodeRef a, b;
  explicit Pair(Granularity g = Granularity::kCacheLine) : w(64u << 20, g, default_sync_mode(g)), a(w.create("a")), b(w.create("b")) {}
  // Both hold `blocks` blocks of 'a'.
  void share(u64 blocks) {
    REQUIRE(w.write(a, 0, text('a', blocks * kBlockSize)).ok());
    REQUIRE(w.clone(a, 0, b, 0).value() == blocks * kBlockSize);
  }
  // The end: fsck finds nothing.
  void check() {
    a.reset();
    b.reset();
    w.check_pool();
  }
};

}  // namespace

TEST_CASE("fs: a clone has the bytes of its source, costs no data blocks, and is counted as the file's own") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('x', 100 * kBlockSize)).ok());
  const u64 before = p.w.free_blocks();
  REQUIRE(p.w.clone(p.a, 0, p.b, 0).value() == 100 * kBlockSize);
  CHECK(before - p.w.free_blocks() <= 2);  // the tree of share counts
  CHECK(p.w.contents(p.b) == text('x', 100 * kBlockSize));
  CHECK(p.w.fs().attributes(*p.b)->blocks_512 == 800);
  CHECK(shared_blocks(p.w, p.a) == 100);
  CHECK(shared_blocks(p.w, p.b) == 100);
  REQUIRE(p.w.truncate(p.a, 0).ok());
  CHECK(p.w.contents(p.b) == text('x', 100 * kBlockSize));
  CHECK(shared_blocks(p.w, p.b) == 0);
  REQUIRE(p.w.truncate(p.b, 0).ok());
  CHECK(p.w.free_blocks() == before + 100);
}

TEST_CASE("fs: a store into a shared block copies that block, for that file, and nobody else sees it") {
  for (const Granularity g : {Granularity::kCacheLine, Granularity::kPage, Granularity::kVolatile}) {
    Pair p(g);
    p.share(10);
    REQUIRE(p.w.write(p.a, 4096 * 3 + 100, "new").ok());
    std::string want = text('a', 40960);
    CHECK(p.w.contents(p.b) == want);
    want.replace(4096 * 3 + 100, 3, "new");
    CHECK(p.w.contents(p.a) == want);
    CHECK(shared_blocks(p.w, p.a) == 9);
    CHECK(shared_blocks(p.w, p.b) == 9);
    // The last owner stores in place.
    const auto before = p.w.extents(p.b);
    REQUIRE(p.w.write(p.b, 4096 * 3, "mine").ok());
    for (const ExtentInfo& e : p.w.extents(p.b)) {
      if (e.file_block == FileBlock(3)) CHECK_FALSE(e.shared);
      for (const ExtentInfo& old : before)
        if (old.file_block <= e.file_block && e.file_end() <= old.file_end())
          CHECK(e.block == old.block + (e.file_block - old.file_block));
    }
    p.check();
  }
}

TEST_CASE("fs: punch, zero, truncate and extension of a file leave what it shares to the others") {
  Pair p;
  p.share(16);
  std::string want = text('a', 16 * kBlockSize);
  REQUIRE(p.w.fallocate(p.b, kPunch, 5000, 20000).ok());
  want.replace(5000, 20000, text('\0', 20000));
  CHECK(p.w.contents(p.b) == want);
  REQUIRE(p.w.fallocate(p.b, FALLOC_FL_ZERO_RANGE, 30000, 9000).ok());
  want.replace(30000, 9000, text('\0', 9000));
  CHECK(p.w.contents(p.b) == want);
  REQUIRE(p.w.truncate(p.b, 50001).ok());
  REQUIRE(p.w.truncate(p.b, 60000).ok());
  want.resize(50001);
  want.resize(60000);
  CHECK(p.w.contents(p.b) == want);
  CHECK(p.w.contents(p.a) == text('a', 16 * kBlockSize));
  p.check();
}

TEST_CASE("fs: the part of a block at the end of file is shared only where both files end in it") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('a', 10000)).ok());
  REQUIRE(p.w.write(p.b, 0, text('b', 20000)).ok());
  CHECK(p.w.clone(p.a, 0, p.b, 0).code() == Errc::kInvalid);
  CHECK(p.w.clone(p.a, 0, p.b, 4096, 5000).code() == Errc::kInvalid);
  CHECK(p.w.clone(p.a, 100, p.b, 0, 4096).code() == Errc::kInvalid);
  CHECK(p.w.clone(p.a, 4096, p.b, 0, 8192).code() == Errc::kInvalid);  // the source ends before
  CHECK(p.w.clone(p.a, 12288, p.b, 0, 4096).code() == Errc::kInvalid);
  CHECK(p.w.clone(p.a, 0, p.a, 4096, 8192).code() == Errc::kInvalid);  // overlap
  CHECK(p.w.contents(p.b) == text('b', 20000));
  REQUIRE(p.w.clone({.source = p.a, .destination = p.b, .length = 0, .may_shorten = true}).value() == 8192);
  CHECK(p.w.contents(p.b) == text('a', 8192) + text('b', 20000 - 8192));
  REQUIRE(p.w.clone(p.a, 0, p.b, 12288).value() == 10000);
  std::string want = text('a', 8192) + text('b', 4096) + text('a', 10000);
  CHECK(p.w.contents(p.b) == want);
  // What follows the end of a shared block reads as zeros when either file grows.
  REQUIRE(p.w.truncate(p.b, 30000).ok());
  want.resize(30000);
  CHECK(p.w.contents(p.b) == want);
  REQUIRE(p.w.write(p.a, 11000, "z").ok());
  CHECK(p.w.contents(p.a) == text('a', 10000) + text('\0', 1000) + "z");
  CHECK(p.w.contents(p.b) == want);
  // A clone beyond the end leaves a hole.
  REQUIRE(p.w.clone(p.b, 0, p.a, 40960, 4096).value() == 4096);
  CHECK(p.w.contents(p.a).substr(11001, 40960 - 11001) == text('\0', 40960 - 11001));
}

TEST_CASE("fs: bytes behind the source's end do not come along with its last block [R46]") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('a', 5000)).ok());
  const auto t = p.w.fs().translate(*p.a, {4096, 8192}, true);
  REQUIRE(p.w.media().write(t->front().pool_offset + 2000, "stain", 5).ok());
  REQUIRE(p.w.clone(p.a, 0, p.b, 0).ok());
  REQUIRE(p.w.truncate(p.b, 8192).ok());
  CHECK(p.w.contents(p.b) == text('a', 5000) + text('\0', 3192));
  REQUIRE(p.w.truncate(p.a, 8192).ok());
  CHECK(p.w.contents(p.a) == text('a', 5000) + text('\0', 3192));
}

TEST_CASE("fs: holes and unwritten blocks of the source become holes, ranges of one file may be cloned onto each other") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('a', 4096)).ok());
  REQUIRE(p.w.fallocate(p.a, 0, 8192, 8192).ok());
  REQUIRE(p.w.write(p.a, 20480, text('c', 4096)).ok());
  REQUIRE(p.w.write(p.b, 0, text('b', 40960)).ok());
  REQUIRE(p.w.clone(p.a, 0, p.b, 4096, 24576).ok());
  const std::string want = text('a', 4096) + text('\0', 16384) + text('c', 4096);
  CHECK(p.w.contents(p.b) == text('b', 4096) + want + text('b', 40960 - 28672));
  CHECK(p.w.fs().seek(*p.b, 8192, false).value() == 8192);
  REQUIRE(p.w.clone(p.a, 0, p.a, 24576, 24576).ok());
  REQUIRE(p.w.clone(p.a, 24576, p.a, 0, 4096).ok());  // what is shared already
  CHECK(p.w.contents(p.a) == want + want);
  p.check();
}

TEST_CASE("fs: dedupe shares equal ranges only, and changes neither bytes nor times") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('s', 8192) + text('a', 4096)).ok());
  REQUIRE(p.w.write(p.b, 0, text('s', 8192) + text('b', 4096)).ok());
  const auto before = p.w.fs().attributes(*p.b);
  REQUIRE(p.w.clone({.source = p.a, .destination = p.b, .length = 12288, .dedupe = true}).value() == 0);
  CHECK(shared_blocks(p.w, p.b) == 0);
  REQUIRE(p.w.clone({.source = p.a, .destination = p.b, .length = 8192, .dedupe = true}).value() == 8192);
  CHECK(shared_blocks(p.w, p.b) == 2);
  CHECK(p.w.contents(p.b) == text('s', 8192) + text('b', 4096));
  CHECK(p.w.fs().attributes(*p.b)->mtime == before->mtime);
  CHECK(p.w.clone({.source = p.a, .destination = p.b, .source_offset = 8192, .length = 8192, .dedupe = true}).code() == Errc::kInvalid);
}

TEST_CASE("fs: a clone takes set-id bits from its destination and moves its times, not the source's") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('a', 4096)).ok());
  SetAttributes set;
  set.valid = SetAttributes::kMode | SetAttributes::kMtime;
  set.mode = 04755;
  set.mtime = {1000, 0};
  Caller root;
  root.privileged = true;
  for (const InodeRef& f : {p.a, p.b}) REQUIRE(p.w.fs().set_attributes(*f, set, root).ok());
  REQUIRE(p.w.clone(p.a, 0, p.b, 0).ok());
  CHECK((p.w.fs().attributes(*p.b)->mode & 07777) == 0755);
  CHECK(p.w.fs().attributes(*p.b)->mtime.seconds > 1000);
  CHECK((p.w.fs().attributes(*p.a)->mode & 07777) == 04755);
  CHECK(p.w.fs().attributes(*p.a)->mtime.seconds == 1000);
}

TEST_CASE("fs: a thousand clones of one file, and the last one that goes frees its blocks once [R29]") {
  World w;
  auto a = w.create("a");
  const u64 before = w.free_blocks();
  REQUIRE(w.write(a, 0, text('a', 50 * kBlockSize)).ok());
  constexpr unsigned kClones = 1000;
  std::vector<InodeRef> clones;
  for (unsigned i = 0; i < kClones; ++i) {
    clones.push_back(w.create("c" + std::to_string(i)));
    REQUIRE(w.clone(i % 2 == 0 ? a : clones[i / 2], 0, clones.back(), 0).ok());
  }
  CHECK(w.fs().allocator().owners({w.extents(a)[0].block, 1}, nullptr)->front().owners == kClones + 1);
  const u64 names = before - w.free_blocks();
  REQUIRE(w.truncate(a, 0).ok());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (unsigned i = t; i < kClones; i += 4)
        if (!w.truncate(clones[i], i % 3 == 0 ? 4096 : 0).ok() || !w.write(clones[i], 0, "x").ok() || !w.truncate(clones[i], 0).ok())
          std::abort();
    });
  for (auto& t : threads) t.join();
  CHECK(before - w.free_blocks() < names);
  for (auto& c : clones) c.reset();
  a.reset();
  w.check_pool();
}

TEST_CASE("fs: clones to and fro between two files at once, with writes in between, end and keep counts right [R28]") {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  Pair p;
  p.share(64);
  std::vector<std::thread> threads;
  std::atomic<unsigned> failed{0};
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      for (unsigned i = 0; i < 150; ++i) {
        const InodeRef &from = t % 2 == 0 ? p.a : p.b, &to = t % 2 == 0 ? p.b : p.a;
        const u64 at = random() % 60 * kBlockSize;
        const auto r = random() % 3 == 0 ? p.w.write(from, at, "w") : p.w.clone(from, at, to, at, 4 * kBlockSize);
        if (!r.ok() && r.code() != Errc::kTryAgain) ++failed;
      }
    });
  for (auto& t : threads) t.join();
  CHECK(failed == 0);
  p.check();
}

TEST_CASE("fs: unshare gives a file blocks of its own for what it shares, there and nowhere else; bytes stay") {
  for (const Granularity g : {Granularity::kCacheLine, Granularity::kPage, Granularity::kVolatile}) {
    Pair p(g);
    p.share(300);
    const u64 before = p.w.free_blocks();
    REQUIRE(p.w.fallocate(p.b, FALLOC_FL_UNSHARE_RANGE, 10 * kBlockSize + 5, 100 * kBlockSize).ok());
    CHECK(shared_blocks(p.w, p.b) == 300 - 101);
    CHECK(shared_blocks(p.w, p.a) == 300 - 101);
    CHECK(before - p.w.free_blocks() >= 101);
    for (const ExtentInfo& e : p.w.extents(p.b))
      CHECK(e.shared == (e.file_block.value < 10 || e.file_block.value >= 111));
    // The other's blocks are its own again, though its extents still say that they may be shared.
    REQUIRE(p.w.fallocate(p.a, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE, 0, 300 * kBlockSize).ok());
    CHECK(shared_blocks(p.w, p.b) == 0);
    for (const ExtentInfo& e : p.w.extents(p.a)) CHECK_FALSE(e.shared);
    CHECK(p.w.contents(p.a) == text('a', 300 * kBlockSize));
    CHECK(p.w.contents(p.b) == text('a', 300 * kBlockSize));
    p.check();
  }
}

TEST_CASE("fs: unshare of a huge range looks at what the file has, not at each part of the range") {
  Pair p;
  p.share(8);
  CHECK(p.w.fallocate(p.b, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE, 0, u64{1} << 62).code() == Errc::kNoSpace);
  CHECK(shared_blocks(p.w, p.b) == 0);
  p.check();
}

TEST_CASE("fs: after a collapse and an insert pins take the slow way where shared blocks lie then, and only there (P4)") {
  Pair p;
  REQUIRE(p.w.write(p.a, 0, text('a', 16 * kBlockSize)).ok());
  REQUIRE(p.w.clone({.source = p.a, .destination = p.b, .source_offset = 8 * kBlockSize, .destination_offset = 0, .length = 2 * kBlockSize}).ok());
  Layout& layout = p.w.fs().layout();
  auto port = std::make_shared<FakeClient>(layout, 100);
  client_layout(layout).add_client(port);
  for (u32 i = 0; i < 10; ++i) {
    REQUIRE(p.w.fs().publish_for_gates(*p.a, pages(2 * i, 2)).ok());
    client_layout(layout).add_mapping(*p.a->layout(), *port, i, pages(2 * i, 2), true);
  }
  const auto fast = [&] {
    std::string out;
    for (u32 i = 0; i < 10; ++i) {
      const u32 slot = port->try_pin(i, pages(2 * i, 1));
      out += slot != proto::kMaxSlots ? 'x' : '-';
      if (slot != proto::kMaxSlots) port->unpin(slot);
    }
    return out;
  };
  CHECK(fast() == "xxxx-xxxxx");
  REQUIRE(p.w.fallocate(p.a, FALLOC_FL_COLLAPSE_RANGE, 2 * kBlockSize, 2 * kBlockSize).ok());
  CHECK(fast() == "xxx-xxxxxx");
  REQUIRE(p.w.fallocate(p.a, FALLOC_FL_INSERT_RANGE, 0, 6 * kBlockSize).ok());
  CHECK(fast() == "xxxxxx-xxx");
  client_layout(layout).client_gone(*port);
  client_layout(layout).client_memory_gone(*port);
}

TEST_CASE("fs: a full pool refuses the copy, and both files stay as they are") {
  World w(16u << 20);
  auto a = w.create("a"), b = w.create("b");
  REQUIRE(w.write(a, 0, text('a', 100 * kBlockSize)).ok());
  REQUIRE(w.clone(a, 0, b, 0).ok());
  auto filler = w.create("filler");
  while (w.append(filler, text('f', 64 * kBlockSize)).ok()) {
  }
  while (w.append(filler, text('f', kBlockSize)).ok()) {
  }
  CHECK(w.write(b, 4096, text('n', 50 * kBlockSize)).code() == Errc::kNoSpace);
  CHECK(w.truncate(b, 100).code() == Errc::kNoSpace);
  CHECK(w.contents(b) == text('a', 100 * kBlockSize));
  CHECK(w.contents(a) == text('a', 100 * kBlockSize));
  REQUIRE(w.truncate(b, 4096).ok());  // whole blocks need no copy
  a.reset();
  b.reset();
  filler.reset();
  w.check_pool();
}
