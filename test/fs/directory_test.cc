// SPDX-License-Identifier: BSD-3-Clause
#include <set>

#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

struct Seen {
  std::string name;
  u64 cookie;
};
std::vector<Seen> read(TestFs& fs, Inode& dir, u64 cookie, std::size_t most) {
  std::vector<Seen> out;
  REQUIRE_OK(fs->read_directory(dir, cookie, [&](const FileSystem::DirectoryEntry& e) {
    out.push_back({std::string(e.name), e.cookie});
    return out.size() < most;
  }));
  return out;
}

void fill_and_empty(int count, u64 pool_bytes) {
  TestOptions o;
  o.pool_bytes = pool_bytes;
  TestFs fs(o);
  {
    const auto d = fs.make(*fs.root(), "d", S_IFDIR | 0755);
    for (int i = 0; i < count; ++i) fs.make(*d, "entry-" + std::to_string(i));
  }
  fs.remount();
  const auto d = fs.at("d");
  std::size_t seen = 0;
  for (u64 cookie = 0;;) {
    const auto batch = read(fs, *d, cookie, 100);
    seen += batch.size();
    if (batch.size() < 100) break;
    cookie = batch.back().cookie;
  }
  CHECK(seen == static_cast<std::size_t>(count) + 2);
  for (int i = 0; i < count; i += 97) CHECK(fs->lookup(*d, "entry-" + std::to_string(i)).ok());
  for (int i = 0; i < count; ++i) REQUIRE(fs->unlink(*d, "entry-" + std::to_string(i)).ok());
  CHECK(fs.list(*d).empty());
  CHECK(fs.stat(*d).blocks_512 == 0);
  REQUIRE_OK(fs->clean_orphans());
  CHECK(fs->orphan_count() == 0);
}

TEST_CASE("fs: a directory of 20000 entries is filled, read and emptied") { fill_and_empty(20'000, 128u << 20); }
TEST_CASE("fs: a directory of a million entries is filled, read and emptied", "[.slow]") {
  fill_and_empty(1'000'000, u64{2} << 30);
}

TEST_CASE("fs: readdir shows what stays exactly once, whatever comes and goes meanwhile") {
  TestFs fs;
  const auto d = fs.make(*fs.root(), "d", S_IFDIR | 0755);
  constexpr int kStays = 500;
  for (int i = 0; i < kStays; ++i) {
    fs.make(*d, "stays" + std::to_string(i));
    fs.make(*d, "goes" + std::to_string(i));
  }
  std::multiset<std::string> seen;
  int round = 0;
  for (u64 cookie = 0;; ++round) {
    const auto batch = read(fs, *d, cookie, 10);
    for (const Seen& s : batch) seen.insert(s.name);
    if (batch.size() < 10) break;
    cookie = batch.back().cookie;
    if (round < kStays) {
      static_cast<void>(fs->unlink(*d, "goes" + std::to_string(round)).ok());
      fs.make(*d, "comes" + std::to_string(round));
    }
  }
  for (int i = 0; i < kStays; ++i) CHECK(seen.count("stays" + std::to_string(i)) == 1);
  for (const auto& name : seen) CHECK(seen.count(name) == 1);
  CHECK(seen.count(".") == 1);
  CHECK(seen.count("..") == 1);
}

TEST_CASE("fs: a cookie is good after its entry is gone, and after a remount") {
  TestFs fs;
  u64 cookie = 0;
  std::vector<Seen> rest;
  {
    const auto d = fs.make(*fs.root(), "d", S_IFDIR | 0755);
    for (int i = 0; i < 50; ++i) fs.make(*d, "n" + std::to_string(i));
    const auto first = read(fs, *d, 0, 20);
    cookie = first.back().cookie;
    rest = read(fs, *d, cookie, 1000);
    REQUIRE_OK(fs->unlink(*d, first.back().name));
  }
  fs.remount();
  const auto again = read(fs, *fs.at("d"), cookie, 1000);
  REQUIRE(again.size() == rest.size());
  for (std::size_t i = 0; i < rest.size(); ++i) CHECK(again[i].name == rest[i].name);
  CHECK(read(fs, *fs.at("d"), kMaxOffset, 10).empty());
}

TEST_CASE("fs: entries carry type and number") {
  TestFs fs;
  const auto root = fs.root();
  const auto d = fs.make(*root, "d", S_IFDIR | 0755);
  const auto l = fs.make(*root, "l", S_IFLNK | 0777, "target");
  int found = 0;
  REQUIRE_OK(fs->read_directory(*root, 0, [&](const FileSystem::DirectoryEntry& e) {
    if (e.name == "d") found += e.ino == d->ino && e.type == 4;
    if (e.name == "l") found += e.ino == l->ino && e.type == 10;
    if (e.name == ".") found += e.ino == root->ino && e.type == 4;
    return true;
  }));
  CHECK(found == 3);
  REQUIRE_ERROR(fs->read_directory(*l, 0, [](const auto&) { return true; }), kNotDirectory);
}

}  // namespace
}  // namespace pindax
