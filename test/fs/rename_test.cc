// SPDX-License-Identifier: BSD-3-Clause
#include <stdio.h>

#include <thread>

#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

struct Tree {
  TestFs fs;
  InodeRef root, a, b;
  Tree() : root(fs.root()), a(fs.make(*root, "a", S_IFDIR | 0755)), b(fs.make(*root, "b", S_IFDIR | 0755)) {}
  Status move(Inode& from, std::string_view name, Inode& to, std::string_view new_name, unsigned flags = 0) {
    return fs->rename(from, name, to, new_name, flags, root_caller());
  }
};

TEST_CASE("fs: a renamed file keeps its identity and gets its path") {
  Tree t;
  const auto f = t.fs.make(*t.a, "f");
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "g"));
  CHECK(t.fs.at("b/g") == f);
  REQUIRE_ERROR(t.fs->resolve("a/f"), kNotFound);
  CHECK(t.fs->paths(f->ino, 2) == std::vector<std::string>{"/b/g"});
  REQUIRE_OK(t.move(*t.b, "g", *t.b, "h"));
  CHECK(t.fs->paths(f->ino, 2) == std::vector<std::string>{"/b/h"});
  CHECK(t.fs.stat(*f).links == 1);
}

TEST_CASE("fs: a renamed directory takes its count of subdirectories along") {
  Tree t;
  const auto d = t.fs.make(*t.a, "d", S_IFDIR | 0755);
  t.fs.make(*d, "inside");
  CHECK(t.fs.stat(*t.a).links == 3);
  REQUIRE_OK(t.move(*t.a, "d", *t.b, "e"));
  CHECK(t.fs.stat(*t.a).links == 2);
  CHECK(t.fs.stat(*t.b).links == 3);
  CHECK(TestFs::ok(t.fs->lookup(*d, "..")) == t.b);
  CHECK(t.fs->paths(t.fs.at("b/e/inside")->ino, 1) == std::vector<std::string>{"/b/e/inside"});
}

TEST_CASE("fs: what may replace what") {
  Tree t;
  const auto d = t.fs.make(*t.a, "d", S_IFDIR | 0755);
  const auto full = t.fs.make(*t.b, "full", S_IFDIR | 0755);
  t.fs.make(*full, "x");
  const auto empty = t.fs.make(*t.b, "empty", S_IFDIR | 0755);
  const auto f = t.fs.make(*t.a, "f");
  const auto g = t.fs.make(*t.b, "g");
  REQUIRE_ERROR(t.move(*t.a, "d", *t.b, "g"), kNotDirectory);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "empty"), kIsDirectory);
  REQUIRE_ERROR(t.move(*t.a, "d", *t.b, "full"), kNotEmpty);
  REQUIRE_ERROR(t.move(*t.a, "none", *t.b, "g"), kNotFound);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "g", RENAME_NOREPLACE), kExists);
  REQUIRE_ERROR(t.move(*t.a, ".", *t.b, "g"), kBusy);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, ".."), kBusy);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "g", RENAME_NOREPLACE | RENAME_EXCHANGE), kInvalid);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "g", 1u << 20), kInvalid);
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "g"));
  CHECK(t.fs.stat(*g).links == 0);
  CHECK(t.fs.at("b/g") == f);
  REQUIRE_OK(t.move(*t.a, "d", *t.b, "empty"));
  CHECK(t.fs.stat(*empty).links == 0);
  CHECK(t.fs.at("b/empty") == d);
  CHECK(t.fs.stat(*t.b).links == 4);
  CHECK(t.fs->orphan_count() == 2);
}

TEST_CASE("fs: a rename onto another name of the same file does nothing") {
  Tree t;
  const auto f = t.fs.make(*t.a, "f");
  REQUIRE_OK(t.fs->link(*f, *t.b, "g"));
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "g"));
  CHECK(t.fs.stat(*f).links == 2);
  CHECK(t.fs.at("a/f") == f);
  REQUIRE_OK(t.move(*t.a, "f", *t.a, "f"));
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "g", RENAME_EXCHANGE));
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "g", RENAME_NOREPLACE), kExists);
}

