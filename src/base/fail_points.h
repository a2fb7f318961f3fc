// SPDX-License-Identifier: BSD-3-Clause
//
// Named fail points: where the machine below may refuse something. Code asks PINDAX_FAILS("room.what") and, if told so, behaves
// as if the refusal had come. Idle they cost one relaxed load, with -Dsteps=false nothing.
//
// Unit tests arm a passage by its number. In daemons the environment arms points: PINDAX_FAILS="name=PATH[,…]": the point
// fails while PATH exists.
#pragma once

#include <atomic>
#include <string>

#include "base/types.h"

namespace pindax::fail_points {

extern std::atomic<unsigned> armed_count;

bool reached(const char* name);  // slow path
// The passages first … last fail, counted from 1 on from now; kOnwards: from `first` on all do.
inline constexpr u64 kOnwards = ~u64{0};
void arm(std::string name, u64 first, u64 last);
// Passages since the point was armed.
u64 passages(const std::string& name);
void disarm_all();
// Arms what PINDAX_FAILS says. Returns an empty string, or what is wrong with it.
std::string arm_from_environment();

}  // namespace pindax::fail_points

#if defined(PINDAX_STEPS)
#define PINDAX_FAILS(name)                                                                    \
  (::pindax::fail_points::armed_count.load(std::memory_order_relaxed) != 0 && \
   ::pindax::fail_points::reached(name))
#else
#define PINDAX_FAILS(name) false
#endif
