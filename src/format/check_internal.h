// SPDX-License-Identifier: BSD-3-Clause
//
// Private to the room: how a failed check is worded.
#pragma once

#include <cstddef>

#include "base/crc32c.h"
#include "base/result.h"
#include "base/types.h"

namespace pindax::format {

// kCorrupt: "<what> at block <place>: <why>".
Status corrupt(const char* what, u64 place, const char* why);

// The checksum of a struct whose crc is its last field.
template <class T>
u32 tail_crc(const T& object) {
  return crc32c(&object, offsetof(T, crc));
}
// The checksum over a whole block whose le32 at `crc_offset` counts as zero.
u32 block_crc(const std::byte* block, u32 crc_offset);

}  // namespace pindax::format
