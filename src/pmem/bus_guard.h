// SPDX-License-Identifier: BSD-3-Clause
//
// The SIGBUS guard: runs a copy into or out of mapped bytes and turns the signal that a lost page raises into an error.
// A SIGBUS anywhere else goes to whoever handled it before. Thread-safe; guards do not nest.
#pragma once

#include <csetjmp>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace pindax {

enum class BusFault { kNone, kLost, kPoisoned };

namespace bus_guard {

struct Guard {
  sigjmp_buf jump;
  const std::byte* begin;
  const std::byte* end;
  BusFault fault;
};

// The handler runs with SIGBUS unblocked (SA_NODEFER), so there is no mask to restore; only the thread sanitizer calls handlers with
// every signal blocked.
#if defined(__SANITIZE_THREAD__)
inline constexpr int kSavesMask = 1;
#else
inline constexpr int kSavesMask = 0;
#endif

// Installs the handler of the process, once.
void install();
void enter(Guard* guard);
void leave();

}  // namespace bus_guard

// Runs `copy`, which touches [at, at + length) and owns nothing that a jump out of it would leak.
template <class F>
BusFault guarded(const std::byte* at, u64 length, F copy) {
  bus_guard::Guard guard;
  guard.begin = at;
  guard.end = at + length;
  guard.fault = BusFault::kNone;
  if (sigsetjmp(guard.jump, bus_guard::kSavesMask) == 0) {
    bus_guard::enter(&guard);
    copy();
  }
  bus_guard::leave();
  return guard.fault;
}

// Appends mapped bytes of the pool: kPoisoned or kIo instead of a signal, and nothing appended.
Status append_guarded(std::vector<std::byte>& out, std::span<const std::byte> bytes);

}  // namespace pindax
