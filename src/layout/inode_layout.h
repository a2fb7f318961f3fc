// SPDX-License-Identifier: BSD-3-Clause
//
// One inode's share in the protocol: its range lock, its mappings by place, the operations under way, the page cache's
// pages. Books only; the operations are break.h and slow_pin.h.
//
// `mutex` guards everything here and every Mapping's and Break's guarded part. It is held for book-keeping and for queueing
// messages into a client's FIFO, so that the order of grants and recalls on the wire is the order in these
// books (F1); never over a scan, a wait or a callback.
#pragma once

#include <boost/intrusive/set.hpp>

#include <algorithm>
#include <deque>
#include <list>
#include <memory>
#include <vector>

#include "layout/core.h"
#include "base/interval_map.h"
#include "layout/page_cache.h"
#include "layout/range_lock.h"
#include "layout/slot_scan.h"

namespace pindax {

class HeldBack;

// A pin of a client without slots (P3): the daemon's own table shows it to scans.
struct MessagePin {
  u32 kind = 0;
  ByteRange range;
  u64 age = 0;
  u32 thread = 0;
  u64 since_ns = 0;
  ClientState::AskedLease asked;  // `since` not set: not asked
};

// A client's mapping. Indexed until nothing of it is left: mapped, or (R7) unmapped but still named by pins.
class Mapping : public std::enable_shared_from_this<Mapping>, public boost::intrusive::set_base_hook<> {
 public:
  Mapping(std::shared_ptr<ClientState> c, std::shared_ptr<InodeLayout> in, u32 i, ByteRange r, bool w, bool through_cache)
      : client(std::move(c)),
        inode(std::move(in)),
        id(i),
        range(r),
        writable(w),
        indirect(through_cache),
        gate(client->port->gate(i)) {}

  const std::shared_ptr<ClientState> client;
  const std::shared_ptr<InodeLayout> inode;
  const u32 id;
  const ByteRange range;  // bytes of the file, block aligned
  const bool writable;
  // The client maps through the kernel's page cache. Its pins keep the layout, but they are no reason to keep the page from
  // the cache: that is where the client has it (C5).
  const bool indirect;

  // The rest is guarded by inode->mutex.
  GateWriter gate;
  struct Granted {
    bool writable = false;
    bool hole = false;  // zeros, or beyond the end
    bool copied = false;
    bool punchable() const { return !hole && !copied; }  // else the pages are the client's own memory
    bool operator==(const Granted&) const = default;
  };
  IntervalMap<Granted> granted;  // what the client may have translated, but for what is in `pending`
  // A recall that was sent. Its translations left `granted` when it was queued: what is granted afterwards comes after it
  // in the FIFO and is not touched by its acknowledgement.
  struct PendingRecall {
    u64 id = 0;
    ByteRange range;
    bool holes = false;            // zeros are among them
    bool punchable = false;        // all of it is the pool's pages,
    bool pool = false;             // or some of it
    Clock::time_point deadline{};  // B4: of the recall, whoever waits for it
    Clock::time_point sent{};
  };
  std::vector<PendingRecall> pending;
  // Of a revocable client: grants that it may not have carried out yet, in the FIFO's order.
  struct InFlight {
    u64 number = 0;
    ByteRange range;
  };
  std::deque<InFlight> in_flight;
  std::map<u64, MessagePin> message_pins;
  bool removed = false;

  bool pending_in(ByteRange r) const {
    return std::any_of(pending.begin(), pending.end(), [&](const PendingRecall& p) { return p.range.overlaps(r); });
  }
  // Queues the recall of what is granted in the pieces and moves it to `pending`. True: something was.
  // `downgrade`: only what may be stored to is recalled, and stays granted for reading.
  enum class RecallWhat { kAll, kHoles, kWritable };
  bool send_recall(const std::vector<ByteRange>& pieces, RecallWhat what);
  void forget_carried_out();  // of in_flight
  // Blocks of the range went into the FIFO as packet `number`.
  void granted_as(u64 number, ByteRange r);
  // What was granted of the range is in place or gone, so that a punch takes it away and nothing brings it back.
  bool revocable(ByteRange r);
  // The range was punched: granted blocks there, and recalls of blocks, are over without the client.
  void revoked(ByteRange r);
  // All translations are gone without acknowledgements: unmapped, or the memory itself is gone.
  void forget_translations();
};

// Mappings by their begin, with the length of the longest: an overlap begins less than that before the range.
class MappingIndex {
 public:
  void insert(std::shared_ptr<Mapping> mapping) {
    longest_ = std::max(longest_, mapping->range.length());
    by_begin_.insert(*mapping);
    owned_.emplace(mapping.get(), std::move(mapping));
  }
  void erase(Mapping& mapping) {
    by_begin_.erase(by_begin_.iterator_to(mapping));
    if (by_begin_.empty()) longest_ = 0;
    owned_.erase(&mapping);  // may destroy it
  }
  bool contains(const Mapping* mapping) const { return owned_.contains(const_cast<Mapping*>(mapping)); }
  bool empty() const { return owned_.empty(); }
  template <class F>
  void each(F&& f) {
    for (Mapping& m : by_begin_) f(m);
  }
  template <class F>
  void each_overlapping(ByteRange r, F&& f) {
    if (by_begin_.empty() || r.empty()) return;
    for (auto it = by_begin_.lower_bound(r.begin - std::min(longest_, r.begin), Compare());
         it != by_begin_.end() && it->range.begin < r.end; ++it)
      if (it->range.overlaps(r)) f(*it);
  }
  ~MappingIndex() { by_begin_.clear(); }

