// SPDX-License-Identifier: BSD-3-Clause
//
// Disjoint intervals [begin, end) with a value each; touching equals merge. For grants and page owners.
// Not thread-safe. Each step is O(log n + intervals touched).
#pragma once

#include <iterator>
#include <map>

#include "base/types.h"

namespace pindax {

template <class Value>
class IntervalMap {
 public:
  // Overwrites whatever lay in `r`.
  void assign(ByteRange r, const Value& value) {
    if (r.empty()) return;
    erase(r);
    auto it = pieces_.emplace(r.begin, Piece{r.end, value}).first;
    if (auto next = std::next(it); next != pieces_.end() && next->first == it->second.end && next->second.value == value) {
      it->second.end = next->second.end;
      pieces_.erase(next);
    }
    if (it == pieces_.begin()) return;
    if (auto prev = std::prev(it); prev->second.end == it->first && prev->second.value == value) {
      prev->second.end = it->second.end;
      pieces_.erase(it);
    }
  }

  void erase(ByteRange r) {
    if (r.empty() || pieces_.empty()) return;
    split(r.begin);
    split(r.end);
    pieces_.erase(pieces_.lower_bound(r.begin), pieces_.lower_bound(r.end));
  }

  // Calls f(range, value) for what lies in `r`, clipped to it, in ascending order, until f returns false.
  template <class F>
  void each(ByteRange r, F&& f) const {
    if (r.empty()) return;
    auto it = pieces_.upper_bound(r.begin);
    if (it != pieces_.begin() && std::prev(it)->second.end > r.begin) --it;
    for (; it != pieces_.end() && it->first < r.end; ++it)
      if (!f(intersect(ByteRange{it->first, it->second.end}, r), it->second.value)) return;
  }

  bool any(ByteRange r) const {
    bool found = false;
    each(r, [&](ByteRange, const Value&) { found = true; return false; });
    return found;
  }

  bool empty() const { return pieces_.empty(); }
  void clear() { pieces_.clear(); }

 private:
  struct Piece {
    u64 end;
    Value value;
  };

  void split(u64 at) {
    auto it = pieces_.lower_bound(at);
    if (it == pieces_.begin()) return;
    --it;
    if (it->second.end <= at) return;
    pieces_.emplace(at, Piece{it->second.end, it->second.value});
    it->second.end = at;
  }

  std::map<u64, Piece> pieces_;  // by begin
};

}  // namespace pindax
