// SPDX-License-Identifier: BSD-3-Clause
#include "layout/gate.h"

#include <algorithm>

#include "base/clock.h"
#include "base/steps.h"

namespace pindax {

// Nanoseconds since 1970: a daemon makes fewer generations than nanoseconds pass, so the next one starts above them all.
GenerationSource::GenerationSource() : last_(wall_clock_ns()) {}

void GateWriter::open(u64 generation, bool uncommitted, u64 size_bytes) {
  generation_ = generation;
  state_ = proto::GateState::kLive;
  set_uncommitted(uncommitted);
  set_size(size_bytes);
  rewrite();
}

void GateWriter::close(Closer closer, ByteRange range) {
  closings_.push_back({closer, range});
  rewrite();
}

bool GateWriter::count_out(Closer closer, u64 new_generation) {
  auto it = std::find_if(closings_.begin(), closings_.end(), [&](const Closing& c) { return c.closer == closer; });
  const bool counted_in = it != closings_.end();
  if (counted_in) closings_.erase(it);
  if (new_generation != 0) generation_ = new_generation;
  if (counted_in || new_generation != 0) rewrite();
  return counted_in;
}

void GateWriter::retire() {
  state_ = proto::GateState::kDead;
  rewrite();
}

void GateWriter::set_uncommitted(bool uncommitted) {
  if (gate_ != nullptr) gate_->uncommitted.store(uncommitted ? 1 : 0, std::memory_order_release);
}

void GateWriter::set_size(u64 size_bytes) {
  if (gate_ != nullptr) gate_->size_bytes.store(size_bytes, std::memory_order_release);
}

void GateWriter::set_slow(u32 reasons) {
  if (gate_ != nullptr) gate_->slow.store(reasons, std::memory_order_release);
}

// The order of proto/shared.h: changing; release fence; list and generation; final word; full fence. The
// sequence goes on from the word in memory, which the daemon alone writes, so that a mapping that takes an id over
// never repeats a word that a thread of the client may have read through the mapping before it.
void GateWriter::rewrite() {
  if (gate_ == nullptr) return;
  std::vector<ByteRange> list;
  for (const Closing& c : closings_) list.push_back(c.range);
  std::sort(list.begin(), list.end());
  std::size_t merged = 0;
  for (const ByteRange& r : list) {
    if (merged > 0 && r.begin <= list[merged - 1].end) list[merged - 1].end = std::max(list[merged - 1].end, r.end);
    else list[merged++] = r;
  }
  list.resize(merged);

  const u64 sequence = gate_->word.load(std::memory_order_relaxed) & ~(proto::kGateSequenceUnit - 1);
  gate_->word.store(sequence + proto::kGateSequenceUnit + proto::kGateChanging, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  PINDAX_STEP("gate.changing");
  gate_->generation.store(generation_, std::memory_order_relaxed);
  gate_->state.store(static_cast<u32>(state_), std::memory_order_relaxed);
  const bool overflow = list.size() > proto::kClosedRanges;
  gate_->closed_count.store(overflow ? proto::kClosedRanges + 1 : static_cast<u32>(list.size()),
                            std::memory_order_relaxed);
  for (std::size_t i = 0; i < list.size() && !overflow; ++i) {
    gate_->closed[i].begin.store(list[i].begin, std::memory_order_relaxed);
    gate_->closed[i].end.store(list[i].end, std::memory_order_relaxed);
  }
  const u64 flag = list.empty() ? 0 : proto::kGateClosed;
  gate_->word.store(sequence + 2 * proto::kGateSequenceUnit + flag, std::memory_order_seq_cst);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // G3: before any slot is read
}

}  // namespace pindax
