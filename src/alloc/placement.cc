// SPDX-License-Identifier: BSD-3-Clause
#include "alloc/placement.h"

#include <algorithm>

namespace pindax {

std::optional<Span> Placement::clear_part(Span e, u64 from, u64 length, u64 own) const {
  u64 start = std::max(e.start, from);
  for (bool moved = true; moved;) {
    if (start >= e.end() || e.end() - start < length) return std::nullopt;
    moved = false;
    for (const Span& w : windows_) {
      if (w.length == 0 || w.start == own || w.end() <= start || w.start >= start + length) continue;
      start = w.end();
      moved = true;
      break;
    }
  }
  return Span{start, length};
}

std::optional<Span> Placement::right_there(const FreeSpace& space, const Want& want) const {
  const auto e = space.holding(want.near);
  if (!e) return std::nullopt;
  u64 end = e->end();
  for (const Span& w : windows_) {
    if (w.length == 0 || w.start == want.near) continue;
    if (w.start < want.near && w.end() > want.near) return std::nullopt;
    if (w.start > want.near) end = std::min(end, w.start);
  }
  const u64 length = std::min(want.wanted, end - want.near);
  // A few blocks more in place are not worth a seam; a run is.
  if (length < want.minimum || length < std::min(want.wanted, kSmall)) return std::nullopt;
  return Span{want.near, length};
}

std::optional<Span> Placement::aligned(const FreeSpace& space, u64 length) const {
  unsigned tries = 0;
  for (auto it = space.from_size(length); it != space.by_size().end() && tries < kTries; ++it, ++tries) {
    const u64 start = round_up(it->start, kHugeBlocks);
    if (start >= it->end() || it->end() - start < length) continue;
    const auto part = clear_part(*it, start, length, 0);
    if (part && part->start == start) return part;
  }
  // Long enough for any start.
  const auto it = space.from_size(length + kHugeBlocks - 1);
  if (it == space.by_size().end()) return std::nullopt;
  return Span{round_up(it->start, kHugeBlocks), length};
}

// `room` more blocks behind the run should be free.
std::optional<Span> Placement::best_fit(const FreeSpace& space, u64 length, u64 room) const {
  unsigned tries = 0;
  for (auto it = space.from_size(length + room); it != space.by_size().end() && tries < kTries; ++it, ++tries)
    if (auto part = clear_part(*it, it->start, length + room, 0)) return Span{part->start, length};
  return std::nullopt;
}

std::optional<Span> Placement::from_end(const FreeSpace& space, const Want& want, bool whole) const {
  unsigned tries = 0;
  for (auto it = space.by_place().rbegin(); it != space.by_place().rend() && tries < kTries; ++it, ++tries)
    if (it->length >= want.wanted) return Span{it->end() - want.wanted, want.wanted};
  const auto fit = space.from_size(want.wanted);
  if (fit != space.by_size().end()) return Span{fit->end() - want.wanted, want.wanted};
  if (whole || space.largest() < want.minimum || space.largest() == 0) return std::nullopt;
  return static_cast<Span>(*space.by_size().rbegin());
}

std::optional<Span> Placement::choose(const FreeSpace& space, const Want& want, Effort effort) {
  if (space.largest() < want.minimum || space.total() == 0) return std::nullopt;
  if (want.metadata) return from_end(space, want, effort != Effort::kAny);
  const bool huge = want.huge;
  if (effort == Effort::kAligned) {
    if (!huge || want.wanted < kHugeBlocks) return std::nullopt;
    const u64 most = std::min(round_down(space.largest(), kHugeBlocks), round_down(want.wanted, kHugeBlocks));
    for (u64 length = most; length >= kHugeBlocks && length >= want.minimum; length = round_down(length / 2, kHugeBlocks))
      if (auto s = aligned(space, length)) return s;
    return std::nullopt;
  }
  const bool want_aligned = huge && effort == Effort::kWhole;
  if (want.near != 0 && (!want_aligned || want.near % kHugeBlocks == 0))
    if (auto s = right_there(space, want)) return s;
  if (want_aligned) {
    // Less than 2 MiB is the beginning of more: it gets room to grow to that.
    auto s = aligned(space, std::max(want.wanted, kHugeBlocks));
    if (s) s->length = want.wanted;
    return s;
  }
  if (effort == Effort::kAny) {
    for (Span& w : windows_) w = Span{};
    const auto fit = space.from_size(want.wanted);
    const Span e = fit != space.by_size().end() ? static_cast<Span>(*fit) : static_cast<Span>(*space.by_size().rbegin());
    return Span{e.start, std::min(e.length, want.wanted)};
  }
  // A growing file that lost its place looks for one with room to grow.
  if (want.near != 0) {
    unsigned tries = 0;
    for (auto it = space.from_place(want.near); it != space.by_place().end() && tries < kTries; ++it, ++tries)
      if (auto s = clear_part(*it, want.near, want.wanted + kWindowMin, 0)) return Span{s->start, want.wanted};
    if (auto s = best_fit(space, want.wanted, kWindowMin)) return s;
  } else if (want.wanted <= kSmall && want.cursor != 0) {
    unsigned tries = 0;
    for (auto it = space.from_place(want.cursor); it != space.by_place().end() && tries < kTries; ++it, ++tries)
      if (auto s = clear_part(*it, want.cursor, want.wanted, 0)) return s;
  }
  return best_fit(space, want.wanted, 0);
}

void Placement::taken(const FreeSpace& space, const Want& want, Span s) {
  if (want.metadata) return;
  Span* window = nullptr;
  for (Span& w : windows_)
    if (w.length != 0 && w.start == s.start && want.near == s.start) window = &w;
  if (want.near == 0 && s.length <= kSmall) return;
  if (window == nullptr) {
    window = &windows_[next_window_];
    next_window_ = (next_window_ + 1) % kWindows;
  }
  *window = Span{};
  const auto rest = space.holding(s.end());
  if (!rest) return;
  *window = {s.end(), std::min(rest->end() - s.end(), std::clamp(4 * s.length, kWindowMin, kWindowMax))};
}

}  // namespace pindax
