// SPDX-License-Identifier: BSD-3-Clause
//
// Looks after the pool file from outside, once a second and when a load from the pool failed.
//
//  - Removed, or another file in its place: what is stored from now on would be gone with the daemon. The pool is given up:
//    nothing more can be changed, everything can still be read and copied out. The log says so.
//  - Shorter than it was, or bytes that the host cannot give back (SIGBUS outside of a guarded copy): metadata may be anything.
//    The mount goes away and the process ends at once with kExitPoolLost, after a line in the log. Nothing more is stored, so
//    what is left of the file can be brought back and repaired.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "pmem/pool_media.h"

namespace pindax {

inline constexpr int kExitPoolLost = 5;

class PoolWatch {
 public:
  // Before the pool is opened: a SIGBUS that no guarded copy expects comes to the watch from then on.
  static void prepare();
  // The media outlives it. `mount_point` is empty without a mount.
  static Result<std::unique_ptr<PoolWatch>> start(PoolMedia& pool, std::string mount_point);
  virtual ~PoolWatch() = default;
};

}  // namespace pindax
