// SPDX-License-Identifier: BSD-3-Clause
#include "journal/ring.h"

#include <algorithm>

namespace pindax {
namespace {
constexpr u64 kHeaderCopies = 2;
}

Ring::Ring(Media& media, const format::Geometry& geometry)
    : media_(media),
      first_(geometry.journal_block),
      bytes_((geometry.journal_blocks - kHeaderCopies) << kBlockShift) {}

template <class F>
Status Ring::pieces(Lsn at, u64 length, F f) const {
  PINDAX_ASSERT(length <= bytes_);
  const PoolOffset start = block_offset(first_ + kHeaderCopies);
  const u64 position = at.value % bytes_;
  const u64 before_wrap = std::min(length, bytes_ - position);
  PINDAX_TRY(f(start + position, u64{0}, before_wrap));
  return before_wrap == length ? Status() : f(start, before_wrap, length - before_wrap);
}

Status Ring::write(Lsn at, const void* data, u64 length) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return pieces(at, length, [&](PoolOffset to, u64 from, u64 n) { return media_.write(to, bytes + from, n); });
}

Status Ring::read(Lsn at, void* out, u64 length) const {
  auto* bytes = static_cast<std::byte*>(out);
  return pieces(at, length, [&](PoolOffset from, u64 to, u64 n) { return media_.read(from, bytes + to, n); });
}

Status Ring::flush(Lsn from, Lsn to) {
  if (from == to) return {};
  return pieces(from, to - from, [&](PoolOffset at, u64, u64 n) { return media_.flush(at, n); });
}

Result<format::JournalHeader> Ring::load_header() {
  format::JournalHeader best{};
  Status why;
  for (u64 copy = 0; copy < kHeaderCopies; ++copy) {
    format::JournalHeader h;
    Status s = media_.read(block_offset(first_ + copy), &h, sizeof h);
    if (s.ok()) s = format::check_journal_header(h, first_ + copy);
    if (!s.ok())
      why = s;
    else if (best.magic == 0 || h.sequence > best.sequence)
      best = h;
  }
  if (best.magic == 0) return why.with_context("both copies are damaged");
  sequence_ = best.sequence;
  return best;
}

Status Ring::store_header(Lsn head, u64 epoch) {
  const u64 sequence = sequence_ + 1;
  const BlockNo self = first_ + sequence % kHeaderCopies;
  format::JournalHeader h{};
  h.magic = format::kJournalMagic;
  h.version = format::kVersion;
  h.self_block = self.value;
  h.sequence = sequence;
  h.head = head.value;
  h.epoch = epoch;
  format::seal(h);
  PINDAX_TRY(media_.write(block_offset(self), &h, sizeof h));
  PINDAX_TRY(media_.persist(block_offset(self), sizeof h));
  sequence_ = sequence;
  return {};
}

}  // namespace pindax
