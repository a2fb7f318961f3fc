// SPDX-License-Identifier: BSD-3-Clause
//
// Slots of the shared slot area, and what each thread knows about itself: its free slots and its episode (A2).
//
// A slot index belongs to exactly one of: a thread's short list of free slots, the client's list, a pin. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "proto/shared.h"

namespace pindax::client {

// One thread's state with one client. Made at the thread's first pin, kept by the pool until the client ends, because a
// pin may be ended by another thread. Counters: owner-only but for `foreign_unpins`.
struct ThreadSlots {
  static constexpr unsigned kKept = 16;
  u32 thread = 0;
  u32 episode = 0;
  u64 age = 0;
  u64 pins = 0, own_unpins = 0;
  std::atomic<u64> foreign_unpins{0};
  u32 free[kKept];
  unsigned free_count = 0;

  bool holds_pins() const { return pins - own_unpins != foreign_unpins.load(std::memory_order_relaxed); }
};

// The last pool this thread used; a thread that alternates between clients looks its state up elsewhere. The library is loaded
// for good, and two words fit into what the loader keeps for late libraries: no call to find them.
struct CachedSlots {
  u64 serial = 0;
  ThreadSlots* state = nullptr;
};
[[gnu::tls_model("initial-exec")]] extern constinit thread_local CachedSlots cached_slots;

class SlotPool {
 public:
  // `area`: the mapped slot area, its header filled here.
  explicit SlotPool(std::byte* area);
  ~SlotPool();

  proto::Slot& slot(u32 index) const {
    return *reinterpret_cast<proto::Slot*>(area_ + proto::kSlotOffset + u64{index} * sizeof(proto::Slot));
  }
  // This thread's state; null when memory is short.
  ThreadSlots* mine() {
    if (cached_slots.serial == serial_) [[likely]] return cached_slots.state;
    return make_mine();
  }
  // A free slot for this thread, or kMaxSlots if there is none left or no memory to keep the books.
  u32 take(ThreadSlots& thread) {
    if (thread.free_count != 0) [[likely]] return thread.free[--thread.free_count];
    return take_shared();
  }
  void give(ThreadSlots& thread, u32 index) {
    if (thread.free_count < ThreadSlots::kKept) [[likely]] thread.free[thread.free_count++] = index;
    else give_shared(index);
  }
  void give_shared(u32 index) EXCLUDES(mutex_);
  // Whether a pin through `mapping` is held, or under way.
  bool names(u32 mapping) const;
  // A thread has ended: its free slots and its state go to others.
  void retire(ThreadSlots& thread) EXCLUDES(mutex_);

 private:
  u32 take_shared() EXCLUDES(mutex_);
  ThreadSlots* make_mine() EXCLUDES(mutex_);
  ThreadSlots* enrol() EXCLUDES(mutex_);

  std::byte* area_;
  const u64 serial_;  // tells pools apart that live at the same address one after the other
  Mutex mutex_{LockRank::kLeaf};
  std::vector<u32> free_ GUARDED_BY(mutex_);
  u32 high_water_ GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<ThreadSlots>> threads_ GUARDED_BY(mutex_);
  std::vector<ThreadSlots*> retired_ GUARDED_BY(mutex_);
};

}  // namespace pindax::client
