// SPDX-License-Identifier: BSD-3-Clause
//
// Reads a client's slots. They are the client's memory: every byte may be anything and may change at any moment. A
// slot is trusted only as far as its own client is harmed by a lie: ranges are clipped to the mapping by the caller,
// unknown states are skipped, the count is clamped, rereads are bounded.
#pragma once

#include <algorithm>
#include <optional>

#include "layout/client_port.h"

namespace pindax {

// A published pin, read consistently: all fields belong to the publication that `state` names (R34).
struct SeenPin {
  u32 slot = 0;
  u64 state = 0;  // the whole word, without the awaited flag
  u32 mapping = 0;
  u32 kind = 0;
  ByteRange range;
  u64 age = 0;
  u32 thread = 0, episode = 0;
  u64 since_ns = 0;
  // The slot changed under every reread: something is being pinned and unpinned there without pause. No field is meaningful;
  // the caller takes it for busy and looks again soon.
  bool unstable = false;
};

// What slot `index` publishes now. Skips free, filling, asked (P3) and unknown states.
std::optional<SeenPin> read_slot(proto::Slot* slots, u32 index);

// U2: marks the publication as awaited, so that its unpin rings. False: it has ended (the slot may be in use again):
// read the slot again.
bool mark_awaited(proto::Slot* slots, const SeenPin& pin);

// True while that very publication lasts.
bool still_pinned(proto::Slot* slots, const SeenPin& pin);

inline u32 slot_count(ClientPort& port) {
  proto::SlotHeader* header = port.slot_header();
  if (header == nullptr || port.slots() == nullptr) return 0;
  return std::min(header->high_water.load(std::memory_order_acquire), proto::kMaxSlots);
}

// How many pins the client has published so far, by its own word.
u64 published_pins(ClientPort& port);

inline constexpr int kMaxTurns = 1000;  // of one slot whose marks fail; then it counts as unstable

// Calls visit(pin, again) for every published pin until it returns false. A visit whose mark failed sets `again`, and
// the same slot is read once more (U2).
template <class Visit>
void scan_slots(ClientPort& port, Visit&& visit) {
  proto::Slot* slots = port.slots();
  for (u32 i = 0, n = slot_count(port); i < n; ++i) {
    bool again = true;
    for (int turn = 0; again; ++turn) {
      again = false;
      std::optional<SeenPin> pin = read_slot(slots, i);
      if (pin && turn == kMaxTurns) pin->unstable = true;
      if (pin && !visit(*pin, again)) return;
    }
  }
}

}  // namespace pindax
