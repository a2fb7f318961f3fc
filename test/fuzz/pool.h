// SPDX-License-Identifier: BSD-3-Clause
//
// The pool that media targets damage: 8 MiB, with a bit of every structure, made once a process. An input describes edits of
// its blocks, not the pool itself, and most edits are sealed again, so that the damage gets behind the checksums.
#pragma once

#include <memory>
#include <vector>

#include "format/decode.h"
#include "fs/file_system.h"
#include "fuzz/input.h"
#include "pmem/recording_media.h"

namespace pindax::fuzz {

inline constexpr u64 kPoolBytes = 8u << 20;

enum class Left {
  kClean,   // unmounted: everything in place, the ring empty
  kKilled,  // records in the ring, provisional extents, an orphan
};

class Pool {
 public:
  explicit Pool(Left left);

  RecordingMedia& media() { return *media_; }
  const format::Geometry& geometry() const { return geometry_; }
  // Blocks that hold structures: superblocks, journal headers, and what a magic number marks.
  const std::vector<u64>& structures() const { return structures_; }
  // Back to the undamaged pool.
  void revert() { media_->revert(); }
  // One edit from the input.
  void edit(Input& in);
  u64 pick_structure(Input& in) const { return structures_[in.half() % structures_.size()]; }

 private:
  void find_structures();
  // Checksums over what the block held before the edits, by the magic number that it had then.
  void seal(u64 block, u32 offset);

  std::vector<std::byte> image_;
  std::unique_ptr<RecordingMedia> media_;
  format::Geometry geometry_;
  std::vector<u64> structures_;
};

Executor& executor();

// Mounts; a mount that refuses is a fine answer.
struct MountChoice {
  bool read_only = false;
  bool same_boot = true;
  bool posix = false;
};
std::unique_ptr<FileSystem> mount(Media& media, const MountChoice& choice, Status* why = nullptr);
// Reads all there is to read, up to a budget.
void walk(FileSystem& fs);
// Changes of every kind in a few places. Errors are fine; answers that never come are not.
void change(FileSystem& fs, Input& in);
// Ends the mount: in good order, or as a kill would.
void end(std::unique_ptr<FileSystem> fs, bool killed);

}  // namespace pindax::fuzz
