// SPDX-License-Identifier: BSD-3-Clause
//
// Takes the place of two functions of the C library in this program, so that a state comes out the same when it is replayed:
// the wall clock stands still and random bytes come from a counter.
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "crash_model.h"

extern "C" int clock_gettime(clockid_t clock, struct timespec* out) noexcept {
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
    return static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
  out->tv_sec = 1'700'000'000;
  out->tv_nsec = 123'456'789;
  return 0;
}

extern "C" ssize_t getrandom(void* buffer, size_t length, unsigned) {
  static std::atomic<pindax::u64> counter{0};
  auto* out = static_cast<unsigned char*>(buffer);
  for (size_t i = 0; i < length; ++i)
    out[i] = static_cast<unsigned char>(pindax::crash::mix(0x5eed, counter.fetch_add(1)));
  return static_cast<ssize_t>(length);
}
