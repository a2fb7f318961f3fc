// SPDX-License-Identifier: BSD-3-Clause
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace pindax {

void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "pindax: assertion failed: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace pindax
