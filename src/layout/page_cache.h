// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages of an inode the kernel's page cache may hold: the cache is one more mapper (rules C1-C6). Books only, guarded
// by the inode's layout mutex; who calls the kernel is break.cc.
//
// A page's owner (C1)
//   none or direct   not in this map; grants say which
//   cache            a fill was answered. "May hold": the kernel drops clean pages without a word
//   draining         asked to be dropped, and neither has the notification returned nor is a fill in our hands
//
// C4: an unanswered fill proves that the page is not cached, so fill_in_hand() ends the draining of its pages, whatever the
// notification does: it is stuck behind that very fill, maybe with pages after it still to be dropped. Those get a drop of
// their own (M5b: one that sticks must not keep the others).
//
// `writable`: the page was filled for a handle that may write since it was last dropped completely, so it may be dirty.
#pragma once

#include <map>
#include <vector>

#include "base/interval_map.h"

namespace pindax {

class PageCacheOwners {
 public:
  struct Drop {
    u64 id = 0;
    ByteRange range;
  };

  // The range becomes the cache's. A page that may be dirty stays so.
  void record_fill(ByteRange range, bool writable);
  // C4. Returns the drops that must be issued anew for what is left of those that met the fill.
  std::vector<Drop> fill_in_hand(ByteRange range);
  // What the cache owns in `range` drains from now on. Returns the drops to issue, one a contiguous run.
  std::vector<Drop> begin_drop(ByteRange range);
  // The notification of `drop` has returned.
  void drop_done(u64 drop);

  bool owns(ByteRange range) const { return pages_.any(range); }  // cache or draining
  bool draining(ByteRange range) const;
  u64 first(ByteRange range) const;  // byte of `range` whose page is owned, or the range's end
  bool may_be_dirty() const { return may_be_dirty({0, kMaxOffset}); }
  bool may_be_dirty(ByteRange range) const;
  std::vector<ByteRange> maybe_dirty() const;
  bool empty() const { return pages_.empty(); }

 private:
  struct Owner {
    bool writable = false;
    u64 drop = 0;  // 0: cache, else draining under this drop
    bool operator==(const Owner&) const = default;
  };
  IntervalMap<Owner> pages_;
  std::map<u64, ByteRange> drops_;
  u64 last_drop_ = 0;
};

}  // namespace pindax
