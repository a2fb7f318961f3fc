// SPDX-License-Identifier: BSD-3-Clause
#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace pindax {

#if defined(__SSE4_2__)

u32 crc32c(const void* data, std::size_t length, u32 seed) {
  const auto* p = static_cast<const unsigned char*>(data);
  u64 crc = static_cast<u32>(~seed);
  while (length >= 8) {
    u64 word;
    std::memcpy(&word, p, 8);
    crc = _mm_crc32_u64(crc, word);
    p += 8;
    length -= 8;
  }
  u32 tail = static_cast<u32>(crc);
  while (length-- > 0) tail = _mm_crc32_u8(tail, *p++);
  return ~tail;
}

#else

namespace {
constexpr std::array<u32, 256> make_table() {
  std::array<u32, 256> table{};
  for (u32 i = 0; i < 256; ++i) {
    u32 c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr auto kTable = make_table();
}  // namespace

u32 crc32c(const void* data, std::size_t length, u32 seed) {
  const auto* p = static_cast<const unsigned char*>(data);
  u32 crc = ~seed;
  while (length-- > 0) crc = kTable[(crc ^ *p++) & 0xff] ^ (crc >> 8);
  return ~crc;
}

#endif

}  // namespace pindax
