// SPDX-License-Identifier: BSD-3-Clause
#include <thread>

#include "base/steps.h"

#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

void store(TestFs& fs, const InodeRef& f, u64 offset, const std::string& text) {
  FileSystem::WriteRequest w;
  w.offset = offset;
  w.data = std::as_bytes(std::span(text));
  Status done(Errc::kTryAgain);
  fs->write(f, w, [&](Result<u64> r) { done = r.status(); });
  fs.executor().drain();
  REQUIRE_OK(done);
}

// The executor's tasks post others.
void settle(TestFs& fs) {
  for (int i = 0; i < 1000 && fs->orphan_count() != 0; ++i) {
    fs.executor().drain();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST_CASE("fs: an unlinked file lives as long as somebody refers to it") {
  TestFs fs;
  auto f = fs.make(*fs.root(), "f");
  store(fs, f, 0, std::string(100'000, 'x'));
  REQUIRE_OK(fs->unlink(*fs.root(), "f"));
  CHECK(fs->orphan_count() == 1);
  CHECK(fs.stat(*f).links == 0);
  CHECK(fs.stat(*f).size_bytes == 100'000);
  store(fs, f, 200'000, "more");
  REQUIRE_OK(fs->clean_orphans());
  CHECK(fs->orphan_count() == 1);
  const InodeNo ino = f->ino;
  f.reset();
  REQUIRE_OK(fs->clean_orphans());
  CHECK(fs->orphan_count() == 0);
  REQUIRE_ERROR(fs->get(ino, 0), kStale);
}

TEST_CASE("fs: orphans survive the daemon and are freed after the next mount") {
  TestFs fs;
  u64 free_before = 0;
  {
    fs.make(*fs.root(), "keep");
    free_before = TestFs::ok(fs->statfs()).f_bfree;
    const auto f = fs.make(*fs.root(), "f");
    for (int i = 0; i < 40; ++i) store(fs, f, static_cast<u64>(i) * 100'000, "piece");
    fs.make(*fs.root(), "d", S_IFDIR | 0755);
    REQUIRE_OK(fs->rmdir(*fs.root(), "d"));
    REQUIRE_OK(fs->unlink(*fs.root(), "f"));
  }
  fs.remount();
  CHECK(fs->orphan_count() == 2);
  fs.options().background = true;
  fs.remount();
  settle(fs);
  CHECK(fs->orphan_count() == 0);
  REQUIRE_OK(fs->allocator().reclaim());
  CHECK(TestFs::ok(fs->statfs()).f_bfree == free_before);
}

TEST_CASE("fs: in the background an orphan goes when its last user does") {
  TestOptions o;
  o.background = true;
  TestFs fs(o);
  std::vector<InodeRef> held;
  for (int i = 0; i < 200; ++i) {
    held.push_back(fs.make(*fs.root(), "f" + std::to_string(i)));
    store(fs, held.back(), 0, "text");
    REQUIRE_OK(fs->unlink(*fs.root(), "f" + std::to_string(i)));
  }
  fs.executor().drain();
  CHECK(fs->orphan_count() == 200);
  held.clear();
  settle(fs);
  CHECK(fs->orphan_count() == 0);
  CHECK(TestFs::ok(fs->statfs()).f_files - TestFs::ok(fs->statfs()).f_ffree == 1);
}

TEST_CASE("fs: removed files without blocks gather, and the first one with blocks, or the end of the mount, frees all of them together") {
  TestOptions o;
  o.background = true;
  TestFs fs(o);
  const auto patient = [](MountOptions& options) { options.clean_up_delay = std::chrono::hours(1); };
  fs.drop();
  fs.mount(patient);
  std::atomic<unsigned> transactions{0};
  steps::arm("orphan.freed", [&] { ++transactions; });
  const auto remove_empty = [&](int count) {
    for (int i = 0; i < count; ++i) fs.make(*fs.root(), "f" + std::to_string(i));
    for (int i = 0; i < count; ++i) REQUIRE_OK(fs->unlink(*fs.root(), "f" + std::to_string(i)));
    fs.executor().drain();
  };
  remove_empty(40);
  CHECK(fs->orphan_count() == 40);
  store(fs, fs.make(*fs.root(), "full"), 0, "text");
  REQUIRE_OK(fs->unlink(*fs.root(), "full"));
  settle(fs);
  CHECK(fs->orphan_count() == 0);
  CHECK(transactions.load() <= 3);
  CHECK(TestFs::ok(fs->statfs()).f_files - TestFs::ok(fs->statfs()).f_ffree == 1);

  remove_empty(10);
  CHECK(fs->orphan_count() == 10);
  REQUIRE_OK(fs->unmount());
  steps::disarm_all();
  fs.remount();
  CHECK(fs->orphan_count() == 0);
}

TEST_CASE("fs: a long file among removed ones is freed by itself, and those around it together") {
  TestOptions o;
  o.background = true;
  TestFs fs(o);
  std::vector<InodeRef> held;
  for (int i = 0; i < 20; ++i) {
    held.push_back(fs.make(*fs.root(), "f" + std::to_string(i)));
    for (u64 piece = 0; i % 7 == 3 && piece < 300; ++piece) store(fs, held.back(), piece * 3 * kBlockSize, "piece");
    REQUIRE_OK(fs->unlink(*fs.root(), "f" + std::to_string(i)));
  }
  CHECK(fs->orphan_count() == 20);
  held.clear();
  settle(fs);
  CHECK(fs->orphan_count() == 0);
  CHECK(TestFs::ok(fs->statfs()).f_files - TestFs::ok(fs->statfs()).f_ffree == 1);
}

TEST_CASE("fs: numbers of freed inodes return with another generation") {
  TestOptions o;
  o.background = true;
  TestFs fs(o);
  std::map<u64, u32> seen;
  bool reused = false;
  for (int i = 0; i < 300; ++i) {
    const auto f = fs.make(*fs.root(), "f");
    const auto [it, fresh] = seen.emplace(f->ino.value, f->generation);
    if (!fresh) {
      reused = true;
      CHECK(it->second != f->generation);
      REQUIRE_ERROR(fs->get(f->ino, it->second), kStale);
      it->second = f->generation;
    }
    CHECK(fs.at("f") == f);
    REQUIRE_OK(fs->unlink(*fs.root(), "f"));
    if (i % 3 == 0) fs.executor().drain();
  }
  CHECK(reused);
}

TEST_CASE("fs: an unnamed file is an orphan until it gets a name") {
  TestFs fs;
  const Caller c = root_caller();
  {
    FileSystem::NewInode what;
    what.mode = S_IFREG | 0600;
    const auto root = fs.root();
    const auto f = TestFs::ok(fs->create_unnamed(*root, what, c));
    CHECK(fs->orphan_count() == 1);
    CHECK(fs->paths(f->ino, 1).empty());
    REQUIRE_OK(fs->link(*f, *root, "named"));
    CHECK(fs->orphan_count() == 0);
    CHECK(fs.stat(*f).links == 1);
    const auto lost = TestFs::ok(fs->create_unnamed(*root, what, c));
    CHECK(fs->orphan_count() == 1);
    what.mode = S_IFDIR | 0700;
    REQUIRE_ERROR(fs->create_unnamed(*root, what, c), kInvalid);
  }
  fs.remount();
  REQUIRE_OK(fs->clean_orphans());
  CHECK(fs->orphan_count() == 0);
  CHECK(fs.list(*fs.root()) == std::vector<std::string>{"named"});
}

TEST_CASE("fs: two threads create and unlink in one directory") {
  TestOptions o;
  o.background = true;
  TestFs fs(o);
  const auto d = fs.make(*fs.root(), "d", S_IFDIR | 0755);
  const auto work = [&](const std::string& prefix) {
    for (int i = 0; i < 400; ++i) {
      const std::string name = prefix + std::to_string(i % 7);
      FileSystem::NewInode what;
      what.mode = S_IFREG | 0600;
      static_cast<void>(fs->create(*d, name, what, root_caller()).ok());
      static_cast<void>(fs->rename(*d, name, *d, "same", 0, root_caller()).ok());
      static_cast<void>(fs->unlink(*d, "same").ok());
    }
  };
  std::thread one(work, "a"), two(work, "b");
  one.join(), two.join();
  settle(fs);
  CHECK(fs->orphan_count() == 0);
  CHECK(fs.list(*d).size() <= 1);
}

}  // namespace
}  // namespace pindax
