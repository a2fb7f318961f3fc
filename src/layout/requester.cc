// SPDX-License-Identifier: BSD-3-Clause
#include "base/proc.h"
#include "layout/layout.h"

namespace pindax {

void Requester::identify() {
  if (pid != 0 || tid == 0) return;
  pid = process_of(tid);
  command = command_of(tid);
}

}  // namespace pindax
