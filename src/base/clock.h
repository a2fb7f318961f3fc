// SPDX-License-Identifier: BSD-3-Clause
//
// The kernel's clocks in nanoseconds.
#pragma once

#include <ctime>

#include "base/types.h"

namespace pindax {

inline u64 clock_ns(clockid_t clock) {
  struct timespec now {};
  ::clock_gettime(clock, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000u + static_cast<u64>(now.tv_nsec);
}

inline u64 wall_clock_ns() { return clock_ns(CLOCK_REALTIME); }  // since 1970
inline u64 monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }

}  // namespace pindax
