// SPDX-License-Identifier: BSD-3-Clause
//
// Going to the background: the parent waits until the child says that the mount is usable, or why not.
#pragma once

#include <string_view>

#include "base/unique_fd.h"

namespace pindax {

class Readiness {
 public:
  // Forks. Returns in the child; the parent waits, prints the child's message, and exits with 0 or 4. Call it
  // before any thread exists.
  static Readiness go_to_background();
  // In the foreground: reports go nowhere.
  Readiness() = default;

  // The pool is served: standard streams are let go and the parent ends with 0. Once.
  void succeeded();
  // The parent prints the line and ends with 4. False if there is no parent to tell.
  bool failed(std::string_view line);

 private:
  UniqueFd pipe_;
};

}  // namespace pindax
