// SPDX-License-Identifier: BSD-3-Clause
//
// A pool with a bit of everything, made by the real file system; and a picture of it to compare with after repairs.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "catch.h"
#include "format/decode.h"
#include "fs/file_system.h"
#include "fsck/fsck.h"
#include "pmem/pool_media.h"
#include "tree/tree.h"

namespace pindax::test {

struct FsckBench {
  // path -> type, links, contents, attributes
  using Picture = std::map<std::string, std::string>;

  std::unique_ptr<Media> media = make_memory_media(64u << 20);
  Executor executor{1};
  std::unique_ptr<FileSystem> fs;
  format::Superblock sb{};
  format::Geometry geometry;

  FsckBench() {
    REQUIRE(make_file_system(*media, {.label = "fsck"}).ok());
    mount();
    fill();
    unmount();
    REQUIRE(media->read(PoolOffset(0), &sb, sizeof sb).ok());
    geometry = format::geometry_of(sb);
  }
  ~FsckBench() {
    if (fs) unmount();
    executor.stop();
  }

  void mount() {
    MountOptions options;
    options.background = false;
    options.boot_id = std::string(16, 'b');
    auto mounted = FileSystem::mount(*media, executor, options);
    INFO(mounted.status().message());
    REQUIRE(mounted.ok());
    fs = std::move(*mounted);
  }
  void unmount() {
    executor.drain();
    const Status s = fs->unmount();
    INFO(s.message());
    CHECK(s.ok());
    executor.drain();
    fs.reset();
  }

  InodeRef make(const std::string& path, u32 mode, std::string_view target = {}) {
    const std::size_t slash = path.rfind('/');
    auto dir = fs->resolve(path.substr(0, slash));
    REQUIRE(dir.ok());
    auto made = fs->create(**dir, path.substr(slash + 1), {.mode = mode, .symlink_target = target}, {});
    INFO(made.status().message());
    REQUIRE(made.ok());
    return *made;
  }
  void write(InodeRef file, u64 offset, const std::string& text) {
    FileSystem::WriteRequest request;
    request.offset = offset;
    request.data = std::as_bytes(std::span(text));
    std::optional<u64> written;
    fs->write(file, request, [&](Result<u64> n) { written = n.ok() ? *n : 0; });
    executor.drain();
    REQUIRE(written == text.size());
  }

  // To the end of both.
  void clone(InodeRef from, InodeRef to, u64 offset) {
    std::optional<Status> done;
    const FileSystem::CloneRequest request{.source = from, .destination = to, .source_offset = offset, .destination_offset = offset};
    auto change = fs->clone_range(request, {}, [&](Result<u64> r) { done = r.status(); });
    executor.drain();
    REQUIRE(done.has_value());
    REQUIRE(done->ok());
  }

  void fill() {
    for (const char* d : {"/a", "/a/b", "/a/b/c", "/big", "/empty"}) make(d, S_IFDIR | 0755);
    for (int i = 0; i < 40; ++i)
      write(make("/a/f" + std::to_string(i), S_IFREG | 0644), 0, "contents " + std::to_string(i));
    for (int i = 0; i < 700; ++i) make("/big/entry-with-a-long-name-" + std::to_string(i), S_IFREG | 0600);
    // Holes keep the extents apart: a tree of several leaves.
    auto sparse = make("/a/b/sparse", S_IFREG | 0644);
    for (u64 i = 0; i < 400; ++i) write(sparse, i * 3 * kBlockSize, "block " + std::to_string(i));
    auto few = make("/a/few", S_IFREG | 0644);
    for (u64 i = 0; i < 4; ++i) write(few, i * 3 * kBlockSize, "few " + std::to_string(i));
    make("/a/short", S_IFLNK | 0777, "target");
    make("/a/long", S_IFLNK | 0777, std::string(1000, 'l'));
    make("/a/pipe", S_IFIFO | 0644);
    auto linked = make("/a/linked", S_IFREG | 0644);
    write(linked, 0, "linked");
    for (int i = 0; i < 300; ++i) {
      auto dir = fs->resolve(i % 2 == 0 ? "/a/b" : "/a/b/c");
      REQUIRE(fs->link(*linked, **dir, "link" + std::to_string(i)).ok());
    }
    for (int i = 0; i < 40; ++i)
      REQUIRE(fs->set_xattr(*few, "user.n" + std::to_string(i), std::string(300, static_cast<char>('a' + i % 26)), 0, {}).ok());
    REQUIRE(fs->set_xattr(*few, "user.large", std::string(9000, 'x'), 0, {}).ok());
    auto original = make("/a/original", S_IFREG | 0644);
    write(original, 0, std::string(20 * kBlockSize, 'o'));
    for (const char* path : {"/a/clone", "/a/b/clone"}) clone(original, make(path, S_IFREG | 0644), path[3] == 'b' ? 8 * kBlockSize : 0);
    Transaction tx(fs->store());
    auto run = fs->allocator().allocate(tx, {.wanted = 7});
    REQUIRE(run.ok());
    REQUIRE(fs->allocator().quarantine(tx, *run, format::QuarantineReason::kPinned).ok());
    REQUIRE(tx.commit().ok());
  }

