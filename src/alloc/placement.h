// SPDX-License-Identifier: BSD-3-Clause
//
// Where in a group a request is served. The policy, and nothing else: it takes nothing out of the free space.
//
//  1. Metadata comes from the group's end, data from its front, so that nodes do not cut up long free extents.
//  2. A file grows right behind its last block if that is free.
//  3. Behind each run of data that grew, a window of free blocks stays reserved for the next growth of the same file:
//     parallel appenders do not interleave. Windows are hints in memory, kWindows of them; the oldest goes first, and
//     all go before a request fails.
//  4. Small data without a place packs from the worker's cursor on; large data takes the best fit.
//  5. Huge requests start at a 2 MiB boundary of the pool.
//
// Not thread-safe: the group's mutex guards it.
#pragma once

#include <array>
#include <optional>

#include "alloc/free_space.h"

namespace pindax {

struct Want {
  u64 wanted = 1;
  u64 minimum = 1;
  u64 near = 0;    // a block of this group, or 0
  u64 cursor = 0;  // where small data without `near` packs; a block of this group, or 0
  bool huge = false;
  bool metadata = false;
};

class Placement {
 public:
  enum class Effort {
    kWhole,    // all that is wanted, aligned if huge
    kAligned,  // huge: an aligned part of it
    kAnyPlace, // all that is wanted, wherever
    kAny,      // whatever reaches the minimum; windows do not count
  };
  // A part of one free extent that serves the request, or nothing.
  std::optional<Span> choose(const FreeSpace& space, const Want& want, Effort effort);
  // The chosen span was taken: moves the file's window behind it.
  void taken(const FreeSpace& space, const Want& want, Span s);

  static constexpr u64 kSmall = 16;         // blocks; requests up to here pack
  static constexpr u64 kWindowMin = 256;    // blocks
  static constexpr u64 kWindowMax = 8192;   // blocks
  static constexpr u64 kHugeBlocks = kHugePageSize / kBlockSize;

 private:
  static constexpr unsigned kWindows = 32;
  static constexpr unsigned kTries = 48;  // candidates looked at before falling back

  // The first part of `e` that no foreign window covers and that has `length` blocks from `from` on; nothing if none.
  std::optional<Span> clear_part(Span e, u64 from, u64 length, u64 own) const;
  std::optional<Span> right_there(const FreeSpace& space, const Want& want) const;
  std::optional<Span> aligned(const FreeSpace& space, u64 length) const;
  std::optional<Span> best_fit(const FreeSpace& space, u64 length, u64 room) const;
  std::optional<Span> from_end(const FreeSpace& space, const Want& want, bool whole) const;

  std::array<Span, kWindows> windows_{};
  unsigned next_window_ = 0;
};

}  // namespace pindax
