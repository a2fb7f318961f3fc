// SPDX-License-Identifier: BSD-3-Clause
#include <pthread.h>

#include <mutex>

#include "client/client.h"

namespace pindax::client {

std::atomic<u32> fork_generation{1};

// The child has no mappings (MADV_DONTFORK) and none of our threads: a new generation makes every call of it fail cleanly. It keeps copies
// of our descriptors until it closes them or execs (all are close-on-exec).
void install_fork_handler() {
  static std::once_flag once;
  std::call_once(once, [] { ::pthread_atfork(nullptr, nullptr, [] { fork_generation.fetch_add(1); }); });
}

}  // namespace pindax::client
