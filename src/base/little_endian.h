// SPDX-License-Identifier: BSD-3-Clause
//
// Little-endian integers for media and messages: alignment as the plain type,
// never a padding surprise, no implicit host order.
#pragma once

#include <bit>
#include <cstring>

#include "base/types.h"

namespace pindax {

template <class T>
class LittleEndian {
 public:
  constexpr LittleEndian() = default;
  constexpr LittleEndian(T v) : raw_(swap(v)) {}  // NOLINT: implicit so that fields read as numbers
  constexpr operator T() const { return swap(raw_); }  // NOLINT: likewise
  constexpr T get() const { return swap(raw_); }
  LittleEndian& operator+=(T v) { return *this = static_cast<T>(get() + v); }
  LittleEndian& operator-=(T v) { return *this = static_cast<T>(get() - v); }

 private:
  static constexpr T swap(T v) {
    if constexpr (std::endian::native == std::endian::little) return v;
    T out = 0;
    for (unsigned i = 0; i < sizeof(T); ++i) {
      out = static_cast<T>((out << 8) | (v & 0xff));
      v = static_cast<T>(v >> 8);
    }
    return out;
  }
  T raw_ = 0;
};

using le16 = LittleEndian<u16>;
using le32 = LittleEndian<u32>;
using le64 = LittleEndian<u64>;
static_assert(sizeof(le16) == 2 && sizeof(le32) == 4 && sizeof(le64) == 8);

}  // namespace pindax
