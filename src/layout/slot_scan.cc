// SPDX-License-Identifier: BSD-3-Clause
#include "layout/slot_scan.h"

#include "base/steps.h"

namespace pindax {
namespace {

// Rereads of one slot. A thread that pins and unpins something else in a tight loop changes its slot every few
// nanoseconds; that a reread of eight words meets a change every time is rare, a thousand times in a row means malice.
constexpr int kRereads = 1000;

}  // namespace

std::optional<SeenPin> read_slot(proto::Slot* slots, u32 index) {
  proto::Slot& slot = slots[index];
  for (int i = 0; i < kRereads; ++i) {
    // Sequentially consistent: pairs with the client's exchange (P2), after the gate's full fence (G3).
    const u64 state = slot.state.load(std::memory_order_seq_cst);
    if ((state & proto::kSlotStateMask) != static_cast<u64>(proto::SlotState::kActive)) return std::nullopt;
    SeenPin pin;
    pin.slot = index;
    pin.state = state & ~proto::kSlotAwaited;
    PINDAX_STEP("layout.slot_read");
    pin.mapping = slot.mapping.load(std::memory_order_relaxed);
    pin.kind = slot.kind.load(std::memory_order_relaxed);
    pin.range = {slot.begin.load(std::memory_order_relaxed), slot.end.load(std::memory_order_relaxed)};
    pin.age = slot.age.load(std::memory_order_relaxed);
    pin.thread = slot.thread.load(std::memory_order_relaxed);
    pin.episode = slot.episode.load(std::memory_order_relaxed);
    pin.since_ns = slot.since_ns.load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    // R34: in the middle of a change: the same slot again.
    if ((slot.state.load(std::memory_order_relaxed) & ~proto::kSlotAwaited) == pin.state) return pin;
  }
  SeenPin unstable;
  unstable.slot = index;
  unstable.unstable = true;
  return unstable;
}

u64 published_pins(ClientPort& port) {
  proto::Slot* slots = port.slots();
  u64 sum = 0;
  for (u32 i = 0, n = slot_count(port); i < n; ++i) sum += slots[i].state.load(std::memory_order_relaxed) / proto::kSlotSequenceUnit;
  return sum;
}

bool mark_awaited(proto::Slot* slots, const SeenPin& pin) {
  u64 expected = pin.state;
  return slots[pin.slot].state.compare_exchange_strong(expected, pin.state | proto::kSlotAwaited,
                                                       std::memory_order_seq_cst) ||
         expected == (pin.state | proto::kSlotAwaited);
}

bool still_pinned(proto::Slot* slots, const SeenPin& pin) {
  return (slots[pin.slot].state.load(std::memory_order_seq_cst) & ~proto::kSlotAwaited) == pin.state;
}

}  // namespace pindax
