// SPDX-License-Identifier: BSD-3-Clause
//
// Assertions catch programmers' errors and stay on in release builds. Bytes from
// media or from a client are never asserted on: they are checked and give an error.
#pragma once

namespace pindax {
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);
}

#define PINDAX_ASSERT(cond) \
  (static_cast<bool>(cond) ? void(0) : ::pindax::assert_failed(#cond, __FILE__, __LINE__))
