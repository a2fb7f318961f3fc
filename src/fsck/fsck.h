// SPDX-License-Identifier: BSD-3-Clause
//
// Checks and repairs a pool that nobody has mounted. Works on the structs of the format and on trees, journal and allocator;
// it needs no mounted file system.
//
// A walk reads everything that can be reached and remembers, in arrays of bits and of a few bytes an inode, who
// owns which block, which names each inode has, and what does not fit. A repair writes what the walk knows: first what needs no
// space (copies, checksums, bitmaps and counts), then, with an allocator that can be trusted again, trees, names and
// lost+found; then it walks again, until a walk finds nothing or nothing more can be done. Repairs are transactions, but for
// superblocks, journal headers and blocks whose own contents are damaged beyond a transaction's reading.
// A crash in a repair leaves a pool that the next repair goes on with.
//
// What is kept: every file that has a readable slot, every extent that can still be found, every name that can still be read.
// What lost its name is in /lost+found under "#<inode number>".
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "pmem/media.h"

namespace pindax {

enum class FsckSeverity {
  kNote,     // no damage: a crash left it so, and the next mount would finish it
  kWarning,  // counts and hints that are wrong, blocks that leak: nothing is lost
  kError,    // damage
};
const char* fsck_severity_name(FsckSeverity s);

struct FsckFinding {
  FsckSeverity severity = FsckSeverity::kError;
  std::string structure;  // "superblock", "journal", "state", "allocation group", "bitmap", "inode", "extents", "directory",
                          // "parents", "xattrs", "blob", "orphans", "quarantine", "share counts", "bad blocks", "counts"
  std::string where;      // "inode 4711", "block 815", "allocation group 3", "/a/file": never empty
  std::string message;    // what is wrong and, after a repair, what became of it
  bool repaired = false;
};

struct FsckProgress {
  const char* phase = "";  // static
  u64 done = 0;
  u64 total = 0;
};

struct FsckOptions {
  bool repair = false;
  u64 findings_max = 10000;  // kept in the report; all are counted
  std::function<void(const FsckFinding&)> found;       // at once, for printing as the walk goes; may be empty
  std::function<void(const FsckProgress&)> progress;  // now and then; may be empty
};

struct FsckReport {
  std::vector<FsckFinding> findings;
  u64 findings_total = 0;  // notes apart
  u64 unrepaired = 0;      // notes apart
  bool modified = false;   // something was written
  u64 inodes = 0, directories = 0, files = 0, symlinks = 0, others = 0;
  u64 total_blocks = 0, used_blocks = 0;
  u64 bad_blocks = 0, retired_blocks = 0;
  struct Damage {  // bytes of a file that lie in bad blocks
    std::string path;  // empty: none was found
    u64 inode = 0;
    u64 offset_bytes = 0, length_bytes = 0;
    u64 block = 0;  // the first one, of the pool
  };
  std::vector<Damage> damage;
  u64 journal_records = 0;  // that were replayed (in memory alone unless repairing)
  // 0 clean, 1 found and all repaired, 4 something is left.
  int exit_code() const { return unrepaired != 0 ? 4 : findings_total != 0 ? 1 : 0; }
};

// Nobody else uses the pool. Without `repair` nothing is written. Errors: kIncompatible for a pool of another version,
// kCorrupt if no superblock is left, kIo.
Result<FsckReport> fsck(Media& media, const FsckOptions& options);

}  // namespace pindax
