// SPDX-License-Identifier: BSD-3-Clause
#include "client/slots.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <new>

namespace pindax::client {

constinit thread_local CachedSlots cached_slots;

namespace {

std::atomic<u64> next_serial{1};

thread_local std::vector<CachedSlots>* all = nullptr;

// Pools that live, by serial: an ending thread may know pools that are gone.
struct Registry {
  Mutex mutex{LockRank::kClient};
  std::map<u64, SlotPool*> pools GUARDED_BY(mutex);
};
Registry& registry() {
  static auto* r = new Registry();  // threads may end after static destructors ran
  return *r;
}

// At the end of a thread its slots and states go back to the pools.
void end_of_thread(void*) {
  if (all == nullptr) return;
  {
    MutexLock lock(registry().mutex);
    for (const CachedSlots& known : *all)
      if (auto it = registry().pools.find(known.serial); it != registry().pools.end()) it->second->retire(*known.state);
  }
  delete all;
  all = nullptr;
  cached_slots = {};
}

// Sees to it that end_of_thread() runs. A thread-local object would do, but one whose making finds no memory ends the process.
bool watch_thread() {
  static pthread_key_t key;
  static const bool made = ::pthread_key_create(&key, end_of_thread) == 0;
  return made && ::pthread_setspecific(key, &cached_slots) == 0;
}

}  // namespace

SlotPool::SlotPool(std::byte* area) : area_(area), serial_(next_serial.fetch_add(1)) {
  auto* header = reinterpret_cast<proto::SlotHeader*>(area);
  header->version.store(proto::kSharedVersion);
  header->high_water.store(0);
  header->magic.store(proto::kSlotMagic);
  MutexLock lock(registry().mutex);
  registry().pools.emplace(serial_, this);
}

bool SlotPool::names(u32 mapping) const {
  const u32 end = reinterpret_cast<const proto::SlotHeader*>(area_)->high_water.load(std::memory_order_acquire);
  for (u32 i = 0; i < end; ++i) {
    const proto::Slot& s = slot(i);
    const u64 state = s.state.load(std::memory_order_acquire) & proto::kSlotStateMask;
    if (state != static_cast<u64>(proto::SlotState::kFree) && s.mapping.load(std::memory_order_relaxed) == mapping) return true;
  }
  return false;
}

SlotPool::~SlotPool() {
  MutexLock lock(registry().mutex);
  registry().pools.erase(serial_);
}

ThreadSlots* SlotPool::make_mine() {
  if (!watch_thread()) return nullptr;
  if (all == nullptr) all = new (std::nothrow) std::vector<CachedSlots>();
  if (all == nullptr) return nullptr;
  for (const CachedSlots& known : *all) {
    if (known.serial != serial_) continue;
    cached_slots = known;
    return known.state;
  }
  try {
    return enrol();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// Throws std::bad_alloc with nothing done.
ThreadSlots* SlotPool::enrol() {
  all->reserve(all->size() + 1);
  MutexLock lock(mutex_);
  retired_.reserve(threads_.size() + 1);  // so that retire() finds room
  ThreadSlots* state = nullptr;
  for (ThreadSlots*& candidate : retired_) {
    if (candidate->holds_pins()) continue;  // others still end pins of the thread that had it
    state = candidate;
    candidate = retired_.back();
    retired_.pop_back();
    break;
  }
  if (state == nullptr) state = threads_.emplace_back(std::make_unique<ThreadSlots>()).get();
  state->thread = static_cast<u32>(::gettid());
  cached_slots = {serial_, state};
  all->push_back(cached_slots);
  return state;
}

void SlotPool::retire(ThreadSlots& thread) {
  MutexLock lock(mutex_);
  while (thread.free_count != 0) free_.push_back(thread.free[--thread.free_count]);
  retired_.push_back(&thread);
}

u32 SlotPool::take_shared() {
  MutexLock lock(mutex_);
  if (!free_.empty()) {
    const u32 index = free_.back();
    free_.pop_back();
    return index;
  }
  if (high_water_ == proto::kMaxSlots) return proto::kMaxSlots;
  if (free_.capacity() <= high_water_) {  // room for every slot there is: giving one back must not fail
    try {
      free_.reserve(std::max<std::size_t>(64, 2 * high_water_));
    } catch (const std::bad_alloc&) {
      return proto::kMaxSlots;
    }
  }
  const u32 index = high_water_++;
  reinterpret_cast<proto::SlotHeader*>(area_)->high_water.store(high_water_, std::memory_order_seq_cst);
  return index;
}

void SlotPool::give_shared(u32 index) {
  MutexLock lock(mutex_);
  free_.push_back(index);
}

}  // namespace pindax::client
