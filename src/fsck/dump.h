// SPDX-License-Identifier: BSD-3-Clause
//
// Shows what stands on media, for people (render_dump) and programs (JSON with snake_case keys that end in their units).
// Reads only; replays the journal in memory, so what is shown is what a mount would see. Damaged structs are shown as far as
// they can be read, with a key "damage" that says what is wrong.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "base/types.h"
#include "pmem/media.h"

namespace pindax {

using Json = nlohmann::ordered_json;

class Dump {
 public:
  // kCorrupt if there is no superblock; with a damaged journal the places are shown as they are. The media outlives it.
  static Result<std::unique_ptr<Dump>> open(Media& media);
  virtual ~Dump() = default;

  virtual Json superblock() = 0;  // both copies
  virtual Json journal() = 0;     // headers, and what replay found
  virtual Json state() = 0;
  virtual Json groups() = 0;  // headers of all AGs
  virtual Result<Json> group(u32 ag) = 0;
  virtual Result<Json> free_runs(u32 ag) = 0;
  virtual Result<Json> inode(InodeNo ino) = 0;
  virtual Result<Json> extents(InodeNo ino) = 0;
  virtual Result<Json> directory(InodeNo ino) = 0;
  virtual Result<Json> xattrs(InodeNo ino) = 0;
  virtual Result<Json> parents(InodeNo ino) = 0;
  virtual Json orphans() = 0;
  virtual Json quarantine() = 0;
  virtual Json bad_blocks() = 0;
  virtual Json shares() = 0;  // blocks with two owners or more, of all groups
  // Whatever the block says it is: superblock, AG header, bitmap, inodes, tree node, blob, else a hexdump.
  virtual Result<Json> block(BlockNo block) = 0;
};

// Indented "key: value" lines; arrays of objects as tables.
std::string render_dump(const Json& value);

}  // namespace pindax
