// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>

#include "base/types.h"

namespace pindax {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of [data, data + length) continued from seed; the seed of a fresh sum is 0.
// crc32c(b, crc32c(a)) equals crc32c(a ++ b). Reentrant.
u32 crc32c(const void* data, std::size_t length, u32 seed = 0);

}  // namespace pindax
