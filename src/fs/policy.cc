// SPDX-License-Identifier: BSD-3-Clause
#include "fs/policy.h"

#include <array>
#include <charconv>

namespace pindax {
namespace {

using format::BusyPolicy;

constexpr double kMaxSeconds = 1'000'000;

struct Word {
  std::string_view text;
  BusyPolicy policy;
};
constexpr std::array<Word, 4> kWords{{{"wait", BusyPolicy::kWait},
                                      {"refuse", BusyPolicy::kRefuse},
                                      {"quarantine", BusyPolicy::kQuarantine},
                                      {"evict", BusyPolicy::kEvict}}};

}  // namespace

Result<PolicyWords> parse_policy_words(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view word = text.substr(0, equals);
  for (const Word& w : kWords) {
    if (w.text != word) continue;
    PolicyWords found{w.policy, std::nullopt};
    if (equals == text.npos) return found;
    std::string_view number = text.substr(equals + 1);
    double seconds = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), seconds);
    const std::string_view unit = number.substr(static_cast<std::size_t>(end - number.data()));
    const double factor = unit.empty() || unit == "s" ? 1 : unit == "ms" ? 1e-3 : unit == "m" || unit == "min" ? 60 : 0;
    seconds *= factor;
    if (error != std::errc() || factor == 0 || !(seconds >= 0) || seconds > kMaxSeconds)
      return Status(Errc::kInvalid, "a policy's deadline is a time like 5, 0.5 or 200ms");
    found.deadline = std::chrono::milliseconds(static_cast<i64>(seconds * 1000));
    if (found.policy == BusyPolicy::kWait) found.policy = BusyPolicy::kRefuse;
    return found;
  }
  return Status(Errc::kInvalid, "a policy is wait, refuse, quarantine or evict, with =TIME");
}

Status parse_policy(std::string_view text, format::Inode& slot) {
  PINDAX_ASSIGN(const PolicyWords words, parse_policy_words(text));
  slot.busy_policy = static_cast<u16>(words.policy);
  slot.busy_deadline_ms = words.deadline ? static_cast<u32>(words.deadline->count()) : 0;
  return {};
}

Result<std::string> print_policy(const format::Inode& slot) {
  for (const Word& w : kWords) {
    if (static_cast<u16>(w.policy) != slot.busy_policy) continue;
    std::string out(w.text);
    if (slot.busy_deadline_ms == 0) return out;
    const u32 ms = slot.busy_deadline_ms;
    out += "=" + std::to_string(ms / 1000);
    if (ms % 1000 != 0) out += "." + std::to_string(1000 + ms % 1000).substr(1);
    return out;
  }
  return Errc::kNoData;
}

}  // namespace pindax
