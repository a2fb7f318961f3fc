// SPDX-License-Identifier: BSD-3-Clause
#include "client/leases.h"

#include <pthread.h>

#include "client/client.h"
#include "client/mapping.h"
#include "client/slots.h"

namespace pindax::client {

void Leases::start() {
  if (client_.options.lease_recall != nullptr) thread_ = std::thread([this] { run(); });
}

void Leases::stop() {
  ending_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Leases::recalled(u32 slot, u32 deadline_ms) {
  const u32 at = tail_.load(std::memory_order_relaxed);
  if (at - head_.load(std::memory_order_acquire) >= kRing) return;
  ring_[at % kRing].slot.store(slot, std::memory_order_relaxed);
  ring_[at % kRing].deadline_ms.store(deadline_ms, std::memory_order_relaxed);
  tail_.store(at + 1, std::memory_order_release);
  wake_.fetch_add(1);
  wake_.notify_one();
}

void Leases::run() {
  ::pthread_setname_np(::pthread_self(), "pindax-leases");
  for (;;) {
    const u32 seen = wake_.load();
    if (ending_.load()) return;
    const u32 at = head_.load(std::memory_order_relaxed);
    if (at == tail_.load(std::memory_order_acquire)) {
      wake_.wait(seen);
      continue;
    }
    const u32 slot = ring_[at % kRing].slot.load(std::memory_order_relaxed);
    const u32 deadline = ring_[at % kRing].deadline_ms.load(std::memory_order_relaxed);
    head_.store(at + 1, std::memory_order_release);
    if (slot < proto::kMaxSlots) ask(slot, deadline);
  }
}

void Leases::ask(u32 slot, u32 deadline_ms) {
  const proto::Slot& s = client_.slot_pool->slot(slot);
  const u64 state = s.state.load() & ~proto::kSlotAwaited;
  if ((state & proto::kSlotStateMask) != static_cast<u64>(proto::SlotState::kActive)) return;  // ended meanwhile
  u64& asked = asked_[slot];
  if (asked == state) return;
  const u32 id = s.mapping.load();
  const u64 begin = s.begin.load(), end = s.end.load();
  if ((s.state.load() & ~proto::kSlotAwaited) != state) return;  // another pin by now
  pindax_mapping* m = nullptr;
  {
    MutexLock lock(client_.mappings_mutex);
    m = client_.mapping_by_id(id);
    // R7: the lease of an unmapped mapping must be ended like any other.
    for (pindax_mapping* u : client_.unmapped)
      if (m == nullptr && u->id == id) m = u;
  }
  if (m == nullptr || begin < m->file_offset || end <= begin) return;
  asked = state;
  client_.options.lease_recall(m, begin - m->file_offset, end - begin, deadline_ms, client_.options.lease_context);
}

}  // namespace pindax::client
