// SPDX-License-Identifier: BSD-3-Clause
#include "crash_model.h"

#include <algorithm>
#include <cstring>

namespace pindax::crash {

using Kind = MediaEvent::Kind;

namespace {
constexpr u64 kWordBytes = 8;
constexpr u64 kSectorBytes = 512;

u64 hash_bytes(u64 seed, const std::byte* bytes, u64 length) {
  u64 h = seed;
  for (u64 i = 0; i < length; i += kWordBytes) {
    u64 word = 0;
    std::memcpy(&word, bytes + i, kWordBytes);
    h = (h ^ word) * 0x9e37'79b9'7f4a'7c15;
    h ^= h >> 29;
  }
  return mix(h, length);
}
}  // namespace

u64 mix(u64 a, u64 b) {
  u64 x = a ^ (b + 0x9e37'79b9'7f4a'7c15 + (a << 6) + (a >> 2));
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11eb;
  return x ^ (x >> 31);
}

CrashModel::CrashModel(const MediaLog& log, Granularity granularity, RecordingMedia& durable, RecordingMedia& image)
    : log_(log),
      page_(granularity == Granularity::kPage),
      unit_bytes_(page_ ? kSectorBytes : kCacheLineSize),
      durable_(durable),
      image_(image) {}

bool CrashModel::makes_durable(const MediaEvent& e) const {
  return e.kind == Kind::kSyncAll || e.kind == (page_ ? Kind::kFlush : Kind::kFence);
}

void CrashModel::store(const MediaEvent& e) {
  for (u64 at = e.at; at < e.at + e.length;) {
    const u64 end = std::min(e.at + e.length, round_down(at, kWordBytes) + kWordBytes);
    Unit& unit = units_[at / unit_bytes_];
    if (unit.words.empty()) unit.hash = hash_bytes(at / unit_bytes_, durable_.bytes() + round_down(at, unit_bytes_), unit_bytes_);
    unit.words.push_back({.at = at,
                                              .length = static_cast<u32>(end - at),
                                              .past_cache = !page_ && e.kind == Kind::kStoreNt,
                                              .data = e.data + (at - e.at)});
    at = end;
  }
}

// The unit's first words are durable from now on.
void CrashModel::settle(std::map<u64, Unit>::iterator unit, u32 words) {
  Unit& u = unit->second;
  const u64 start = unit->first * unit_bytes_;
  durable_hash_ -= u.hash;
  for (u32 i = 0; i < words; ++i) {
    const Word& w = u.words[i];
    durable_.poke(w.at, log_.bytes.data() + w.data, w.length);
  }
  u.hash = hash_bytes(unit->first, durable_.bytes() + start, unit_bytes_);
  durable_hash_ += u.hash;
  image_.poke(start, durable_.bytes() + start, unit_bytes_);
  u.words.erase(u.words.begin(), u.words.begin() + words);
  u.flushed -= std::min(u.flushed, words);
}

void CrashModel::apply(const MediaEvent& e) {
  switch (e.kind) {
    case Kind::kStore:
    case Kind::kStoreNt: store(e); return;
    case Kind::kFlush: {
      const u64 reach = page_ ? kBlockSize : unit_bytes_;
      const u64 last = round_up(e.at + e.length, reach) / unit_bytes_;
      for (auto it = units_.lower_bound(round_down(e.at, reach) / unit_bytes_); it != units_.end() && it->first < last;) {
        it->second.flushed = static_cast<u32>(it->second.words.size());
        if (page_) {
          settle(it, it->second.flushed);
          it = units_.erase(it);
        } else {
          ++it;
        }
      }
      return;
    }
    case Kind::kFence:
      if (page_) return;
      for (auto it = units_.begin(); it != units_.end();) {
        // A store past the cache writes the cached line back first.
        u32 words = it->second.flushed;
        for (u32 i = words; i < it->second.words.size(); ++i)
          if (it->second.words[i].past_cache) words = i + 1;
        if (words != 0) settle(it, words);
        it = it->second.words.empty() ? units_.erase(it) : std::next(it);
      }
      return;
    case Kind::kSyncAll:
      for (auto it = units_.begin(); it != units_.end(); ++it) settle(it, static_cast<u32>(it->second.words.size()));
      units_.clear();
      return;
    case Kind::kMark: return;
  }
}

u64 CrashModel::combinations(u64 bound) const {
  u64 n = 1;
  for (const auto& [number, unit] : units_) {
    u64 ways = unit.words.size() + 1;
    // Listing subsets of words past the cache is left to the seeded choices.
    for (const Word& w : unit.words)
      if (w.past_cache) ways = bound + 1;
    n *= ways;
    if (n > bound) return bound + 1;
  }
  return n;
}

u64 CrashModel::choices(u64 bound) const { return std::min(bound, combinations(bound)); }

// Applies the pick to a copy of the durable unit and stores it into the image.
u64 CrashModel::place(u64 number, const Unit& unit, Pick pick) {
  if (pick.prefix == 0 && pick.mask == 0) return 0;
  std::byte bytes[kSectorBytes];
  const u64 start = number * unit_bytes_;
  std::memcpy(bytes, durable_.bytes() + start, unit_bytes_);
  for (u32 i = 0; i < unit.words.size(); ++i) {
    const Word& w = unit.words[i];
    if (i >= pick.prefix && !(w.past_cache && ((pick.mask >> (i % 64)) & 1) != 0)) continue;
    std::memcpy(bytes + (w.at - start), log_.bytes.data() + w.data, w.length);
  }
  if (std::memcmp(bytes, durable_.bytes() + start, unit_bytes_) == 0) return 0;
  image_.poke(start, bytes, unit_bytes_);
  return hash_bytes(number, bytes, unit_bytes_) - unit.hash;
}

CrashModel::Pick CrashModel::random_pick(const Unit& unit, Random& random) const {
  const u32 all = static_cast<u32>(unit.words.size());
  switch (random.below(4)) {
    case 0: return {.prefix = 0, .mask = random.next()};
    case 1: return {.prefix = static_cast<u32>(random.below(all + 1)), .mask = random.next()};
    default: return {.prefix = all};
  }
}

u64 CrashModel::make_memory_image() {
  u64 hash = durable_hash_;
  for (const auto& [number, unit] : units_) hash += place(number, unit, {.prefix = static_cast<u32>(unit.words.size())});
  return hash;
}

u64 CrashModel::make_image(u64 choice, u64 bound, u64 seed) {
  u64 hash = durable_hash_;
  if (exhaustive(bound)) {
    for (const auto& [number, unit] : units_) {
      const u64 ways = unit.words.size() + 1;
      hash += place(number, unit, {.prefix = static_cast<u32>(choice % ways)});
      choice /= ways;
    }
    return hash;
  }
  // Nothing; everything; then, in turn, all but one, one alone, one torn, and any mixture.
  Random random(mix(seed, choice));
  const u64 kind = choice < 2 ? choice : 2 + choice % 4;
  const u64 chosen = random.below(units_.size());
  u64 index = 0;
  for (const auto& [number, unit] : units_) {
    const u32 all = static_cast<u32>(unit.words.size());
    const bool is_chosen = index++ == chosen;
    Pick pick;
    switch (kind) {
      case 0: break;
      case 1: pick.prefix = all; break;
      case 2: pick.prefix = is_chosen ? 0 : all; break;
      case 3: pick.prefix = is_chosen ? all : 0; break;
      case 4: pick.prefix = is_chosen ? static_cast<u32>(random.below(all)) : all; break;
      default: pick = random_pick(unit, random); break;
    }
    hash += place(number, unit, pick);
  }
  return hash;
}

}  // namespace pindax::crash
