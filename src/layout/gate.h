// SPDX-License-Identifier: BSD-3-Clause
//
// The daemon's side of a gate: who holds which range of a mapping closed, and the only code that writes proto::Gate.
//
//  G1  A closing belongs to a break: counted in once, counted out once. The gate is closed over the union of what is
//      counted in; nobody ever stores "open".
//  G2  Generations come from one source for the daemon's life; its seed is the clock, so that a restart repeats none.
//  G4  The generation is a word of its own, never mixed with "closed": a grant made while a break sleeps carries the
//      generation as if open, and the word keeps pins away.
//  G6  Closed ranges are listed; more than kClosedRanges (after merging) close everything.
//
// Guarded by the inode's layout mutex. Without shared memory (null gate) only the books are kept.
#pragma once

#include <atomic>
#include <vector>

#include "proto/shared.h"

namespace pindax {

class GenerationSource {
 public:
  GenerationSource();
  explicit GenerationSource(u64 seed) : last_(seed) {}
  // 63 bits, never 0, never repeated.
  u64 next() { return (last_.fetch_add(1, std::memory_order_relaxed) + 1) & kMask; }

 private:
  static constexpr u64 kMask = ~u64{0} >> 1;
  std::atomic<u64> last_;
};

class GateWriter {
 public:
  using Closer = const void*;  // identity of a break

  explicit GateWriter(proto::Gate* gate) : gate_(gate) {}
  GateWriter(const GateWriter&) = delete;
  GateWriter& operator=(const GateWriter&) = delete;

  // Makes the gate live, but for ranges that were closed before.
  void open(u64 generation, bool uncommitted, u64 size_bytes);
  // Counts `closer` in. A full fence follows the store: slots may be scanned on return (G3).
  void close(Closer closer, ByteRange range);
  // Counts `closer` out, with a new generation unless it is 0. False: it was not counted in (and nothing happens).
  bool count_out(Closer closer, u64 new_generation);
  // The mapping is gone: nobody pins through it any more. A full fence follows.
  void retire();
  void set_uncommitted(bool uncommitted);
  void set_size(u64 size_bytes);
  // P4: every pin takes the slow path. Set while a break holds the range that gives the reason closed, so that the word changes
  // after it and a fast pin that read the old value is undone.
  void set_slow(u32 reasons);  // proto::kGateShared | proto::kGateLost

  u64 generation() const { return generation_; }

 private:
  struct Closing {
    Closer closer;
    ByteRange range;
  };
  void rewrite();

  proto::Gate* const gate_;
  u64 generation_ = 0;
  proto::GateState state_ = proto::GateState::kUnused;
  std::vector<Closing> closings_;
};

}  // namespace pindax
