// SPDX-License-Identifier: BSD-3-Clause
#include "base/interrupt.h"

#include <pthread.h>
#include <signal.h>

namespace pindax {

void allow_interrupts() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // no SA_RESTART
    return ::sigaction(SIGURG, &action, nullptr) == 0;
  }();
  (void)installed;
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGURG);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void interrupt(std::thread& thread) { ::pthread_kill(thread.native_handle(), SIGURG); }

}  // namespace pindax
