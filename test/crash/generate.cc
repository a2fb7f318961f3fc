// SPDX-License-Identifier: BSD-3-Clause
//
// The list of operations: kinds times paths times ranges. What makes no sense fails in the model and is left out there.
//
// The base tree:  /f  2.4 blocks      /g  5 blocks with a hole, an xattr, also named /d/h      /e  empty
//                 /r, /q  2.2 blocks that they share
//                 /d/ c (1.2 blocks), h, s/      /x/ empty      /s, /l  short and long symlinks      /p  fifo
#include "operations.h"

namespace pindax::crash {

namespace {

constexpr const char* kNames[] = {
    "create", "mkdir", "fifo", "device", "symlink", "tmpfile", "link", "unlink", "unlink-open", "rmdir",
    "rename", "exchange", "whiteout", "write", "append", "write-sync", "truncate", "allocate", "allocate-keep", "punch",
    "zero", "zero-keep", "collapse", "insert", "unshare", "setxattr", "removexattr", "chmod", "chown", "utimes", "setflags", "fsync", "sync",
    "direct", "direct-persist", "clone", "repair", "checkpoint", "remount", "kill",
    "kill-mapped",
};

struct Range {
  u64 offset;
  u64 length;
  bool core;
};

class Generator {
 public:
  std::vector<Operation> run() {
    names();
    data();
    shares();
    attributes();
    durability();
    return std::move(out_);
  }

 private:
  void add(OpKind kind, const std::string& path, const std::string& other, u64 offset, u64 length, bool core) {
    out_.push_back({kind, path, other, offset, length, core});
  }

  void names() {
    for (const char* path : {"/n", "/d/n"}) {
      const bool root = path[1] == 'n';
      for (OpKind kind : {OpKind::kCreate, OpKind::kMkdir, OpKind::kFifo, OpKind::kDevice, OpKind::kTemporary})
        add(kind, path, "", 0, 0, root ? kind == OpKind::kCreate || kind == OpKind::kTemporary : kind == OpKind::kMkdir);
      add(OpKind::kSymlink, path, "", 0, 11, false);
      add(OpKind::kSymlink, path, "", 0, 700, root);
    }
    for (const char* target : {"/f", "/g", "/e", "/s"})
      for (const char* path : {"/n", "/d/n", "/x/n"}) add(OpKind::kLink, target, path, 0, 0, target[1] == 'f' && path[1] == 'd');
    for (const char* path : {"/f", "/g", "/e", "/s", "/l", "/p", "/d/c", "/d/h", "/n"})
      add(OpKind::kUnlink, path, "", 0, 0, path[1] == 'f' || path[1] == 'l' || std::string(path) == "/d/h");
    for (const char* path : {"/f", "/g", "/l"}) add(OpKind::kUnlinkOpen, path, "", 0, 0, path[1] == 'f');
    for (const char* path : {"/x", "/d/s", "/n"}) add(OpKind::kRmdir, path, "", 0, 0, path[1] == 'x');
    for (const char* from : {"/f", "/g", "/d/c", "/d/h", "/x", "/d", "/d/s", "/l", "/n"})
      for (const char* to : {"/n", "/d/n", "/f", "/g", "/x", "/d/s", "/x/n", "/d/c"}) {
        const std::string pair = std::string(from) + to;
        const bool core = pair == "/f/n" || pair == "/f/g" || pair == "/d/c/f" || pair == "/x/d/n" || pair == "/d/c/n";
        add(OpKind::kRename, from, to, 0, 0, core);
      }
    for (const char* to : {"/g", "/d", "/d/c", "/e", "/l"})
      add(OpKind::kExchange, "/f", to, 0, 0, std::string(to) == "/d/c");
    add(OpKind::kExchange, "/x", "/d/c", 0, 0, false);
    add(OpKind::kExchange, "/x", "/d/s", 0, 0, false);
    add(OpKind::kWhiteout, "/f", "/n", 0, 0, false);
    add(OpKind::kWhiteout, "/d/c", "/x/n", 0, 0, false);
  }

  void data() {
    static constexpr Range kRanges[] = {{0, 4096, true},      {100, 50, true},      {4000, 300, true},    {0, 12288, false},
                                        {8192, 4096, false},  {12388, 100, true},   {6000, 30000, false}, {24576, 4096, false},
                                        {4096, 8192, true}, {16384, 5000, false}};
    for (const char* path : {"/f", "/g", "/e", "/d/c", "/n"}) {
      const bool main = path[1] == 'f' || path[1] == 'g';
      for (const Range& r : kRanges) {
        add(OpKind::kWrite, path, "", r.offset, r.length, r.core && main);
        add(OpKind::kPunch, path, "", r.offset, r.length, path[1] == 'f' && r.length == 12288);
        add(OpKind::kZero, path, "", r.offset, r.length, path[1] == 'f' && r.length == 300);
        add(OpKind::kZeroKeep, path, "", r.offset, r.length, false);
        add(OpKind::kAllocate, path, "", r.offset, r.length, main && r.length == 5000);
        add(OpKind::kAllocateKeep, path, "", r.offset, r.length, path[1] == 'g' && r.length == 8192);
        const bool whole = r.offset % 4096 == 0 && r.length % 4096 == 0;
        if (whole) add(OpKind::kCollapse, path, "", r.offset, r.length, main && r.length != 12288);
        if (whole) add(OpKind::kInsert, path, "", r.offset, r.length, main && r.offset == 4096);
        if (!whole && r.length != 50) add(OpKind::kUnshare, path, "", r.offset, r.length, false);
        add(OpKind::kDirect, path, "", r.offset, r.length, path[1] == 'g' && r.offset == 4096);
        add(OpKind::kDirectPersist, path, "", r.offset, r.length, path[1] == 'g' && r.length == 4096 && r.offset == 8192);
        add(OpKind::kWriteSync, path, "", r.offset, r.length, path[1] == 'g' && r.length == 300);
      }
      for (u64 length : {10u, 5000u}) add(OpKind::kAppend, path, "", 0, length, length == 5000 && path[1] != 'g');
      for (u64 size : {0u, 1u, 4096u, 5000u, 9990u, 10050u, 16384u, 40000u})
        add(OpKind::kTruncate, path, "", 0, size, (path[1] == 'f' && (size == 5000 || size == 16384 || size == 0)));
    }
  }

