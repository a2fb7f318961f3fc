// SPDX-License-Identifier: BSD-3-Clause
//
// Commands that the testers run, and accesses to memory that may fault.
#pragma once

#include <setjmp.h>

#include <string>
#include <vector>

#include "base/types.h"

namespace pindax::stress {

struct Finished {
  int code = -1;       // exit code, or 128 + signal
  std::string output;  // standard output and standard error
};
// Runs a command to its end; kills it after `seconds` (code 137).
Finished run_command(const std::vector<std::string>& words, unsigned seconds = 60);

// The folder of this program.
std::string own_folder();
u64 now_ms();  // monotonic
void sleep_ms(u64 milliseconds);

// SIGBUS and SIGSEGV within `access` end it; 0, or the signal's number. One thread a process.
void install_fault_handlers();
extern sigjmp_buf fault_jump;
extern volatile int fault_guarded;
template <class Access>
int guarded_access(Access access) {
  const int signal = sigsetjmp(fault_jump, 1);
  if (signal != 0) {
    fault_guarded = 0;
    return signal;
  }
  fault_guarded = 1;
  asm volatile("" ::: "memory");  // the access stays between the two
  access();
  asm volatile("" ::: "memory");
  fault_guarded = 0;
  return 0;
}

}  // namespace pindax::stress
