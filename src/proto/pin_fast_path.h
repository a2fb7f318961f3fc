// SPDX-License-Identifier: BSD-3-Clause
//
// Pin and unpin without a message, as the client does them: the very code of the library and of the race tests.
//
// A thread owns a slot that is free or filling; nobody else writes to it then, and the daemon skips it. A pin is
//
//   P1  read the gate. Closed over the range, changing, slow, or of another generation: publish nothing, slow path.
//   P2  fill the fields, publish {active, sequence+1} by read-modify-write, read the gate's word again.
//       Unchanged: pinned. Changed: undo with the very code of unpin.
//   U1  unpin exchanges the state to free by read-modify-write and rings if the daemon had marked the pin awaited.
//
// Why this holds: the exchange and the second load are both sequentially consistent, and so are the daemon's store of the
// word and its load of the state (gate.cc, slot_scan.cc). Of "publish, read word" and "write word, read slot" at least one
// side sees the other (without the full fences x86 loses pins within seconds). The word changes with every change of list or
// generation and never returns to an old value, so "unchanged" means that no break that overlaps the range closed in between.
//
// Cost: one exchange each; no part depends on the length of the range (G6).
#pragma once

#include "proto/shared.h"

namespace pindax::proto {

struct PinFields {
  u32 mapping = 0;
  u32 kind = 0;  // PinKind | kPinWrite
  u64 begin = 0, end = 0;  // bytes of the file
  u64 age = 0;             // A2: GateHeader::ticket at the start of the thread's episode
  u32 thread = 0, episode = 0;
  u64 since_ns = 0;
};

inline constexpr u64 kNoGateWord = ~u64{0};  // has the changing bit, so no gate that is open has this word

// P1: the gate's word if [begin, end) is open under it, else kNoGateWord. `passable`: reasons to be slow that do not matter.
inline u64 open_gate_word(const Gate& gate, u64 begin, u64 end, u32 passable = 0) {
  const u64 word = gate.word.load(std::memory_order_acquire);
  if ((word & kGateChanging) != 0) return kNoGateWord;
  if (gate.state.load(std::memory_order_relaxed) != static_cast<u32>(GateState::kLive)) return kNoGateWord;
  if ((gate.slow.load(std::memory_order_relaxed) & ~passable) != 0) return kNoGateWord;
  if ((word & kGateClosed) == 0) [[likely]] return word;
  const u32 count = gate.closed_count.load(std::memory_order_relaxed);
  if (count > kClosedRanges) return kNoGateWord;
  for (u32 i = 0; i < count; ++i) {
    const u64 closed_begin = gate.closed[i].begin.load(std::memory_order_relaxed);
    const u64 closed_end = gate.closed[i].end.load(std::memory_order_relaxed);
    if (begin < closed_end && closed_begin < end) return kNoGateWord;
  }
  // The list belongs to `word` only if the word did not change meanwhile.
  std::atomic_thread_fence(std::memory_order_acquire);
  return gate.word.load(std::memory_order_relaxed) == word ? word : kNoGateWord;
}

// Fills the caller's free slot and publishes it in `state`; returns the whole state word. A full fence.
inline u64 publish_slot(Slot& slot, const PinFields& f, SlotState state) {
  // Pairs with the scan's acquire fence: whoever reads a field of this use also sees that the last use has ended.
  std::atomic_thread_fence(std::memory_order_release);
  slot.mapping.store(f.mapping, std::memory_order_relaxed);
  slot.kind.store(f.kind, std::memory_order_relaxed);
  slot.begin.store(f.begin, std::memory_order_relaxed);
  slot.end.store(f.end, std::memory_order_relaxed);
  slot.age.store(f.age, std::memory_order_relaxed);
  slot.thread.store(f.thread, std::memory_order_relaxed);
  slot.episode.store(f.episode, std::memory_order_relaxed);
  slot.since_ns.store(f.since_ns, std::memory_order_relaxed);
  const u64 old = slot.state.load(std::memory_order_relaxed);
  const u64 next = (old & ~(kSlotSequenceUnit - 1)) + kSlotSequenceUnit + static_cast<u64>(state);
  slot.state.exchange(next, std::memory_order_seq_cst);
  return next;
}

// U1. `ring()` rings the doorbell; the caller keeps thread cancellation off from before this call until after it. Also
// withdraws a slot in state kAsked whose request failed.
template <class Ring>
inline void fast_unpin(Slot& slot, Ring&& ring) {
  const u64 free = slot.state.load(std::memory_order_relaxed) & ~(kSlotSequenceUnit - 1);
  const u64 old = slot.state.exchange(free + static_cast<u64>(SlotState::kFree), std::memory_order_seq_cst);
  if ((old & kSlotAwaited) != 0) [[unlikely]] ring();
}

// P1, P2. True: pinned. False: nothing is pinned, take the slow path (a try_pin says EAGAIN).
//   generation  0, or the one that pool offsets kept by the caller came with (G5)
//   word        kNoGateWord, or the gate word under which the caller knows its range to be writable (P4)
//   passable    kGateShared for a copy out of the mapping, which wants the file not to be cut and nothing else: its blocks may be replaced
//               by copies under it, as under loads without a pin
template <class Ring>
inline bool fast_pin(const Gate& gate, Slot& slot, const PinFields& f, Ring&& ring, u64 generation = 0,
                     u64 word = kNoGateWord, u32 passable = 0) {
  // A closing elsewhere in the file changes the word, too, and then the pin is tried again: each turn takes a
  // change of the gate, and the slow path ends it.
  for (int turn = 0; turn < 3; ++turn) {
    const u64 before = open_gate_word(gate, f.begin, f.end, passable);
    if (before == kNoGateWord || (word != kNoGateWord && before != word)) return false;
    if (generation != 0 && gate.generation.load(std::memory_order_relaxed) != generation) return false;
    publish_slot(slot, f, SlotState::kActive);
    if (gate.word.load(std::memory_order_seq_cst) == before) [[likely]] return true;
    fast_unpin(slot, ring);
  }
  return false;
}

}  // namespace pindax::proto
