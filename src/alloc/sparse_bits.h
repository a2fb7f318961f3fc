// SPDX-License-Identifier: BSD-3-Clause
//
// A bitmap in memory whose empty stretches cost nothing: one piece for each bitmap block on media.
#pragma once

#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "format/format.h"

namespace pindax {

class SparseBits {
 public:
  static constexpr u64 kWords = format::kBitmapBits / 64;
  static_assert(kWords * 64 == format::kBitmapBits);
  using Piece = std::array<u64, kWords>;

  bool test(u64 bit) const {
    const Piece* p = piece(bit);
    return p != nullptr && ((*p)[bit % format::kBitmapBits / 64] >> (bit % 64) & 1) != 0;
  }
  void set(u64 bit) { make_piece(bit / format::kBitmapBits)[bit % format::kBitmapBits / 64] |= u64{1} << (bit % 64); }
  void clear(u64 bit) {
    if (piece(bit) != nullptr) (*pieces_[bit / format::kBitmapBits])[bit % format::kBitmapBits / 64] &= ~(u64{1} << (bit % 64));
  }
  // Bits [bit, bit + 64), `bit` a multiple of 64.
  u64 word(u64 bit) const {
    const Piece* p = piece(bit);
    return p == nullptr ? 0 : (*p)[bit % format::kBitmapBits / 64];
  }
  // The first set bit at or after `from`, or ~0.
  u64 next_set(u64 from) const {
    for (u64 i = from / format::kBitmapBits; i < pieces_.size(); ++i, from = i * format::kBitmapBits) {
      if (!pieces_[i]) continue;
      const u64 base = i * format::kBitmapBits;
      for (u64 w = (from - base) / 64; w < kWords; ++w) {
        u64 word = (*pieces_[i])[w];
        if (base + w * 64 < from) word &= ~u64{0} << (from % 64);
        if (word != 0) return base + w * 64 + static_cast<u64>(std::countr_zero(word));
      }
    }
    return ~u64{0};
  }
  // Takes over the bits of bitmap block `index`.
  void load(u64 index, const u8* bits) {
    Piece words;
    u64 any = 0;
    for (u64 w = 0; w < kWords; ++w) {
      le64 word;
      std::memcpy(&word, bits + w * 8, 8);
      words[w] = word;
      any |= words[w];
    }
    if (any != 0) make_piece(index) = words;
  }

 private:
  const Piece* piece(u64 bit) const {
    const u64 i = bit / format::kBitmapBits;
    return i < pieces_.size() ? pieces_[i].get() : nullptr;
  }
  Piece& make_piece(u64 index) {
    if (index >= pieces_.size()) pieces_.resize(index + 1);
    if (!pieces_[index]) pieces_[index] = std::make_unique<Piece>();
    return *pieces_[index];
  }

  std::vector<std::unique_ptr<Piece>> pieces_;
};
// Words of a bitmap block end on bit boundaries of 64, so that bit % 64 is the same in pool and piece.
static_assert(format::kBitmapBits % 64 == 0);

}  // namespace pindax
