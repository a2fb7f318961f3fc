// SPDX-License-Identifier: BSD-3-Clause
//
// The crc32 instruction takes eight bytes a cycle, but its result only three cycles later. So longer input is three streams side by
// side, whose remainders are joined by carry-less products: R(a ++ b) = R(a) * x^(8 * |b|) + R(b) modulo the polynomial (Gopal
// et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel 2011). The streams' lengths fit a tree node
// and an inode slot.
#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#endif

namespace pindax {

#if defined(__SSE4_2__)

namespace {

constexpr u32 kPolynomial = 0x82f63b78;  // bits reversed: the highest is x^0
constexpr std::size_t kLongWords = 170, kShortWords = 21;  // of a stream: 3 * 8 * them are just below 4092 and 508 bytes

// x^power modulo the polynomial, bits reversed.
constexpr u32 power_of_x(std::size_t power) {
  u32 value = 0x8000'0000;
  while (power-- > 0) value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
  return value;
}

inline u64 load(const unsigned char* p) {
  u64 word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// Three streams of kWords words. A product of two reversed remainders is their product times x, and the instruction multiplies by x^32
// as it reduces, so the factors are 33 powers smaller.
template <std::size_t kWords>
__attribute__((target("sse4.2,pclmul"))) u64 three_streams(const unsigned char* p, u64 crc) {
  constexpr long long kByOne = power_of_x(64 * kWords - 33), kByTwo = power_of_x(128 * kWords - 33);
  u64 second = 0, third = 0;
  for (std::size_t i = 0; i < kWords; ++i, p += 8) {
    crc = _mm_crc32_u64(crc, load(p));
    second = _mm_crc32_u64(second, load(p + 8 * kWords));
    third = _mm_crc32_u64(third, load(p + 16 * kWords));
  }
  const __m128i factors = _mm_set_epi64x(kByOne, kByTwo);
  const __m128i first_moved = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(crc)), factors, 0x00);
  const __m128i second_moved = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(second)), factors, 0x10);
  return third ^ _mm_crc32_u64(0, static_cast<u64>(_mm_cvtsi128_si64(_mm_xor_si128(first_moved, second_moved))));
}

}  // namespace

u32 crc32c(const void* data, std::size_t length, u32 seed) {
  // Asked of the processor once: some hypervisors hide the second instruction.
  static const bool has_products = __builtin_cpu_supports("pclmul") != 0;
  const auto* p = static_cast<const unsigned char*>(data);
  u64 crc = static_cast<u32>(~seed);
  if (has_products) {
    for (; length >= 24 * kLongWords; p += 24 * kLongWords, length -= 24 * kLongWords) crc = three_streams<kLongWords>(p, crc);
    for (; length >= 24 * kShortWords; p += 24 * kShortWords, length -= 24 * kShortWords) crc = three_streams<kShortWords>(p, crc);
  }
  for (; length >= 8; p += 8, length -= 8) crc = _mm_crc32_u64(crc, load(p));
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
