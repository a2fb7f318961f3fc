// SPDX-License-Identifier: BSD-3-Clause
//
// The free extents of one allocation group in memory, in two Boost.Intrusive sets: by place, where neighbours join, and by
// size then place, for best fits. Every change is O(log extents). Not thread-safe: the group's mutex guards it.
#pragma once

#include <boost/intrusive/set.hpp>

#include <optional>

#include "base/types.h"

namespace pindax {

struct Span {
  u64 start = 0;
  u64 length = 0;
  u64 end() const { return start + length; }
  bool operator==(const Span&) const = default;
};

class FreeSpace {
  struct ByPlaceTag;
  struct BySizeTag;

 public:
  struct Extent : Span,
                  boost::intrusive::set_base_hook<boost::intrusive::tag<ByPlaceTag>>,
                  boost::intrusive::set_base_hook<boost::intrusive::tag<BySizeTag>> {};

 private:
  struct PlaceLess {
    bool operator()(const Extent& a, const Extent& b) const { return a.start < b.start; }
  };
  struct SizeLess {
    bool operator()(const Extent& a, const Extent& b) const {
      return a.length != b.length ? a.length < b.length : a.start < b.start;
    }
  };

 public:
  using ByPlace = boost::intrusive::set<Extent, boost::intrusive::base_hook<boost::intrusive::set_base_hook<
                                                    boost::intrusive::tag<ByPlaceTag>>>,
                                        boost::intrusive::compare<PlaceLess>>;
  using BySize = boost::intrusive::set<Extent, boost::intrusive::base_hook<boost::intrusive::set_base_hook<
                                                   boost::intrusive::tag<BySizeTag>>>,
                                       boost::intrusive::compare<SizeLess>>;

  FreeSpace() = default;
  FreeSpace(const FreeSpace&) = delete;
  FreeSpace& operator=(const FreeSpace&) = delete;
  ~FreeSpace() { clear(); }

  // Joins its neighbours. False if a part of it is free already: nothing changed.
  bool insert(Span s);
  // Takes `s`, which must lie in one free extent; false if it does not.
  bool take(Span s);
  void clear();

  u64 total() const { return total_; }
  u64 largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->length; }
  // The free extent that holds block `at`.
  std::optional<Span> holding(u64 at) const;

  // In order of place, and of size.
  const ByPlace& by_place() const { return by_place_; }
  const BySize& by_size() const { return by_size_; }
  // The first extent that ends behind `at`; and the first with at least `length` blocks.
  ByPlace::const_iterator from_place(u64 at) const;
  BySize::const_iterator from_size(u64 length) const;

 private:
  void add(Span s);
  void resize(Extent& e, Span s);
  void remove(Extent& e);

  ByPlace by_place_;
  BySize by_size_;
  u64 total_ = 0;
};

}  // namespace pindax
