// SPDX-License-Identifier: BSD-3-Clause
//
// The oracle: a file system in a few maps, and what each moment of a workload promises about the future.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/types.h"

namespace pindax::crash {

struct ModelInode {
  u32 mode = 0;
  u32 uid = 0, gid = 0;
  u32 links = 0;
  u32 flags = 0;
  u64 rdev = 0;
  std::optional<i64> mtime;  // known only after it was set by name
  std::string data;          // or the target of a symbolic link
  // Where bytes went: of the operation that made moment `moment`.
  struct Shift {
    u64 moment;
    bool collapse;
    u64 offset, length;
  };
  std::vector<Shift> shifts;
  std::map<std::string, std::string> xattrs;
  u64 repaired = 0;  // the moment after a bad block of it was written anew
  std::map<u32, u64> shares_of;  // inodes whose bytes came by a clone -> the moment; theirs may be older after a crash
  std::map<std::string, u32> entries;  // of a directory: name -> key in Model::inodes
  bool is_directory() const { return (mode & 0170000) == 0040000; }
  bool is_regular() const { return (mode & 0170000) == 0100000; }
};

struct Model {
  static constexpr u32 kRoot = 1;
  std::map<u32, ModelInode> inodes;
  u32 next = kRoot;

  Model();
  // 0 if there is none.
  u32 find(const std::string& path) const;
  // The directory that holds the last name, 0 if there is none, and that name.
  u32 parent_of(const std::string& path, std::string* name) const;
  u32 add(const std::string& path, u32 mode);  // 0: no parent, or the name exists
  void drop(u32 id);  // one link less; gone at zero
  bool inside(u32 directory, u32 ancestor) const;  // or the same
};

// One moment between two operations.
struct Moment {
  Model model;
  // What a crash of the host may not undo: names and attributes up to this moment, and the bytes of each inode. An inode
  // that is missing has none that last.
  u64 names_durable = 0;
  std::map<u32, u64> data_durable;
};
using History = std::vector<Moment>;

}  // namespace pindax::crash
