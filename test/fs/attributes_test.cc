// SPDX-License-Identifier: BSD-3-Clause
#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

SetAttributes mode(u32 m) {
  SetAttributes s;
  s.valid = SetAttributes::kMode;
  s.mode = m;
  return s;
}

TEST_CASE("fs: times of every age come back") {
  TestFs fs;
  auto f = fs.make(*fs.root(), "f");
  SetAttributes set;
  set.valid = SetAttributes::kAtime | SetAttributes::kMtime;
  set.atime = {-6'000'000'000, 999'999'999};  // 1779
  set.mtime = {200'000'000'000, 1};           // 8307
  REQUIRE_OK(fs->set_attributes(*f, set, root_caller()));
  f.reset();
  fs.remount();
  const Attributes a = fs.stat("f");
  CHECK(a.atime == FileTime{-6'000'000'000, 999'999'999});
  CHECK(a.mtime == FileTime{200'000'000'000, 1});
  CHECK(a.ctime.seconds > 1'600'000'000);
  CHECK(a.crtime.seconds > 1'600'000'000);
  set.mtime.nanoseconds = 1'000'000'000;
  REQUIRE_ERROR(fs->set_attributes(*fs.at("f"), set, root_caller()), kInvalid);
}

TEST_CASE("fs: chown by an ordinary user takes the set-id bits away") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f", S_IFREG | 0755);
  REQUIRE_OK(fs->set_attributes(*f, mode(06755), root_caller()));
  SetAttributes own;
  own.valid = SetAttributes::kGid;
  own.gid = 9;
  REQUIRE_OK(fs->set_attributes(*f, own, root_caller()));
  CHECK(fs.stat(*f).mode == (S_IFREG | 06755));
  REQUIRE_OK(fs->set_attributes(*f, own, user_caller(1, 9)));
  CHECK(fs.stat(*f).mode == (S_IFREG | 0755));
  CHECK(fs.stat(*f).gid == 9);
  // Without group execution the set-gid bit means something else.
  REQUIRE_OK(fs->set_attributes(*f, mode(02745), root_caller()));
  REQUIRE_OK(fs->set_attributes(*f, own, user_caller(1, 9)));
  CHECK(fs.stat(*f).mode == (S_IFREG | 02745));
  SetAttributes kill = mode(0);
  kill.valid = SetAttributes::kKillSuidgid;
  REQUIRE_OK(fs->set_attributes(*f, mode(06755), root_caller()));
  REQUIRE_OK(fs->set_attributes(*f, kill, root_caller()));
  CHECK(fs.stat(*f).mode == (S_IFREG | 0755));
}

TEST_CASE("fs: chmod by a stranger to the group cannot set set-gid") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f");
  SetAttributes own;
  own.valid = SetAttributes::kGid;
  own.gid = 9;
  REQUIRE_OK(fs->set_attributes(*f, own, root_caller()));
  REQUIRE_OK(fs->set_attributes(*f, mode(02755), user_caller(1, 8)));
  CHECK(fs.stat(*f).mode == (S_IFREG | 0755));
  REQUIRE_OK(fs->set_attributes(*f, mode(02755), user_caller(1, 9)));
  CHECK(fs.stat(*f).mode == (S_IFREG | 02755));
  Caller supplementary = user_caller(1, 8);
  supplementary.groups = {5, 9};
  REQUIRE_OK(fs->set_attributes(*f, mode(02711), supplementary));
  CHECK(fs.stat(*f).mode == (S_IFREG | 02711));
}

TEST_CASE("fs: access times follow relatime and are written at sync") {
  TestFs fs;
  {
    const auto l = fs.make(*fs.root(), "l", S_IFLNK | 0777, "target");
    SetAttributes old;
    old.valid = SetAttributes::kAtime | SetAttributes::kMtime;
    old.atime = {1000, 0};
    old.mtime = {2000, 0};
    REQUIRE_OK(fs->set_attributes(*l, old, root_caller()));
    REQUIRE_OK(fs->read_link(*l));
    const FileTime first = fs.stat(*l).atime;
    CHECK(first.seconds > 2000);
    REQUIRE_OK(fs->read_link(*l));
    CHECK(fs.stat(*l).atime == first);
    REQUIRE_OK(fs->sync_all());
  }
  fs.remount();
  CHECK(fs.stat("l").atime.seconds > 2000);
  CHECK(fs.stat("l").mtime.seconds == 2000);
}

TEST_CASE("fs: lazy times are lost with the daemon and never go backwards before") {
  TestFs fs;
  FileTime noted;
  {
    const auto f = fs.make(*fs.root(), "f");
    const Attributes before = fs.stat(*f);
    fs->note_modified(*f);
    const Attributes after = fs.stat(*f);
    CHECK(after.mtime > before.mtime);
    CHECK(after.version > before.version);
    noted = after.mtime;
    REQUIRE_OK(fs->set_attributes(*f, mode(0600), root_caller()));  // takes them along
    CHECK(fs.stat(*f).mtime == noted);
  }
  fs.remount();
  CHECK(fs.stat("f").mtime == noted);
}

TEST_CASE("fs: statfs tells the truth about blocks and inodes") {
  TestFs fs;
  const auto before = TestFs::ok(fs->statfs());
  CHECK(before.f_bsize == kBlockSize);
  CHECK(before.f_namemax == 255);
  CHECK(before.f_files - before.f_ffree == 1);
  for (int i = 0; i < 100; ++i) fs.make(*fs.root(), "f" + std::to_string(i));
  const auto after = TestFs::ok(fs->statfs());
  CHECK(after.f_files - after.f_ffree == 101);
  CHECK(after.f_bfree < before.f_bfree);
  CHECK(after.f_blocks == before.f_blocks);
  for (int i = 0; i < 100; ++i) REQUIRE_OK(fs->unlink(*fs.root(), "f" + std::to_string(i)));
  REQUIRE_OK(fs->clean_orphans());
  CHECK(TestFs::ok(fs->statfs()).f_ffree == TestFs::ok(fs->statfs()).f_files - 1);
}

TEST_CASE("fs: access follows mode, owner and groups") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f", S_IFREG | 0640);
  SetAttributes own;
  own.valid = SetAttributes::kUid | SetAttributes::kGid;
  own.uid = 10;
  own.gid = 20;
  REQUIRE_OK(fs->set_attributes(*f, own, root_caller()));
  REQUIRE_OK(fs->access(*f, 6, user_caller(10, 1)));
  REQUIRE_OK(fs->access(*f, 4, user_caller(11, 20)));
  REQUIRE_ERROR(fs->access(*f, 2, user_caller(11, 20)), kAccess);
  REQUIRE_ERROR(fs->access(*f, 4, user_caller(11, 21)), kAccess);
  REQUIRE_OK(fs->access(*f, 6, root_caller()));
  REQUIRE_ERROR(fs->access(*f, 1, root_caller()), kAccess);
}

}  // namespace
}  // namespace pindax