  std::string contents(InodeRef inode, u64 size) {
    std::string text;
    fs->read(inode, 0, size, [&](Result<const FileSystem::ReadPieces*> pieces) {
      if (!pieces.ok()) {
        text = "unreadable";
        return;
      }
      for (const auto& p : **pieces) text.append(reinterpret_cast<const char*>(p.data()), p.size());
    });
    executor.drain();
    return text;
  }
  void add_to_picture(Picture& out, const std::string& path) {
    auto inode = fs->resolve(path);
    if (!inode.ok()) {
      out[path] = "unreadable: " + std::string(inode.status().message());
      return;
    }
    auto attributes = fs->attributes(**inode);
    if (!attributes.ok()) {
      out[path] = "unreadable: " + std::string(attributes.status().message());
      return;
    }
    std::string text = std::to_string(attributes->mode & S_IFMT) + " " + std::to_string(attributes->links) + " ";
    if (S_ISREG(attributes->mode)) {
      text += contents(*inode, std::min<u64>(attributes->size_bytes, 16u << 20));
    } else if (S_ISLNK(attributes->mode)) {
      const auto target = fs->read_link(**inode);
      text += target.ok() ? *target : "unreadable";
    }
    if (auto names = fs->list_xattrs(**inode); names.ok())
      for (const auto& n : *names) {
        auto value = fs->get_xattr(**inode, n);
        text += n + "=" + (value.ok() ? *value : "unreadable") + ";";
      }
    // Every name leads back here; once for the file that has hundreds.
    if (attributes->links < 10 || path == "/a/linked") text += std::to_string(fs->paths((*inode)->ino, 1000).size());
    out[path.empty() ? "/" : path] = text;
    if (!S_ISDIR(attributes->mode)) return;
    std::vector<std::string> names;
    const Status listed = fs->read_directory(**inode, 2, [&](const FileSystem::DirectoryEntry& e) {
      names.emplace_back(e.name);
      return true;
    });
    if (!listed.ok()) out[path] += "unreadable";
    for (const auto& n : names) add_to_picture(out, path + "/" + n);
  }
  Picture picture() {
    mount();
    Picture p;
    add_to_picture(p, "");
    unmount();
    return p;
  }

  // ---- What stands on media: unmounted and checkpointed ----
  u64 ino_of(const std::string& path) {
    mount();
    u64 ino = 0;
    {
      auto inode = fs->resolve(path);
      REQUIRE(inode.ok());
      ino = (*inode)->ino.value;
    }
    unmount();
    return ino;
  }
  format::Inode slot(u64 ino) {
    format::Inode s{};
    REQUIRE(media->read(format::inode_offset(InodeNo(ino)), &s, sizeof s).ok());
    return s;
  }
  void store_slot(format::Inode s) {
    format::seal(s);
    REQUIRE(media->write(format::inode_offset(InodeNo(s.self)), &s, sizeof s).ok());
  }
  void junk(PoolOffset at, u64 length = 8) {
    std::vector<u8> bytes(length);
    REQUIRE(media->read(at, bytes.data(), length).ok());
    for (u8& b : bytes) b = static_cast<u8>(b ^ 0x5a);
    REQUIRE(media->write(at, bytes.data(), length).ok());
  }
  void edit_node(u64 block, const std::function<void(std::byte*)>& edit) {
    std::vector<std::byte> bytes(kBlockSize);
    REQUIRE(media->read(block_offset(BlockNo(block)), bytes.data(), kBlockSize).ok());
    edit(bytes.data());
    format::seal_node(bytes.data());
    REQUIRE(media->write(block_offset(BlockNo(block)), bytes.data(), kBlockSize).ok());
  }
  u32 level(u64 block) {
    format::NodeHeader h;
    REQUIRE(media->read(block_offset(BlockNo(block)), &h, sizeof h).ok());
    return h.level;
  }
  u64 child(u64 block, u32 index) {
    format::InnerPair pair;
    const PoolOffset at = block_offset(BlockNo(block)) + sizeof(format::NodeHeader) + index * sizeof pair;
    REQUIRE(media->read(at, &pair, sizeof pair).ok());
    return pair.child;
  }

  FsckReport check(bool repair) {
    FsckOptions options;
    options.repair = repair;
    auto report = fsck(*media, options);
    INFO(report.status().message());
    REQUIRE(report.ok());
    return *report;
  }
  static std::string text(const FsckReport& r) {
    std::string out;
    for (std::size_t i = 0; i < r.findings.size() && i < 40; ++i) {
      const FsckFinding& f = r.findings[i];
      out += std::string(fsck_severity_name(f.severity)) + " [" + f.structure + "] " + f.where + ": " + f.message +
             (f.repaired ? " (repaired)" : "") + "\n";
    }
    return out;
  }
  static bool found(const FsckReport& r, const std::string& structure) {
    return std::any_of(r.findings.begin(), r.findings.end(), [&](const FsckFinding& f) {
      return f.structure == structure && f.severity != FsckSeverity::kNote;
    });
  }
  // Finds without writing, repairs, finds nothing any more.
  void require_repaired(const std::string& structure) {
    const FsckReport before = check(false);
    INFO("found:\n" << text(before));
    REQUIRE(found(before, structure));
    REQUIRE(before.exit_code() == 4);
    const FsckReport repaired = check(true);
    INFO("repaired:\n" << text(repaired));
    REQUIRE(repaired.exit_code() == 1);
    const FsckReport after = check(false);
    INFO("after:\n" << text(after));
    REQUIRE(after.exit_code() == 0);
  }
};

// The differences between two pictures, without those that `expected` names.
inline std::string differences(const FsckBench::Picture& before, const FsckBench::Picture& after,
                               const std::function<bool(const std::string&)>& expected = [](const std::string&) { return false; }) {
  std::string out;
  for (const auto& [path, text] : before) {
    if (expected(path)) continue;
    const auto it = after.find(path);
    if (it == after.end()) out += "gone: " + path + "\n";
    else if (it->second != text) out += "changed: " + path + "\n";
  }
  for (const auto& [path, text] : after)
    if (!before.contains(path) && !expected(path)) out += "new: " + path + "\n";
  return out;
}

}  // namespace pindax::test