 private:
  struct Compare {
    bool operator()(const Mapping& a, const Mapping& b) const { return a.range.begin < b.range.begin; }
    bool operator()(const Mapping& a, u64 b) const { return a.range.begin < b; }
    bool operator()(u64 a, const Mapping& b) const { return a < b.range.begin; }
  };
  boost::intrusive::multiset<Mapping, boost::intrusive::compare<Compare>> by_begin_;
  std::unordered_map<Mapping*, std::shared_ptr<Mapping>> owned_;
  u64 longest_ = 0;
};

class InodeLayout : public std::enable_shared_from_this<InodeLayout> {
 public:
  InodeLayout(std::shared_ptr<Core> c, InodeNo n)
      : core(std::move(c)), ino(n), range_lock(core->executor), kernel_node(core->graph.new_node()) {}

  const std::shared_ptr<Core> core;
  const InodeNo ino;
  RangeLock range_lock;  // has a mutex of the same rank: never called under `mutex`
  std::atomic<bool> ever_mapped{false};
  const WaitGraph::Node kernel_node;  // A6: the kernel's write-back of this inode

  mutable Mutex mutex{LockRank::kLayout};
  MappingIndex mappings GUARDED_BY(mutex);
  std::list<std::shared_ptr<Break>> breaks GUARDED_BY(mutex);         // in order of arrival, until done
  std::list<std::shared_ptr<SlowPin>> queued_pins GUARDED_BY(mutex);  // behind breaks, in order of arrival
  std::list<std::shared_ptr<HeldBack>> held_back GUARDED_BY(mutex);
  IntervalMap<bool> shared GUARDED_BY(mutex);  // ranges whose blocks another file has, too (P4)
  bool damaged GUARDED_BY(mutex) = false;      // bytes of it are lost, or were
  PageCacheOwners pages GUARDED_BY(mutex);
  unsigned sleeping_setattrs GUARDED_BY(mutex) = 0;  // C6
  bool uncommitted GUARDED_BY(mutex) = false;
  u64 size_bytes GUARDED_BY(mutex) = 0;

  // Why pins through a mapping of the range must ask the server (Gate::slow).
  u32 slow_reasons(ByteRange range) const REQUIRES(mutex) {
    return (shared.any(range) ? proto::kGateShared : 0) | (damaged ? proto::kGateLost : 0);
  }
  // Something was acknowledged, dropped or forgotten: breaks that wait for it go on.
  void recheck() REQUIRES(mutex);
  // Asks the kernel to drop the runs; each reports to drop_done(). No ranked lock held.
  void issue(const std::vector<PageCacheOwners::Drop>& drops) EXCLUDES(mutex);
  void drop_done(u64 drop) EXCLUDES(mutex);
  // A removed mapping that no pin names any more leaves the index. True: it is gone.
  bool purge(const std::shared_ptr<Mapping>& mapping) EXCLUDES(mutex);
  // The owner destroys the inode's layout: what is left is forgotten, callbacks do not run.
  void abandon() EXCLUDES(mutex);

  std::shared_ptr<InodeLayout> self;  // the reference that InodeLayoutPtr stands for
};

struct SharedHold::State {
  explicit State(std::shared_ptr<InodeLayout> in) : inode(std::move(in)), request(&own) {}
  std::shared_ptr<InodeLayout> inode;
  RangeLock::Request own;
  RangeLock::Request* request;   // `own`, or that of the break which became this hold
  std::shared_ptr<void> keeper;  // of the latter
  std::function<void(SharedHold)> go;
  ChangeGrant grant;
  std::function<void()> before_release;
};

}  // namespace pindax
