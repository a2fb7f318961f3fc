// SPDX-License-Identifier: BSD-3-Clause
//
// The memory that a client and the daemon share. Both sides map it; neither trusts the other's bytes.
//
//  gate area   memfd made by the daemon, read by the client (sealed SHRINK, GROW, SEAL, then FUTURE_WRITE)
//  slot area   memfd made by the client, read and CASed by the daemon (sealed SHRINK, GROW)
//
// Both are sparse: their size is address space, not memory, so the limits below are far beyond what vm.max_map_count lets one
// process map. docs/protocol.md holds the ordering argument; rule numbers are PROTOCOL.md's.
#pragma once

#include <atomic>

#include "base/types.h"

namespace pindax::proto {

inline constexpr u32 kSharedVersion = 1;
inline constexpr u32 kGateMagic = 0x5447'5850;  // "PXGT"
inline constexpr u32 kSlotMagic = 0x4c53'5850;  // "PXSL"
inline constexpr u32 kMaxMappings = 1u << 18;   // mappings a client may hold at once
inline constexpr u32 kMaxSlots = 1u << 20;      // pins a client may hold at once
inline constexpr u32 kClosedRanges = 12;        // closed ranges a gate can list; more close everything

// Page 0 of the gate area.
struct GateHeader {
  std::atomic<u32> magic;
  std::atomic<u32> version;
  std::atomic<u64> session;
  std::atomic<u64> ticket;      // A1: a break increments it on arrival, before it closes
  std::atomic<u32> daemon_gone;  // 1: the daemon ended in good order
  u32 reserved[9];
};
static_assert(sizeof(GateHeader) == 64);

// One per mapping, at kGateOffset + id * sizeof(Gate). The client's whole fast path depends on `word`.
//
// word: bit 0 closed (at least one closed range), bit 1 changing (the daemon is rewriting the list), bits 2… a sequence
// that grows with every change of list or generation. Daemon, to change a gate (G3, G6):
//   word := (seq+1) | changing; release fence; rewrite closed[] and generation; word := (seq+2) | closed?; full fence; scan slots.
// Client, to pin [begin, end):
//   w := word (acquire); changing -> slow path; closed and the list (reread word afterwards: unchanged) overlaps -> slow path (P1)
//   publish the slot by read-modify-write (P2, a full fence); word still w -> pinned; else unpin (U1) and slow path or again.
struct Gate {
  std::atomic<u64> word;
  std::atomic<u64> generation;  // G2, G4, G5: of block numbers handed out for this mapping
  std::atomic<u32> state;       // GateState
  std::atomic<u32> uncommitted;  // 1: grants of this file are not durable yet; persist must ask the daemon
  std::atomic<u32> closed_count;  // > kClosedRanges: everything is closed
  std::atomic<u32> slow;          // kGateShared | kGateLost: every pin takes the slow path (P4)
  std::atomic<u64> size_bytes;    // of the file, as the daemon saw it last
  struct Closed {
    std::atomic<u64> begin, end;  // bytes of the file
  } closed[kClosedRanges];
  u64 reserved[3];
};
static_assert(sizeof(Gate) == 256);
inline constexpr u32 kGateShared = 1;  // blocks are shared with other files: a pin makes them the file's own first
inline constexpr u32 kGateLost = 2;    // bytes of the file are lost: pins of them are refused
inline constexpr u64 kGateClosed = 1;
inline constexpr u64 kGateChanging = 2;
inline constexpr u64 kGateSequenceUnit = 4;
enum class GateState : u32 { kUnused = 0, kLive = 1, kDead = 2 };
inline constexpr u64 kGateOffset = 4096;
inline constexpr u64 kGateAreaBytes = kGateOffset + u64{kMaxMappings} * sizeof(Gate);

// Page 0 of the slot area.
struct SlotHeader {
  std::atomic<u32> magic;
  std::atomic<u32> version;
  std::atomic<u32> high_water;  // slots [0, high_water) may be in use; grows only. Untrusted: clamped by the daemon
  u32 reserved0;
  // Packets of the daemon's FIFO that were carried out, the welcome included: a grant among them is in place, or gone again.
  std::atomic<u64> processed;
  u32 reserved[10];
};
static_assert(sizeof(SlotHeader) == 64);

// One per pin, at kSlotOffset + index * sizeof(Slot). A cache line.
// state: low 8 bits SlotState and flag, upper 56 bits a sequence that grows with each publication.
struct Slot {
  std::atomic<u64> state;
  std::atomic<u32> mapping;   // mapping id
  std::atomic<u32> kind;      // PinKind | kPinWrite
  std::atomic<u64> begin;     // bytes of the file
  std::atomic<u64> end;
  std::atomic<u64> age;       // A2: ticket at the start of the thread's episode
  std::atomic<u32> thread;    // thread id
  std::atomic<u32> episode;   // A2
  std::atomic<u64> since_ns;  // CLOCK_MONOTONIC
  std::atomic<u64> reserved;
};
static_assert(sizeof(Slot) == 64);
enum class SlotState : u8 {
  kFree = 0,
  kFilling = 1,  // a thread of the client owns it; scans skip it
  kActive = 2,   // pinned
  kAsked = 3,    // P3: in a slow-path request; scans skip it; the daemon turns it to kActive by CAS before it replies
};
inline constexpr u64 kSlotStateMask = 0x7f;
inline constexpr u64 kSlotAwaited = 0x80;  // U1: a break waits for this pin: ring the doorbell at unpin
inline constexpr u64 kSlotSequenceUnit = 0x100;
inline constexpr u64 kSlotOffset = 4096;
inline constexpr u64 kSlotAreaBytes = kSlotOffset + u64{kMaxSlots} * sizeof(Slot);

enum class PinKind : u32 { kTransient = 0, kLease = 1, kLongterm = 2 };
inline constexpr u32 kPinKindMask = 0xff;
inline constexpr u32 kPinWrite = 0x100;
inline constexpr u32 kPinTransferable = 0x200;  // A6: any thread of the client may end it
inline constexpr u32 kPinFlags = kPinWrite | kPinTransferable;

}  // namespace pindax::proto
