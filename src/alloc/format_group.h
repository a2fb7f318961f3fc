// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "format/decode.h"
#include "pmem/media.h"

namespace pindax {

// Writes the header and the bitmaps of one empty AG, and adds what is free in it to `free_blocks`. Durable after
// Media::drain(), at page granularity after Media::sync_all().
Status format_group(Media& media, const format::Geometry& geometry, u32 ag, u64& free_blocks);

}  // namespace pindax
