// SPDX-License-Identifier: BSD-3-Clause
//
// fork. The child has no mappings (MADV_DONTFORK) and none of our threads: a new generation makes every call of it fail cleanly.
// Its copies of our descriptors are closed at once: a copy of the pool would hold the parent's witness byte for as long as
// the child lives, and blocks of a dead parent would rest in quarantine as long.
#include <pthread.h>

#include <new>

#include "client/client.h"
#include "client/signals.h"

namespace pindax::client {

std::atomic<u32> fork_generation{1};

namespace {

// Held over the fork itself, so that the child finds the list whole. Outermost: nothing else is held when it is taken.
Mutex list_mutex{LockRank::kDaemon};
pindax_client* list GUARDED_BY(list_mutex) = nullptr;

void before_fork() NO_THREAD_SAFETY_ANALYSIS {
  list_mutex.lock();
  signals_before_fork();
}
void in_parent() NO_THREAD_SAFETY_ANALYSIS {
  signals_after_fork(false);
  list_mutex.unlock();
}
void in_child() NO_THREAD_SAFETY_ANALYSIS {
  fork_generation.fetch_add(1);
  for (pindax_client* c = list; c != nullptr; c = c->next_in_fork_list) c->close_descriptors();
  list = nullptr;
  signals_after_fork(true);
  list_mutex.unlock();
}

}  // namespace

void install_fork_handler() {
  static bool installed = false;
  const MutexLock lock(list_mutex);  // no handler of ours takes it before there is one
  if (!installed && ::pthread_atfork(before_fork, in_parent, in_child) != 0) throw std::bad_alloc();
  installed = true;
}

void fork_list_add(pindax_client& c) {
  MutexLock lock(list_mutex);
  c.next_in_fork_list = list;
  list = &c;
}

void fork_list_remove(pindax_client& c) {
  MutexLock lock(list_mutex);
  for (pindax_client** p = &list; *p != nullptr; p = &(*p)->next_in_fork_list) {
    if (*p != &c) continue;
    *p = c.next_in_fork_list;
    return;
  }
}

}  // namespace pindax::client

void pindax_client::close_descriptors() {
  for (pindax::UniqueFd* fd : {&socket, &pool, &slot_memory, &gate_memory, &doorbell, &stop, &passed_device}) fd->reset();
  uffd.close();
}
