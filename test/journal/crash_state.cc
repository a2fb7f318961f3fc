// SPDX-License-Identifier: BSD-3-Clause
//
#include "crash_state.h"

#include <algorithm>
#include <cstring>

namespace pindax::test {
namespace {

constexpr u64 kSectorBytes = 512;
constexpr u64 kAtomBytes = 8;
constexpr u32 kMaxUnordered = 64;

// How many aligned 8-byte words [at, at + length) touches; each piece of a store is cut there.
u32 atoms(u64 at, u64 length) { return static_cast<u32>((at + length - 1) / kAtomBytes - at / kAtomBytes + 1); }

}  // namespace

CrashChooser keep_all() {
  return [](const CrashUnit& u) { return CrashChoice{u.ordered, ~u64{0}}; };
}

CrashChooser lose_all() {
  return [](const CrashUnit&) { return CrashChoice{}; };
}

CrashChooser random_crash(std::mt19937_64& rng) {
  return [&rng](const CrashUnit& u) {
    switch (rng() % 3) {
      case 0: return CrashChoice{};
      case 1: return CrashChoice{u.ordered, ~u64{0}};
      default: return CrashChoice{static_cast<u32>(rng() % (u.ordered + u64{1})), rng()};
    }
  };
}

// Leaves out pages of zeros: pools of tests are mostly empty.
std::unique_ptr<RecordingMedia> copy_of(const Media& media) {
  static constexpr std::byte kZeros[kBlockSize]{};
  auto out = std::make_unique<RecordingMedia>(media.size(), media.granularity());
  for (u64 at = 0; at < media.size(); at += kBlockSize) {
    const std::byte* page = media.view(PoolOffset(at), kBlockSize);
    if (std::memcmp(page, kZeros, kBlockSize) != 0) PINDAX_ASSERT(out->write(PoolOffset(at), page, kBlockSize).ok());
  }
  return out;
}

CrashState::CrashState(std::unique_ptr<RecordingMedia> before, const MediaLog& log)
    : durable_(std::move(before)),
      log_(log),
      granularity_(durable_->granularity()),
      unit_bytes_(granularity_ == Granularity::kPage ? kSectorBytes : kCacheLineSize) {}

void CrashState::add_store(const MediaEvent& e) {
  const bool lines = unit_bytes_ == kCacheLineSize;
  for (u64 done = 0; done < e.length;) {
    const u64 at = e.at + done;
    const u64 n = std::min(e.length - done, unit_bytes_ - at % unit_bytes_);
    pending_[at / unit_bytes_].push_back({.at = at,
                                          .length = static_cast<u32>(n),
                                          .data = e.data + done,
                                          .nt = lines && e.kind == MediaEvent::Kind::kStoreNt,
                                          .flushed = false});
    done += n;
  }
}

// The first `count` pieces are on the media for good.
void CrashState::settle(Pieces& pieces, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    PINDAX_ASSERT(durable_->write(PoolOffset(pieces[i].at), log_.bytes.data() + pieces[i].data, pieces[i].length).ok());
  pieces.erase(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(count));
}

void CrashState::settle_all() {
  for (auto& [unit, pieces] : pending_) settle(pieces, pieces.size());
  pending_.clear();
}

void CrashState::flush(u64 begin, u64 end) {
  if (begin == end) return;
  const bool page = granularity_ == Granularity::kPage;
  if (page) begin = round_down(begin, kBlockSize), end = round_up(end, kBlockSize);
  auto it = pending_.lower_bound(begin / unit_bytes_);
  while (it != pending_.end() && it->first * unit_bytes_ < end) {
    if (page) {
      settle(it->second, it->second.size());
      it = pending_.erase(it);
      continue;
    }
    for (Piece& p : it->second) p.flushed = true;
    ++it;
  }
}

void CrashState::drain() {
  if (unit_bytes_ != kCacheLineSize) return;
  for (auto it = pending_.begin(); it != pending_.end();) {
    Pieces& pieces = it->second;
    // A non-temporal store pushes out what its line held before.
    const auto last = std::find_if(pieces.rbegin(), pieces.rend(), [](const Piece& p) { return p.flushed || p.nt; });
    settle(pieces, static_cast<std::size_t>(pieces.rend() - last));
    it = pieces.empty() ? pending_.erase(it) : std::next(it);
  }
}

void CrashState::advance_to(u64 events) {
  PINDAX_ASSERT(events >= position_ && events <= log_.events.size());
  for (; position_ < events; ++position_) {
    const MediaEvent& e = log_.events[position_];
    if (granularity_ == Granularity::kByte)
      for (auto& [unit, pieces] : pending_)
        if (!pieces.empty() && !pieces.back().nt) settle(pieces, pieces.size());
    switch (e.kind) {
      case MediaEvent::Kind::kStore:
      case MediaEvent::Kind::kStoreNt: add_store(e); break;
      case MediaEvent::Kind::kFlush: flush(e.at, e.at + e.length); break;
      case MediaEvent::Kind::kFence: drain(); break;
      case MediaEvent::Kind::kSyncAll:
        settle_all();
        break;
      case MediaEvent::Kind::kMark: break;
    }
  }
}

CrashUnit CrashState::describe(u64 unit, const Pieces& pieces) const {
  CrashUnit u{.at = PoolOffset(unit * unit_bytes_)};
  for (const Piece& p : pieces) (p.nt ? u.unordered : u.ordered) += atoms(p.at, p.length);
  return u;
}

std::vector<CrashUnit> CrashState::units() const {
  std::vector<CrashUnit> out;
  for (const auto& [unit, pieces] : pending_)
    if (!pieces.empty()) out.push_back(describe(unit, pieces));
  return out;
}

std::unique_ptr<RecordingMedia> CrashState::image(const CrashChooser& choose) const {
  auto out = copy_of(*durable_);
  for (const auto& [unit, pieces] : pending_) {
    if (pieces.empty()) continue;
    const CrashChoice choice = choose(describe(unit, pieces));
    u32 ordered = 0, unordered = 0;
    for (const Piece& p : pieces)
      for (u64 at = p.at, end = p.at + p.length; at < end;) {
        const u64 next = std::min(end, round_down(at, kAtomBytes) + kAtomBytes);
        const bool arrives = p.nt ? (choice.unordered >> std::min(unordered++, kMaxUnordered - 1) & 1) != 0
                                  : ordered++ < choice.ordered;
        if (arrives) PINDAX_ASSERT(out->write(PoolOffset(at), log_.bytes.data() + p.data + (at - p.at), next - at).ok());
        at = next;
      }
  }
  return out;
}

}  // namespace pindax::test