  // Sharing, and stores into what is shared.
  void shares() {
    struct Pair {
      const char *to, *from;
    };
    for (const Pair p : {Pair{"/g", "/f"}, {"/f", "/g"}, {"/e", "/g"}, {"/n", "/f"}, {"/f", "/r"}, {"/r", "/f"}, {"/q", "/r"}, {"/d/c", "/q"}})
      for (const Range& r : {Range{0, 0, true}, {4096, 4096, false}, {0, 8192, false}, {8192, 0, false}})
        add(OpKind::kClone, p.to, p.from, r.offset, r.length, r.core && p.from[1] != 'q' && p.to[1] != 'q');
    for (const char* path : {"/f", "/g", "/e", "/d/c"}) add(OpKind::kRepair, path, "", 0, 4096, path[1] == 'f');
    for (const char* path : {"/r", "/q"}) {
      const bool r = path[1] == 'r';
      for (const Range& range : {Range{0, 4096, false}, {100, 50, true}, {4000, 5200, false}, {8200, 10000, true}})
        for (const OpKind kind : {OpKind::kWrite, OpKind::kPunch, OpKind::kZero, OpKind::kDirect, OpKind::kDirectPersist, OpKind::kWriteSync})
          add(kind, path, "", range.offset, range.length, r && range.core && (kind == OpKind::kWrite || kind == OpKind::kPunch));
      for (const u64 size : {0u, 5000u, 8192u, 16384u}) add(OpKind::kTruncate, path, "", 0, size, r && size == 5000);
      add(OpKind::kAppend, path, "", 0, 5000, false);
      add(OpKind::kUnlink, path, "", 0, 0, r);
      add(OpKind::kRename, path, "/n", 0, 0, false);
      add(OpKind::kFsync, path, "", 0, 0, !r);
    }
  }

  void attributes() {
    for (const char* path : {"/f", "/g", "/d", "/e", "/n"}) {
      const bool f = path[1] == 'f';
      add(OpKind::kSetXattr, path, "user.a", 0, 20, f);
      add(OpKind::kSetXattr, path, "user.a", 0, 3000, false);
      add(OpKind::kSetXattr, path, "user.a", 0, 9000, f);
      add(OpKind::kSetXattr, path, "user.b", 0, 500, path[1] == 'g');
      add(OpKind::kRemoveXattr, path, "user.a", 0, 0, path[1] == 'g');
      add(OpKind::kChmod, path, "", 0, 0600, f);
      add(OpKind::kChown, path, "", 0, 17, false);
      add(OpKind::kUtimes, path, "", 0, 1234567, f);
      add(OpKind::kSetFlags, path, "", 0, format::kFlagNoDump, false);
    }
  }

  void durability() {
    for (const char* path : {"/f", "/g", "/e", "/d", "/d/c", "/n"}) add(OpKind::kFsync, path, "", 0, 0, path[1] == 'f' || path[1] == 'n');
    add(OpKind::kSyncAll, "/", "", 0, 0, true);
    add(OpKind::kCheckpoint, "/", "", 0, 0, true);
    add(OpKind::kRemount, "/", "", 0, 0, true);
    add(OpKind::kKill, "/", "", 0, 0, true);
    add(OpKind::kKillMapped, "/", "", 0, 0, true);
  }

  std::vector<Operation> out_;
};

}  // namespace

const char* op_name(OpKind kind) { return kNames[static_cast<unsigned>(kind)]; }

std::string Operation::text() const {
  std::string s = std::string(op_name(kind)) + "(" + path;
  if (!other.empty()) s += ", " + other;
  if (offset != 0 || length != 0) s += ", " + std::to_string(offset) + "+" + std::to_string(length);
  return s + ")";
}

std::vector<Operation> generate_operations() { return Generator().run(); }

u8 data_byte(u32 inode, u64 index, u64 offset) {
  const u64 v = 1 + (inode * 37 + index * 101 + (offset / 8) * 7 + offset / 4096 * 3) % 250;
  return static_cast<u8>(v >= kPoison ? v + 2 : v);
}

}  // namespace pindax::crash
