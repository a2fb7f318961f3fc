// SPDX-License-Identifier: BSD-3-Clause
#include <sys/sysmacros.h>

#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

FileSystem::NewInode file(u32 mode = S_IFREG | 0644) {
  FileSystem::NewInode n;
  n.mode = mode;
  return n;
}

TEST_CASE("fs: an empty file system has a root directory and nothing in it") {
  TestFs fs;
  const auto root = fs.root();
  const Attributes a = fs.stat(*root);
  CHECK(a.mode == (S_IFDIR | 0755));
  CHECK(a.links == 2);
  CHECK(fs.list(*root).empty());
  CHECK(TestFs::ok(fs->lookup(*root, "..")) == root);
  CHECK(TestFs::ok(fs->lookup(*root, ".")) == root);
  CHECK(fs->paths(root->ino, 1) == std::vector<std::string>{"/"});
}

TEST_CASE("fs: what was created is found, also after the daemon was killed") {
  TestFs fs;
  InodeNo ino;
  u32 generation = 0;
  {
    const auto root = fs.root();
    const auto dir = fs.make(*root, "d", S_IFDIR | 0750);
    const auto f = fs.make(*dir, "file", S_IFREG | 0640);
    ino = f->ino;
    generation = f->generation;
    CHECK(fs.at("/d/file") == f);
    CHECK(fs.stat(*root).links == 3);
    CHECK(fs.stat(*f).links == 1);
  }
  fs.remount();
  CHECK(fs.at("d/file")->ino == ino);
  CHECK(fs.at("d/file")->generation == generation);
  CHECK(fs.stat("/d").mode == (S_IFDIR | 0750));
  CHECK(TestFs::ok(fs->get(ino, generation)) == fs.at("/d/file"));
  REQUIRE_ERROR(fs->get(ino, generation + 1), kStale);
  REQUIRE_ERROR(fs->get(InodeNo(12345678), 0), kStale);
  REQUIRE_ERROR(fs->get(InodeNo(0), 0), kStale);
  CHECK(fs->paths(ino, 4) == std::vector<std::string>{"/d/file"});
}

TEST_CASE("fs: names that cannot be are refused") {
  TestFs fs;
  const auto root = fs.root();
  const Caller c = root_caller();
  const std::string longest(255, 'n'), too_long(256, 'n');
  fs.make(*root, longest);
  CHECK(fs.at(longest)->ino.value != 0);
  REQUIRE_ERROR(fs->create(*root, too_long, file(), c), kNameTooLong);
  REQUIRE_ERROR(fs->lookup(*root, too_long), kNameTooLong);
  REQUIRE_ERROR(fs->create(*root, "", file(), c), kNotFound);
  REQUIRE_ERROR(fs->create(*root, "a/b", file(), c), kInvalid);
  REQUIRE_ERROR(fs->create(*root, ".", file(), c), kExists);
  REQUIRE_ERROR(fs->create(*root, longest, file(), c), kExists);
  REQUIRE_ERROR(fs->create(*fs.at(longest), "x", file(), c), kNotDirectory);
  REQUIRE_ERROR(fs->lookup(*fs.at(longest), "x"), kNotDirectory);
  REQUIRE_ERROR(fs->create(*root, "odd", file(0170000), c), kInvalid);
  REQUIRE_ERROR(fs->lookup(*root, "nobody"), kNotFound);
  REQUIRE_ERROR(fs->unlink(*root, "nobody"), kNotFound);
}

TEST_CASE("fs: symbolic links of every length keep their target") {
  TestFs fs;
  auto root = fs.root();
  for (const std::size_t n : {1u, 191u, 192u, 193u, 4064u, 4065u, 4095u}) {
    const std::string name = "l" + std::to_string(n);
    std::string target(n, 'x');
    target.back() = 'y';
    const auto l = fs.make(*root, name, S_IFLNK | 0777, target);
    CHECK(TestFs::ok(fs->read_link(*l)) == target);
    CHECK(fs.stat(*l).size_bytes == n);
    CHECK((fs.stat(*l).mode & 07777) == 0777);
  }
  FileSystem::NewInode what = file(S_IFLNK | 0777);
  REQUIRE_ERROR(fs->create(*root, "empty", what, root_caller()), kNotFound);
  const std::string huge(4096, 'x');
  what.symlink_target = huge;
  REQUIRE_ERROR(fs->create(*root, "huge", what, root_caller()), kNameTooLong);
  REQUIRE_ERROR(fs->read_link(*root), kInvalid);
  root.reset();
  fs.remount();
  CHECK(TestFs::ok(fs->read_link(*fs.at("l4095"))).size() == 4095);
}

