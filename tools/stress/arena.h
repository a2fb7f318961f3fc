// SPDX-License-Identifier: BSD-3-Clause
//
// Where a tester works: a pool of its own in a scratch folder and its mount, or a folder of a mount that is there already.
// Everything is done by the `pindax` command that lies beside the tester. Not thread-safe.
#pragma once

#include <string>

#include "base/result.h"
#include "base/types.h"

namespace pindax::stress {

struct ArenaOptions {
  std::string folder;         // of an existing mount; empty: a pool of its own
  std::string pool_size = "256M";
  std::string mount_options;  // as of -o
};

// What the daemon counted, over all its lives in this arena.
struct Counters {
  u64 breaks = 0, waited = 0, retries = 0, scans = 0, recalls = 0;
};

class Arena {
 public:
  static Result<Arena> create(const ArenaOptions& options);
  Arena(Arena&&) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();  // unmounts, by force if need be, and removes what it made

  const std::string& path() const { return folder_; }  // where files go
  const std::string& pool() const { return pool_; }
  bool owned() const { return !scratch_.empty(); }

  // Of an arena of its own only.
  Status mount();
  Status unmount();
  Status kill_daemon();           // SIGKILL, and the dead mount is taken away
  Result<std::string> check();    // pindax fsck; its last line, or its findings as a kCorrupt
  void abort_connection() const;  // frees every request that hangs

  void count();  // adds what the daemon has counted since the last mount; unmount() does it too
  const Counters& counters() const { return counters_; }
  std::string waiters() const;  // of "pindax waiters" and "pindax pins", for a report

 private:
  Arena() = default;

  std::string folder_, scratch_, pool_, mount_options_;
  Counters counters_, seen_;
  bool mounted_ = false;
};

std::string pindax_command();

}  // namespace pindax::stress
