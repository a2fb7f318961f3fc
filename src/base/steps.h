// SPDX-License-Identifier: BSD-3-Clause
//
// Named step points. A test arms a point and the thread that reaches it calls the
// hook (to wait for another thread, to kill the process, to fail). Points cost one
// relaxed load when nothing is armed and nothing at all with -Dsteps=false.
//
// In daemons and in the client library the environment arms points: PINDAX_STEPS="name=action[:arg][,…]" with
// actions kill (SIGKILL oneself), stop (SIGSTOP oneself), sleep:MS, wait:PATH (until PATH
// exists; creates PATH.reached on arrival). A name may end in @N: only the Nth arrival acts.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

namespace pindax::steps {

extern std::atomic<unsigned> armed_count;

void reached(const char* name);  // slow path
// Arms `name` in this process; the hook runs on the thread that arrives, without step-point locks held.
void arm(std::string name, std::function<void()> hook);
void disarm(std::string_view name);
void disarm_all();
// Arms what PINDAX_STEPS says. Returns an empty string, or what is wrong with it.
std::string arm_from_environment();

}  // namespace pindax::steps

#if defined(PINDAX_STEPS)
#define PINDAX_STEP(name)                                                          \
  do {                                                                             \
    if (::pindax::steps::armed_count.load(std::memory_order_relaxed) != 0) [[unlikely]] \
      ::pindax::steps::reached(name);                                              \
  } while (0)
#else
#define PINDAX_STEP(name) do { } while (0)
#endif
