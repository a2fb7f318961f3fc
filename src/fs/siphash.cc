// SPDX-License-Identifier: BSD-3-Clause
#include "fs/siphash.h"

#include <bit>
#include <cstring>

#include "base/little_endian.h"

namespace pindax {
namespace {

u64 load64(const char* p) {
  le64 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

struct State {
  u64 v0, v1, v2, v3;

  void round() {
    v0 += v1, v1 = std::rotl(v1, 13), v1 ^= v0, v0 = std::rotl(v0, 32);
    v2 += v3, v3 = std::rotl(v3, 16), v3 ^= v2;
    v0 += v3, v3 = std::rotl(v3, 21), v3 ^= v0;
    v2 += v1, v1 = std::rotl(v1, 17), v1 ^= v2, v2 = std::rotl(v2, 32);
  }
  void absorb(u64 word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

}  // namespace

u64 siphash24(const u8* key, std::string_view data) {
  char raw[16];
  std::memcpy(raw, key, sizeof raw);
  const u64 k0 = load64(raw), k1 = load64(raw + 8);
  State s{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573};
  const char* p = data.data();
  std::size_t left = data.size();
  for (; left >= 8; left -= 8, p += 8) s.absorb(load64(p));
  char tail[8] = {};
  if (left > 0) std::memcpy(tail, p, left);
  s.absorb(load64(tail) | u64{data.size()} << 56);
  s.v2 ^= 0xff;
  for (int i = 0; i < 4; ++i) s.round();
  return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

}  // namespace pindax
