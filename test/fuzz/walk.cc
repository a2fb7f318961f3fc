// SPDX-License-Identifier: BSD-3-Clause
//
// Using a mounted pool whose structures lie: everything is read, then changed in many places.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <set>
#include <span>

#include "fuzz/pool.h"

namespace pindax::fuzz {
namespace {

constexpr int kInodesMax = 600;
constexpr int kNamesMax = 2000;
constexpr u64 kReadBytes = 256 * 1024;

struct Walk {
  FileSystem& fs;
  std::set<u64> seen{};
  int names = 0;
};

void read_piece(FileSystem& fs, const InodeRef& inode, u64 offset) {
  bool answered = false;
  u64 sum = 0;
  fs.read(inode, offset, kReadBytes, [&](Result<const FileSystem::ReadPieces*> pieces) {
    answered = true;
    if (!pieces.ok()) return;
    u64 length = 0;
    for (const auto& p : **pieces) {
      length += p.size();
      for (u64 i = 0; i < p.size(); i += 512) sum += static_cast<u8>(p[i]) & 1;
    }
    FUZZ_REQUIRE(length <= kReadBytes, "a read is longer than asked");
  });
  executor().drain();
  FUZZ_REQUIRE(answered, "a read that nothing blocks");
  // Every page was touched: what a bad translation would have crashed on.
  FUZZ_REQUIRE(sum <= kReadBytes, "bytes add up");
}

void read_inode(Walk& w, const InodeRef& inode) {
  FileSystem& fs = w.fs;
  const auto attributes = fs.attributes(*inode);
  if (auto names = fs.list_xattrs(*inode); names.ok())
    for (const auto& name : *names) (void)fs.get_xattr(*inode, name);
  (void)fs.paths(inode->ino, 8);
  if (!attributes.ok()) return;
  if (S_ISLNK(attributes->mode)) (void)fs.read_link(*inode);
  if (!S_ISREG(attributes->mode)) return;
  read_piece(fs, inode, 0);
  if (attributes->size_bytes > kReadBytes) read_piece(fs, inode, attributes->size_bytes - kReadBytes / 2);
  (void)fs.extents(*inode, {0, std::min<u64>(attributes->size_bytes, u64{1} << 40)});
  u64 at = 0;
  for (int i = 0; i < 8; ++i) {
    const auto next = fs.seek(*inode, at, i % 2 == 0);
    if (!next.ok()) break;
    FUZZ_REQUIRE(*next >= at, "seek goes back");
    at = *next;
  }
}

void walk_directory(Walk& w, const InodeRef& dir, int depth) {
  std::vector<std::string> names;
  u64 last = 0;
  (void)w.fs.read_directory(*dir, 0, [&](const FileSystem::DirectoryEntry& e) {
    FUZZ_REQUIRE(e.cookie > last, "cookies do not grow");
    last = e.cookie;
    if (e.name != "." && e.name != "..") names.emplace_back(e.name);
    return ++w.names < kNamesMax;
  });
  for (const auto& name : names) {
    auto inode = w.fs.lookup(*dir, name);
    if (!inode.ok() || w.seen.size() > kInodesMax || !w.seen.insert((*inode)->ino.value).second) continue;
    read_inode(w, *inode);
    if (depth < 12) walk_directory(w, *inode, depth + 1);
  }
}

void write_at(FileSystem& fs, const InodeRef& file, u64 offset, std::string_view text, bool append) {
  bool answered = false;
  FileSystem::WriteRequest request;
  request.offset = offset;
  request.append = append;
  request.data = std::as_bytes(std::span(text.data(), text.size()));
  fs.write(file, request, [&](Result<u64> n) {
    answered = true;
    if (n.ok()) FUZZ_REQUIRE(*n <= text.size(), "more written than given");
  });
  executor().drain();
  FUZZ_REQUIRE(answered, "a write that nothing blocks");
}

void truncate(FileSystem& fs, const InodeRef& file, u64 size) {
  bool answered = false;
  fs.truncate(file, size, {}, [&](const Status&) { answered = true; });
  executor().drain();
  FUZZ_REQUIRE(answered, "a truncate that nothing blocks");
}

void fallocate(FileSystem& fs, const InodeRef& file, int mode, u64 offset, u64 length) {
  bool answered = false;
  fs.fallocate(file, mode, offset, length, {}, [&](const Status&) { answered = true; });
  executor().drain();
  FUZZ_REQUIRE(answered, "a fallocate that nothing blocks");
}

}  // namespace

void walk(FileSystem& fs) {
  Walk w{fs};
  auto root = fs.root();
  if (!root.ok()) return;
  w.seen.insert((*root)->ino.value);
  read_inode(w, *root);
  walk_directory(w, *root, 0);
  (void)fs.statfs();
}

void change(FileSystem& fs, Input& in) {
  static const char* const kFiles[] = {"/a/few", "/a/b/sparse", "/a/f1", "/a/f2", "/a/linked", "/a/b/late1", "/a/f3"};
  static const char* const kDirs[] = {"/a", "/a/b", "/big", "/empty", "/"};
  const u64 steps = 4 + in.below(12);
  for (u64 step = 0; step < steps; ++step) {
    const u8 what = in.byte();
    auto dir = fs.resolve(kDirs[in.below(5)]);
    auto file = fs.resolve(kFiles[in.below(7)]);
    const std::string name = "new" + std::to_string(step);
    if (file.ok()) {
      const u64 offset = u64{in.byte()} * 2048;
      switch (what % 8) {
        case 0: write_at(fs, *file, offset, std::string(5000, 'w'), false); break;
        case 1: write_at(fs, *file, 0, "appended", true); break;
        case 2: truncate(fs, *file, offset); break;
        case 3: fallocate(fs, *file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, 30000); break;
        case 4: fallocate(fs, *file, FALLOC_FL_ZERO_RANGE, offset, 30000); break;
        case 5: (void)fs.set_xattr(**file, "user.n3", std::string(offset / 16, 'v'), 0, {}); break;
        case 6: (void)fs.remove_xattr(**file, "user.large"); break;
        default: (void)fs.fsync(**file, false);
      }
    }
    if (!dir.ok()) continue;
    switch (what / 8 % 6) {
      case 0: (void)fs.create(**dir, name, {.mode = S_IFREG | 0644}, {}); break;
      case 1: (void)fs.create(**dir, name, {.mode = S_IFDIR | 0755}, {}); break;
      case 2: (void)fs.unlink(**dir, "link" + std::to_string(in.byte() % 120)); break;
      case 3: (void)fs.unlink(**dir, "entry-with-a-long-name-" + std::to_string(in.byte() % 220)); break;
      case 4:
        if (auto to = fs.resolve("/a/b"); to.ok()) (void)fs.rename(**dir, "f1", **to, "f2", 0, {});
        break;
      default:
        if (file.ok()) (void)fs.link(**file, **dir, name);
    }
    executor().drain();
  }
  (void)fs.sync_all();
}

}  // namespace pindax::fuzz
