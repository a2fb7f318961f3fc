// SPDX-License-Identifier: BSD-3-Clause
#include "server/fault_ahead.h"

#include <algorithm>

namespace pindax {

u64 FaultAhead::wanted(u64 offset) const {
  MutexLock lock(mutex_);
  for (const Run& run : runs_)
    if (run.bytes >= kLeastRun && run.end == offset)
      return std::min(round_down(run.bytes / 2, kBlockSize), kMaxAheadBytes);
  return kBlockSize;
}

void FaultAhead::allocated(ByteRange range) {
  MutexLock lock(mutex_);
  Run* run = std::find_if(runs_.begin(), runs_.end(), [&](const Run& r) { return r.bytes != 0 && r.end == range.begin; });
  if (run == runs_.end()) {
    run = std::min_element(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.turn < b.turn; });
    run->bytes = 0;
  }
  run->end = range.end;
  run->bytes += range.end - range.begin;
  run->turn = ++turn_;
}

}  // namespace pindax