TEST_CASE("fs: device numbers, fifos and sockets are kept") {
  TestFs fs;
  auto root = fs.root();
  FileSystem::NewInode what = file(S_IFBLK | 0600);
  what.rdev = makedev(259, 65537);
  REQUIRE_OK(fs->create(*root, "b", what, root_caller()));
  what.mode = S_IFIFO | 0600;
  REQUIRE_OK(fs->create(*root, "f", what, root_caller()));
  what.mode = S_IFSOCK | 0600;
  REQUIRE_OK(fs->create(*root, "s", what, root_caller()));
  root.reset();
  fs.remount();
  CHECK(fs.stat("b").rdev == makedev(259, 65537));
  CHECK(fs.stat("f").rdev == 0);
  CHECK(S_ISSOCK(fs.stat("s").mode));
}

TEST_CASE("fs: a hard link is one file with several paths") {
  TestFs fs;
  const auto root = fs.root();
  const auto d = fs.make(*root, "d", S_IFDIR | 0755);
  const auto f = fs.make(*root, "a");
  REQUIRE_OK(fs->link(*f, *d, "b"));
  REQUIRE_OK(fs->link(*f, *root, "c"));
  REQUIRE_ERROR(fs->link(*f, *root, "c"), kExists);
  REQUIRE_ERROR(fs->link(*d, *root, "dd"), kPermission);
  CHECK(fs.stat(*f).links == 3);
  auto paths = fs->paths(f->ino, 10);
  std::sort(paths.begin(), paths.end());
  CHECK(paths == std::vector<std::string>{"/a", "/c", "/d/b"});
  CHECK(fs->paths(f->ino, 2).size() == 2);
  REQUIRE_OK(fs->unlink(*root, "a"));
  paths = fs->paths(f->ino, 10);
  std::sort(paths.begin(), paths.end());
  CHECK(paths == std::vector<std::string>{"/c", "/d/b"});
  REQUIRE_OK(fs->unlink(*d, "b"));
  REQUIRE_OK(fs->unlink(*root, "c"));
  CHECK(fs->paths(f->ino, 10).empty());
  CHECK(fs.stat(*f).links == 0);
}

TEST_CASE("fs: links end at 65000") {
  TestFs fs;
  const auto root = fs.root();
  const auto f = fs.make(*root, "f");
  {
    WriteLock lock(f->mutex);
    Transaction tx(fs->store());
    (*TestFs::ok(fs->change_slot(tx, *f))).links = format::kMaxLinks - 2;
    REQUIRE_OK(tx.commit());
  }
  REQUIRE_OK(fs->link(*f, *root, "a"));
  REQUIRE_OK(fs->link(*f, *root, "b"));
  REQUIRE_ERROR(fs->link(*f, *root, "c"), kTooManyLinks);
  CHECK(fs.stat(*f).links == 65000);
}

TEST_CASE("fs: thousands of links of one file come and go") {
  TestFs fs;
  const auto root = fs.root();
  const auto f = fs.make(*root, "f");
  constexpr int kLinks = 3000;
  for (int i = 0; i < kLinks; ++i) REQUIRE_OK(fs->link(*f, *root, "link" + std::to_string(i)));
  CHECK(fs->paths(f->ino, 5000).size() == kLinks + 1);
  CHECK(fs.stat(*f).blocks_512 > 0);
  for (int i = 0; i < kLinks; ++i) REQUIRE_OK(fs->unlink(*root, "link" + std::to_string(i)));
  CHECK(fs->paths(f->ino, 10) == std::vector<std::string>{"/f"});
  CHECK(fs.stat(*f).blocks_512 == 0);
}

TEST_CASE("fs: directories go only when they are empty") {
  TestFs fs;
  const auto root = fs.root();
  const auto d = fs.make(*root, "d", S_IFDIR | 0755);
  fs.make(*d, "f");
  REQUIRE_ERROR(fs->rmdir(*root, "d"), kNotEmpty);
  REQUIRE_ERROR(fs->unlink(*root, "d"), kIsDirectory);
  REQUIRE_ERROR(fs->rmdir(*d, "f"), kNotDirectory);
  REQUIRE_ERROR(fs->rmdir(*d, "."), kInvalid);
  REQUIRE_ERROR(fs->rmdir(*d, ".."), kNotEmpty);
  REQUIRE_OK(fs->unlink(*d, "f"));
  REQUIRE_OK(fs->rmdir(*root, "d"));
  CHECK(fs.stat(*root).links == 2);
  CHECK(fs.stat(*d).links == 0);
  REQUIRE_ERROR(fs->create(*d, "late", file(), root_caller()), kNotFound);
  CHECK(fs.list(*d).empty());
}

