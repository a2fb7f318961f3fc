// SPDX-License-Identifier: BSD-3-Clause
//
// Numbers that a seed determines on every machine, and contents that a seed determines byte by byte.
#pragma once

#include <cstddef>

#include "base/types.h"

namespace pindax::stress {

constexpr u64 mix(u64 x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(u64 seed) : state_(mix(seed)) {}  // neighbouring seeds give unlike runs
  u64 next() { return mix(state_++); }
  u64 below(u64 n) { return n == 0 ? 0 : next() % n; }
  u64 between(u64 low, u64 high) { return low + below(high - low + 1); }  // both included
  bool chance(u64 percent) { return below(100) < percent; }

 private:
  u64 state_;
};

// The byte that a write of contents `seed` leaves at `offset`. Never 0, so that a byte that should have been cleared shows.
constexpr u8 pattern_byte(u64 seed, u64 offset) {
  return static_cast<u8>(1 + (mix(seed * 0x10001 + offset / 8) >> (8 * (offset % 8))) % 255);
}
inline void fill_pattern(void* to, u64 seed, u64 offset, u64 length) {
  auto* bytes = static_cast<u8*>(to);
  for (u64 i = 0; i < length; ++i) bytes[i] = pattern_byte(seed, offset + i);
}

}  // namespace pindax::stress
