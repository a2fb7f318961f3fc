// SPDX-License-Identifier: BSD-3-Clause
//
// A file's busy policy as text.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "format/format.h"

namespace pindax {

inline constexpr std::string_view kPolicyXattr = "user.pindax.on_busy";

// "wait", "refuse", "quarantine", "evict", with "=SECONDS" (decimals allowed) after which it applies; "wait=5" is "refuse=5".
// kInvalid names what is wrong. On error the slot is as before.
Status parse_policy(std::string_view text, format::Inode& slot);
// kNoData if the file has none of its own.
Result<std::string> print_policy(const format::Inode& slot);

}  // namespace pindax
