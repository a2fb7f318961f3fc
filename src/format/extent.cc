// SPDX-License-Identifier: BSD-3-Clause
//
// Extents between their packed form on media and ExtentInfo.
#include "format/decode.h"

namespace pindax::format {

u32 pack_extent_flags(const ExtentInfo& e) {
  return e.epoch << kExtentFlagBits | (e.shared ? kExtentShared : 0) | static_cast<u32>(e.state);
}

ExtentInfo unpack_extent(const Extent& e) {
  return unpack_extent(FileBlock(e.file_block), ExtentValue{e.block, e.length_blocks, e.flags_epoch});
}

ExtentInfo unpack_extent(FileBlock file_block, const ExtentValue& v) {
  const u32 flags = v.flags_epoch;
  return {.file_block = file_block,
          .block = BlockNo(v.block),
          .length = v.length_blocks,
          .state = static_cast<ExtentState>(flags & kExtentStateMask),
          .shared = (flags & kExtentShared) != 0,
          .epoch = flags >> kExtentFlagBits};
}

Extent pack_extent(const ExtentInfo& e) {
  return {e.file_block.value, e.block.value, e.length, pack_extent_flags(e)};
}

ExtentValue pack_extent_value(const ExtentInfo& e) { return {e.block.value, e.length, pack_extent_flags(e)}; }

}  // namespace pindax::format
