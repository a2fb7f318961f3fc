// SPDX-License-Identifier: BSD-3-Clause
//
// Strong types for the quantities that must never be mixed up, and the few
// sizes that the whole project shares.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace pindax {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

inline constexpr u32 kBlockShift = 12;
inline constexpr u64 kBlockSize = u64{1} << kBlockShift;  // bytes
inline constexpr u64 kBlockMask = kBlockSize - 1;
inline constexpr u64 kHugePageSize = u64{2} << 20;  // bytes; alignment that 2 MiB mappings want
inline constexpr u64 kCacheLineSize = 64;           // bytes

// A 64-bit number with a unit. Sums and differences with plain counts keep the unit; the difference of two
// is a plain count.
template <class Tag>
struct Strong {
  u64 value = 0;

  constexpr Strong() = default;
  constexpr explicit Strong(u64 v) : value(v) {}
  constexpr auto operator<=>(const Strong&) const = default;
  constexpr Strong operator+(u64 n) const { return Strong(value + n); }
  constexpr Strong operator-(u64 n) const { return Strong(value - n); }
  constexpr u64 operator-(Strong other) const { return value - other.value; }
  constexpr Strong& operator+=(u64 n) { value += n; return *this; }
  constexpr Strong& operator-=(u64 n) { value -= n; return *this; }
  constexpr Strong& operator++() { ++value; return *this; }
};

using BlockNo = Strong<struct BlockNoTag>;        // block of the pool, counted from its start; 0 is never data
using FileBlock = Strong<struct FileBlockTag>;    // block of a file, counted from its start
using InodeNo = Strong<struct InodeNoTag>;        // 0 is "none"
using Lsn = Strong<struct LsnTag>;                // byte position in the endless journal
using PoolOffset = Strong<struct PoolOffsetTag>;  // bytes from the start of the pool

constexpr PoolOffset block_offset(BlockNo b) { return PoolOffset(b.value << kBlockShift); }
constexpr BlockNo offset_block(PoolOffset o) { return BlockNo(o.value >> kBlockShift); }

constexpr u64 round_down(u64 v, u64 unit) { return v - v % unit; }
constexpr u64 round_up(u64 v, u64 unit) { return round_down(v + unit - 1, unit); }
constexpr u64 blocks_for(u64 bytes) { return (bytes >> kBlockShift) + ((bytes & kBlockMask) != 0 ? 1 : 0); }

// A half-open byte range [begin, end). kMaxOffset as end means "to the end of whatever grows".
inline constexpr u64 kMaxOffset = ~u64{0};
struct ByteRange {
  u64 begin = 0;
  u64 end = 0;

  constexpr bool empty() const { return begin >= end; }
  constexpr u64 length() const { return empty() ? 0 : end - begin; }
  constexpr bool overlaps(const ByteRange& o) const { return begin < o.end && o.begin < end; }
  constexpr bool contains(const ByteRange& o) const { return begin <= o.begin && o.end <= end; }
  constexpr auto operator<=>(const ByteRange&) const = default;
};
constexpr ByteRange intersect(const ByteRange& a, const ByteRange& b) {
  ByteRange r{a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
  return r.empty() ? ByteRange{} : r;
}
// Widens to whole blocks; an end of kMaxOffset stays.
constexpr ByteRange block_aligned(const ByteRange& r) {
  return {round_down(r.begin, kBlockSize), r.end > kMaxOffset - kBlockSize ? kMaxOffset : round_up(r.end, kBlockSize)};
}

}  // namespace pindax

template <class Tag>
struct std::hash<pindax::Strong<Tag>> {
  std::size_t operator()(const pindax::Strong<Tag>& v) const noexcept { return std::hash<pindax::u64>()(v.value); }
};
