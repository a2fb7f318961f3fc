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

Status parse_policy(std::string_view text, format::Inode& slot) {
  const std::size_t equals = text.find('=');
  const std::string_view word = text.substr(0, equals);
  for (const Word& w : kWords) {
    if (w.text != word) continue;
    BusyPolicy policy = w.policy;
    u32 deadline_ms = 0;
    if (equals != text.npos) {
      const std::string_view number = text.substr(equals + 1);
      double seconds = 0;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), seconds);
      if (error != std::errc() || end != number.data() + number.size() || !(seconds >= 0) || seconds > kMaxSeconds) {
        return Status(Errc::kInvalid, "a policy's deadline is a number of seconds");
      }
      deadline_ms = static_cast<u32>(seconds * 1000);
      if (policy == BusyPolicy::kWait) policy = BusyPolicy::kRefuse;
    }
    slot.busy_policy = static_cast<u16>(policy);
    slot.busy_deadline_ms = deadline_ms;
    return {};
  }
  return Status(Errc::kInvalid, "a policy is wait, refuse, quarantine or evict, with =SECONDS");
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
