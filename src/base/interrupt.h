// SPDX-License-Identifier: BSD-3-Clause
//
// Ending a system call of another thread early: it returns EINTR. A signal that comes just before the call is lost, so who
// wants a thread to stop repeats it until the thread has noticed.
#pragma once

#include <thread>

namespace pindax {

// Prepares the calling thread. Others are not disturbed: SIGURG, which nobody else uses here, is ignored by default.
void allow_interrupts();
// The thread must have called allow_interrupts() and not be joined.
void interrupt(std::thread& thread);

}  // namespace pindax
