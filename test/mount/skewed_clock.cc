// SPDX-License-Identifier: BSD-3-Clause
//
// Preloaded into the daemon and into clients: CLOCK_REALTIME and whatever is made from it jumps by up to a year, either way,
// at every look. Monotonic clocks stay as they are.
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

#include <atomic>

namespace {

long skew() {
  static std::atomic<unsigned long> state{88172645463325252UL};
  unsigned long x = state.load();
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  state.store(x);
  constexpr long kYear = 365L * 24 * 3600;
  return static_cast<long>(x % (2 * kYear)) - kYear;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, struct timespec* t) noexcept {
  static auto* real = reinterpret_cast<decltype(&clock_gettime)>(::dlsym(RTLD_NEXT, "clock_gettime"));
  const int result = real(clock, t);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += skew();
  return result;
}

int gettimeofday(struct timeval* __restrict t, void* __restrict) noexcept {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* t) noexcept {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t != nullptr) *t = now.tv_sec;
  return now.tv_sec;
}
}
