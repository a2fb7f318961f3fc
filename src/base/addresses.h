// SPDX-License-Identifier: BSD-3-Clause
//
// Addresses for mappings that are placed with MAP_FIXED: where no other thread of the process maps anything.
#pragma once

#include <sys/mman.h>

#include "base/types.h"

namespace pindax {

// `length` bytes (a multiple of a page) that cannot be touched, at an address that is `residue` more than a multiple of 2 MiB, so that
// large pages can be used where the bytes behind it are as well. 0: errno says why.
inline u64 reserve_addresses(u64 length, u64 residue = 0) {
  const u64 room = length + kHugePageSize;
  void* const area = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return 0;
  const u64 start = reinterpret_cast<u64>(area), end = start + room;
  const u64 at = start + (residue % kHugePageSize + kHugePageSize - start % kHugePageSize) % kHugePageSize;
  if (at > start) ::munmap(area, at - start);
  if (at + length < end) ::munmap(reinterpret_cast<void*>(at + length), end - at - length);
  return at;
}

}  // namespace pindax