TEST_CASE("fs: no directory becomes its own ancestor") {
  Tree t;
  const auto c = t.fs.make(*t.a, "c", S_IFDIR | 0755);
  const auto d = t.fs.make(*c, "d", S_IFDIR | 0755);
  REQUIRE_ERROR(t.move(*t.root, "a", *t.a, "x"), kInvalid);
  REQUIRE_ERROR(t.move(*t.root, "a", *c, "x"), kInvalid);
  REQUIRE_ERROR(t.move(*t.root, "a", *d, "x"), kInvalid);
  REQUIRE_ERROR(t.move(*c, "d", *t.root, "a"), kNotEmpty);
  REQUIRE_ERROR(t.move(*c, "d", *t.root, "a", RENAME_EXCHANGE), kInvalid);
  REQUIRE_ERROR(t.move(*t.root, "a", *c, "d", RENAME_EXCHANGE), kInvalid);
  REQUIRE_OK(t.move(*t.a, "c", *t.b, "c"));
  REQUIRE_OK(t.move(*t.root, "a", *d, "a"));
  CHECK(t.fs->paths(t.a->ino, 1) == std::vector<std::string>{"/b/c/d/a"});
}

TEST_CASE("fs: an exchange swaps names, also of different types") {
  Tree t;
  const auto f = t.fs.make(*t.a, "f");
  const auto d = t.fs.make(*t.b, "d", S_IFDIR | 0755);
  REQUIRE_ERROR(t.move(*t.a, "f", *t.b, "none", RENAME_EXCHANGE), kNotFound);
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "d", RENAME_EXCHANGE));
  CHECK(t.fs.at("a/f") == d);
  CHECK(t.fs.at("b/d") == f);
  CHECK(t.fs.stat(*t.a).links == 3);
  CHECK(t.fs.stat(*t.b).links == 2);
  CHECK(t.fs->paths(d->ino, 1) == std::vector<std::string>{"/a/f"});
  CHECK(t.fs->paths(f->ino, 1) == std::vector<std::string>{"/b/d"});
  CHECK(TestFs::ok(t.fs->lookup(*d, "..")) == t.a);
  const auto g = t.fs.make(*t.a, "g");
  REQUIRE_OK(t.move(*t.a, "f", *t.a, "g", RENAME_EXCHANGE));
  CHECK(t.fs.at("a/g") == d);
  CHECK(t.fs.at("a/f") == g);
  CHECK(t.fs.stat(*t.a).links == 3);
}

TEST_CASE("fs: a whiteout takes the place of what was moved away") {
  Tree t;
  const auto f = t.fs.make(*t.a, "f");
  REQUIRE_OK(t.move(*t.a, "f", *t.b, "g", RENAME_WHITEOUT));
  CHECK(t.fs.at("b/g") == f);
  const Attributes w = t.fs.stat("a/f");
  CHECK(S_ISCHR(w.mode));
  CHECK(w.rdev == 0);
  CHECK(t.fs.list(*t.a) == std::vector<std::string>{"f"});
  CHECK(t.fs->paths(w.ino, 1) == std::vector<std::string>{"/a/f"});
}

TEST_CASE("fs: renames survive the daemon") {
  TestFs fs;
  {
    const auto root = fs.root();
    const auto a = fs.make(*root, "a", S_IFDIR | 0755);
    const auto b = fs.make(*root, "b", S_IFDIR | 0755);
    fs.make(*a, "f");
    REQUIRE_OK(fs->rename(*a, "f", *b, "g", 0, root_caller()));
    REQUIRE_OK(fs->rename(*root, "a", *b, "a", 0, root_caller()));
  }
  fs.remount();
  CHECK(fs.list(*fs.at("b")) == std::vector<std::string>{"a", "g"});
  CHECK(fs.list(*fs.root()) == std::vector<std::string>{"b"});
  CHECK(fs.stat("b").links == 3);
}

TEST_CASE("fs: renames of directories in opposite ways never make a cycle") {
  Tree t;
  const auto x = t.fs.make(*t.a, "x", S_IFDIR | 0755);
  const auto y = t.fs.make(*t.b, "y", S_IFDIR | 0755);
  const auto shuffle = [&](InodeRef home, const char* name, InodeRef away) {
    for (int i = 0; i < 300; ++i) {
      static_cast<void>(t.move(*home, name, *away, name).ok());
      static_cast<void>(t.move(*away, name, *home, name).ok());
    }
  };
  std::thread one([&] { shuffle(t.a, "x", y); });
  std::thread two([&] { shuffle(t.b, "y", x); });
  std::thread three([&] { shuffle(t.root, "a", y); });
  one.join(), two.join(), three.join();
  for (const auto& d : {t.a, t.b, x, y}) CHECK(t.fs->paths(d->ino, 1).size() == 1);
}

}  // namespace
}  // namespace pindax
