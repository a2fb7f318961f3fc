// SPDX-License-Identifier: BSD-3-Clause
//
// How many blocks a store into a hole gets at once. One, unless the stores before it ran upwards without a gap: then half as much as the
// run has got so far, up to kMaxAheadBytes. So a log that is written through a mapping costs few faults, a file that is
// stored into here and there keeps its holes, and what is allocated in vain is never more than half of what was stored, nor the bound.
// One per mapping; a few runs at a time, for the threads that fill parts of it side by side. Thread-safe.
#pragma once

#include <array>

#include "base/mutex.h"
#include "base/types.h"

namespace pindax {

inline constexpr u64 kMaxAheadBytes = 256 * 1024;  // it is zeroed while the file's metadata are locked

class FaultAhead {
 public:
  // Bytes from `offset`, which begins a block, that a store there should get.
  u64 wanted(u64 offset) const EXCLUDES(mutex_);
  void allocated(ByteRange range) EXCLUDES(mutex_);

 private:
  static constexpr u64 kLeastRun = 4 * kBlockSize;  // shorter runs happen by chance
  struct Run {
    u64 end = 0, bytes = 0, turn = 0;
  };
  mutable Mutex mutex_{LockRank::kLeaf};
  std::array<Run, 4> runs_ GUARDED_BY(mutex_);
  u64 turn_ GUARDED_BY(mutex_) = 0;
};

}  // namespace pindax
