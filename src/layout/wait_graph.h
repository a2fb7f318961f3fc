// SPDX-License-Identifier: BSD-3-Clause
//
// The waits-for graph (A6): who sleeps, and for whom, under one mutex.
//
//   thread  ->  the change or pin request that it made
//   change  ->  the threads that hold the pins it met
//   pin     ->  the changes it queues behind
//   kernel  ->  the SETATTR that sleeps: it has stopped the inode's write-back (C6)
//   change  ->  the kernel, whose dirty pages of the range it has asked for
//
// Every wait needs *all* of its targets to end, so a cycle is a deadlock, and the one that closes it gets kDeadlock. The
// thread that truncates while it holds the pin itself is the cycle of length one (R37). Threads are (process, thread) as
// the daemon learnt them from the kernel for operations; for pins the process is the session's and the thread is what the
// slot says, so a liar can only make his own process's operations fail.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"

namespace pindax {

class WaitGraph {
 public:
  using Node = u64;  // of an operation; 0 is none
  struct Thread {
    u32 pid = 0;
    u32 tid = 0;  // 0: unknown, part of no cycle
    auto operator<=>(const Thread&) const = default;
  };

  Node new_node() { return last_.fetch_add(1, std::memory_order_relaxed) + 1; }

  // Who holds a pin, and whether he still does: a holder may end his pin and ask for the next one before the bell of the
  // first is heard, and an edge that is over closes no cycle. Asked under the graph's mutex: takes no lock. Null: he does.
  struct Holder {
    Thread thread;
    std::function<bool()> lasts = nullptr;
  };

  // `node`, asked for by `owner`, sleeps until all of these end. False: that would close a cycle, nothing is recorded.
  [[nodiscard]] bool sleep(Node node, Thread owner, std::vector<Holder> holders, std::vector<Node> nodes) EXCLUDES(mutex_);
  // `node` sleeps no more.
  void wake(Node node) EXCLUDES(mutex_);
  // For nodes that are no operation (the kernel's write-back of an inode): edges that come and go one by one.
  void add(Node from, Node to) EXCLUDES(mutex_);
  void remove(Node from, Node to) EXCLUDES(mutex_);

 private:
  struct Sleeper {
    Thread owner;
    std::vector<Holder> holders;
    std::vector<Node> nodes;
  };
  bool reaches(const Sleeper& from, Node target, Thread target_owner) const REQUIRES(mutex_);

  std::atomic<Node> last_{0};
  Mutex mutex_{LockRank::kWaitGraph};
  std::unordered_map<Node, Sleeper> sleepers_ GUARDED_BY(mutex_);
  std::multimap<Thread, Node> by_owner_ GUARDED_BY(mutex_);
};

}  // namespace pindax
