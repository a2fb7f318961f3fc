// SPDX-License-Identifier: BSD-3-Clause
//
// Names, extended attributes and access control lists with any bytes, against a small file system.
// Promises: no crash; a list that parses prints to itself; an attribute that was set reads back; in the end the pool is whole.
#include <sys/stat.h>

#include <map>

#include "fs/acl.h"
#include "fsck/fsck.h"
#include "fuzz/pool.h"

using namespace pindax;
using namespace pindax::fuzz;

namespace {

// A list as clients send it: a version, then entries of 8 bytes.
std::string acl_bytes(Input& in) {
  if (in.byte() % 4 == 0) return std::string(in.text());
  std::string out("\2\0\0\0", 4);
  for (u64 n = in.below(12); n > 0; --n) {
    static constexpr u16 kTags[] = {1, 2, 4, 8, 16, 32, 0, 3};
    const u8 how = in.byte();
    const u16 tag = kTags[how % 8], permissions = how / 8 % 16;
    const u32 id = (how & 0x80) != 0 ? in.byte() : ~u32{0};
    out.append(reinterpret_cast<const char*>(&tag), 2);
    out.append(reinterpret_cast<const char*>(&permissions), 2);
    out.append(reinterpret_cast<const char*>(&id), 4);
  }
  return out;
}

void check_acl(const std::string& bytes, Input& in) {
  auto acl = Acl::parse(bytes);
  if (!acl.ok()) return;
  const std::string printed = acl->print();
  auto again = Acl::parse(printed);
  FUZZ_REQUIRE(again.ok() && again->print() == printed, "a list that was printed");
  (void)acl->equals_mode();
  (void)acl->mode_bits();
  const u32 want = in.byte() % 8, uid = in.byte();
  (void)acl->permits(want, uid, uid / 16, {1, 2, 3}, 1, 2);
  u32 mode = in.half();
  again->apply_mode(mode);
  acl->inherit(&mode);
}

class Xattrs {
 public:
  Xattrs(FileSystem& fs, InodeRef inode) : fs_(fs), inode_(std::move(inode)) {}

  void step(Input& in) {
    static const char* const kPrefixes[] = {"user.", "trusted.", "security.", "system.", "", "user.",
                                            "system.posix_acl_access", "system.posix_acl_default"};
    const u8 how = in.byte();
    std::string name = kPrefixes[how % 8];
    if (how % 8 < 6) name += in.text();
    if (how / 8 % 4 == 0) {
      if (fs_.remove_xattr(*inode_, name).ok()) expected_.erase(name);
      return;
    }
    std::string value = is_acl_name(name) ? acl_bytes(in) : std::string(in.text());
    if (is_acl_name(name)) check_acl(value, in);
    else if ((how & 0x20) != 0) value.resize(in.half() + (how & 0x40 ? 1000u : 0u), 'x');
    const Status s = fs_.set_xattr(*inode_, name, value, how >> 6 & 3, {});
    if (is_acl_name(name)) return;  // the mode may say it all
    if (s.ok()) expected_[name] = value;
    if (auto it = expected_.find(name); it != expected_.end()) {
      auto got = fs_.get_xattr(*inode_, name);
      FUZZ_REQUIRE(got.ok() && *got == it->second, name);
    }
  }

  void check() {
    auto names = fs_.list_xattrs(*inode_);
    FUZZ_REQUIRE(names.ok(), names.status().message());
    for (const auto& [name, value] : expected_) {
      FUZZ_REQUIRE(std::find(names->begin(), names->end(), name) != names->end(), name);
      auto got = fs_.get_xattr(*inode_, name);
      FUZZ_REQUIRE(got.ok() && *got == value, name);
    }
  }

 private:
  FileSystem& fs_;
  InodeRef inode_;
  std::map<std::string, std::string> expected_;
};

void name_step(FileSystem& fs, const InodeRef& dir, Input& in) {
  const u8 how = in.byte();
  std::string name(in.text());
  if ((how & 0x80) != 0) name.resize(250 + how % 16, 'n');
  switch (how % 4) {
    case 0: {
      auto made = fs.create(*dir, name, {.mode = S_IFREG | 0644}, {});
      if (!made.ok()) break;
      auto found = fs.lookup(*dir, name);
      FUZZ_REQUIRE(found.ok() && (*found)->ino == (*made)->ino, name);
      break;
    }
    case 1: {
      const bool there = fs.lookup(*dir, name).ok();
      FUZZ_REQUIRE(!fs.unlink(*dir, name).ok() || there, name);
      break;
    }
    case 2: {
      const std::string target(in.text());
      auto made = fs.create(*dir, name, {.mode = S_IFLNK | 0777, .symlink_target = target}, {});
      if (!made.ok()) break;
      auto read = fs.read_link(**made);
      FUZZ_REQUIRE(read.ok() && *read == target, name);
      break;
    }
    default:
      if (auto from = fs.resolve(name); from.ok()) (void)fs.rename(*dir, name, *dir, std::string(in.text()), how >> 2 & 7, {});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static Pool pool(Left::kClean);
  Input in(data, size);
  const u8 how = in.byte();
  pool.revert();
  auto fs = mount(pool.media(), {});
  FUZZ_REQUIRE(fs != nullptr, "the undamaged pool");
  {
    auto file = fs->resolve((how & 1) != 0 ? "/a" : "/a/f1");
    auto dir = fs->resolve("/empty");
    FUZZ_REQUIRE(file.ok() && dir.ok(), "the undamaged pool");
    Xattrs xattrs(*fs, *file);
    for (int steps = 0; !in.empty() && steps < 60; ++steps) {
      if (in.byte() % 3 == 0) name_step(*fs, *dir, in);
      else xattrs.step(in);
    }
    xattrs.check();
  }
  end(std::move(fs), (how & 2) != 0);
  const auto report = fsck(pool.media(), {});
  FUZZ_REQUIRE(report.ok(), report.status().message());
  for (const auto& f : report->findings)
    FUZZ_REQUIRE(f.severity == FsckSeverity::kNote, f.structure + " " + f.where + ": " + f.message);
  return 0;
}
