// SPDX-License-Identifier: BSD-3-Clause
//
// A file's busy policy as text.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "format/format.h"

namespace pindax {

inline constexpr std::string_view kPolicyXattr = "user.pindax.on_busy";

struct PolicyWords {
  format::BusyPolicy policy = format::BusyPolicy::kInherit;
  std::optional<std::chrono::milliseconds> deadline;
};
// "wait", "refuse", "quarantine", "evict", with "=TIME" after which it applies: 5, 0.5, 200ms, 5s, 2m; "wait=5" is "refuse=5".
// Mount option on_busy= and the attribute. kInvalid names what is wrong.
Result<PolicyWords> parse_policy_words(std::string_view text);
// The same into an inode. On error the slot is as before.
Status parse_policy(std::string_view text, format::Inode& slot);
// kNoData if the file has none of its own.
Result<std::string> print_policy(const format::Inode& slot);

}  // namespace pindax