TEST_CASE("fs: each change of a directory moves its times and its version") {
  TestFs fs;
  const auto root = fs.root();
  const Attributes before = fs.stat(*root);
  fs.make(*root, "f");
  const Attributes after = fs.stat(*root);
  CHECK(after.version > before.version);
  CHECK(after.mtime > before.mtime);
  CHECK(after.ctime == after.mtime);
  REQUIRE_OK(fs->unlink(*root, "f"));
  CHECK(fs.stat(*root).version > after.version);
}

TEST_CASE("fs: umask and set-gid directories shape what is created") {
  TestFs fs;
  const auto root = fs.root();
  const auto d = fs.make(*root, "d", S_IFDIR | 0777);
  SetAttributes set;
  set.valid = SetAttributes::kGid | SetAttributes::kMode;
  set.gid = 50;
  set.mode = 02777;
  REQUIRE_OK(fs->set_attributes(*d, set, root_caller()));
  const auto f = TestFs::ok(fs->create(*d, "f", file(S_IFREG | 0666), user_caller(7, 8)));
  CHECK(fs.stat(*f).uid == 7);
  CHECK(fs.stat(*f).gid == 50);
  CHECK(fs.stat(*f).mode == (S_IFREG | 0644));
  const auto sub = TestFs::ok(fs->create(*d, "sub", file(S_IFDIR | 0777), user_caller(7, 8, 027)));
  CHECK(fs.stat(*sub).gid == 50);
  CHECK(fs.stat(*sub).mode == (S_IFDIR | 02750));
  // A stranger's set-gid program would run as the directory's group.
  const auto x = TestFs::ok(fs->create(*d, "x", file(S_IFREG | 02775), user_caller(7, 8)));
  CHECK((fs.stat(*x).mode & S_ISGID) == 0);
  const auto plain = TestFs::ok(fs->create(*root, "p", file(S_IFREG | 0666), user_caller(7, 8)));
  CHECK(fs.stat(*plain).gid == 8);
}

TEST_CASE("fs: immutable and append-only flags hold") {
  TestFs fs;
  const auto root = fs.root();
  const Caller c = root_caller();
  const auto d = fs.make(*root, "d", S_IFDIR | 0755);
  const auto f = fs.make(*d, "f");
  REQUIRE_ERROR(fs->set_flags(*f, 1u << 30), kNotSupported);
  REQUIRE_OK(fs->set_flags(*f, format::kFlagImmutable));
  CHECK(TestFs::ok(fs->flags(*f)) == format::kFlagImmutable);
  REQUIRE_ERROR(fs->unlink(*d, "f"), kPermission);
  REQUIRE_ERROR(fs->link(*f, *d, "g"), kPermission);
  REQUIRE_ERROR(fs->rename(*d, "f", *d, "g", 0, c), kPermission);
  SetAttributes set;
  set.valid = SetAttributes::kMode;
  REQUIRE_ERROR(fs->set_attributes(*f, set, c), kPermission);
  REQUIRE_ERROR(fs->set_xattr(*f, "user.a", "b", 0, c), kPermission);
  REQUIRE_OK(fs->set_flags(*f, 0));
  REQUIRE_OK(fs->set_flags(*d, format::kFlagAppend));
  fs.make(*d, "more");
  REQUIRE_ERROR(fs->unlink(*d, "f"), kPermission);
  REQUIRE_OK(fs->set_flags(*d, format::kFlagImmutable));
  REQUIRE_ERROR(fs->create(*d, "even_more", file(), c), kPermission);
  REQUIRE_OK(fs->set_flags(*d, 0));
  REQUIRE_OK(fs->unlink(*d, "f"));
}

TEST_CASE("fs: a read-only mount changes nothing") {
  TestFs fs;
  fs.make(*fs.root(), "f");
  fs.drop();
  fs.mount([](MountOptions& o) { o.read_only = true; });
  CHECK(fs.list(*fs.root()) == std::vector<std::string>{"f"});
  REQUIRE_ERROR(fs->create(*fs.root(), "g", file(), root_caller()), kReadOnly);
  REQUIRE_ERROR(fs->unlink(*fs.root(), "f"), kReadOnly);
  REQUIRE_OK(fs->unmount());
}

TEST_CASE("fs: nothing stays in memory that nobody refers to") {
  TestFs fs;
  for (int i = 0; i < 500; ++i) fs.make(*fs.root(), "f" + std::to_string(i));
  CHECK(fs->cached_inodes() == 0);
  std::vector<InodeRef> held;
  for (int i = 0; i < 500; ++i) held.push_back(fs.at("f" + std::to_string(i)));
  CHECK(fs->cached_inodes() == 500);
  CHECK(sizeof(Inode) <= 192);
}

}  // namespace
}  // namespace pindax
