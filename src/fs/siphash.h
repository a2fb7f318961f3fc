// SPDX-License-Identifier: BSD-3-Clause
//
// SipHash-2-4 (Aumasson and Bernstein, 2012): names chosen by a stranger collide no more often than random ones.
#pragma once

#include <string_view>

#include "base/types.h"

namespace pindax {

// Keyed by the 16 bytes at `key`. Reentrant.
u64 siphash24(const u8* key, std::string_view data);

}  // namespace pindax
