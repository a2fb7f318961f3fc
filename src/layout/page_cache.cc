// SPDX-License-Identifier: BSD-3-Clause
#include "layout/page_cache.h"

#include <utility>

namespace pindax {
namespace {

constexpr ByteRange kEverything{0, kMaxOffset};

}  // namespace

void PageCacheOwners::record_fill(ByteRange range, bool writable) {
  std::vector<ByteRange> dirty;
  pages_.each(range, [&](ByteRange r, const Owner& o) {
    if (o.writable) dirty.push_back(r);
    return true;
  });
  pages_.assign(range, Owner{writable, 0});
  for (const ByteRange& r : dirty) pages_.assign(r, Owner{true, 0});
}

std::vector<PageCacheOwners::Drop> PageCacheOwners::fill_in_hand(ByteRange range) {
  std::vector<u64> met;
  pages_.each(range, [&](ByteRange, const Owner& o) {
    if (o.drop != 0 && (met.empty() || met.back() != o.drop)) met.push_back(o.drop);
    return true;
  });
  pages_.erase(range);
  std::vector<Drop> again;
  for (u64 old : met) {
    const auto it = drops_.find(old);
    if (it == drops_.end()) continue;
    std::vector<std::pair<ByteRange, Owner>> rest;
    pages_.each(it->second, [&](ByteRange r, const Owner& o) {
      if (o.drop == old) rest.emplace_back(r, o);
      return true;
    });
    drops_.erase(it);  // the stuck notification has nothing to report any more
    for (auto& [r, owner] : rest) {
      owner.drop = ++last_drop_;
      pages_.assign(r, owner);
      drops_.emplace(owner.drop, r);
      again.push_back({owner.drop, r});
    }
  }
  return again;
}

std::vector<PageCacheOwners::Drop> PageCacheOwners::begin_drop(ByteRange range) {
  std::vector<std::pair<ByteRange, Owner>> owned;
  pages_.each(range, [&](ByteRange r, const Owner& o) {
    if (o.drop == 0) owned.emplace_back(r, o);
    return true;
  });
  std::vector<Drop> drops;
  for (auto& [r, owner] : owned) {
    if (!drops.empty() && drops.back().range.end == r.begin) drops.back().range.end = r.end;
    else drops.push_back({++last_drop_, r});
    owner.drop = drops.back().id;
    pages_.assign(r, owner);
  }
  for (const Drop& d : drops) drops_.emplace(d.id, d.range);
  return drops;
}

void PageCacheOwners::drop_done(u64 drop) {
  const auto it = drops_.find(drop);
  if (it == drops_.end()) return;
  std::vector<ByteRange> gone;
  pages_.each(it->second, [&](ByteRange r, const Owner& o) {
    if (o.drop == drop) gone.push_back(r);
    return true;
  });
  drops_.erase(it);
  for (const ByteRange& r : gone) pages_.erase(r);
}

bool PageCacheOwners::draining(ByteRange range) const {
  bool found = false;
  pages_.each(range, [&](ByteRange, const Owner& o) { return !(found = found || o.drop != 0); });
  return found;
}

bool PageCacheOwners::may_be_dirty(ByteRange range) const {
  bool found = false;
  pages_.each(range, [&](ByteRange, const Owner& o) { return !(found = found || o.writable); });
  return found;
}

u64 PageCacheOwners::first(ByteRange range) const {
  u64 at = range.end;
  pages_.each(range, [&](ByteRange r, const Owner&) { at = r.begin; return false; });
  return at;
}

std::vector<ByteRange> PageCacheOwners::maybe_dirty() const {
  std::vector<ByteRange> ranges;
  pages_.each(kEverything, [&](ByteRange r, const Owner& o) {
    if (!o.writable) return true;
    if (!ranges.empty() && ranges.back().end == r.begin) ranges.back().end = r.end;
    else ranges.push_back(r);
    return true;
  });
  return ranges;
}

}  // namespace pindax
