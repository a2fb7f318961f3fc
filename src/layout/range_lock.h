// SPDX-License-Identifier: BSD-3-Clause
//
// The mmap-lock: a fair range lock, one per inode.
//
// Usage. Faults, map requests, reads and writes hold their range shared; layout changes hold theirs exclusively. Every
// take and retake queues FIFO (B1): a request waits for every earlier request, held or queued, that it conflicts with, so new
// shared holders queue behind a queued writer, and disjoint ranges never meet.
//
// No thread ever waits in here. acquire() either grants at once or remembers the request, and `granted` is then posted
// to the executor when its turn comes. The request object belongs to the caller and must outlive its hold. Upgrades
// do not exist: release and acquire, and look again at everything.
//
// Thread-safe. Has a mutex of its own of rank kLayout: never called under the inode's layout mutex.
#pragma once

#include <boost/intrusive/list.hpp>
#include <functional>
#include <vector>

#include "base/executor.h"
#include "base/types.h"

namespace pindax {

class RangeLock {
 public:
  enum class Mode { kShared, kExclusive };
  enum class State { kIdle, kQueued, kHeld };

  class Request : public boost::intrusive::list_base_hook<> {
   public:
    Request() = default;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    ByteRange range() const { return range_; }
    Mode mode() const { return mode_; }

   private:
    friend class RangeLock;
    ByteRange range_;
    Mode mode_ = Mode::kShared;
    State state_ = State::kIdle;
    std::function<void()> granted_;
  };

  explicit RangeLock(Executor& executor) : executor_(executor) {}
  ~RangeLock();  // nobody holds or waits

  // True: held on return, `granted` is dropped unused. False: queued, `granted` runs once on the executor, held.
  // An empty range conflicts with nothing and is granted at once.
  bool acquire(Request& r, ByteRange range, Mode mode, std::function<void()> granted) EXCLUDES(mutex_);
  // True: the request was still queued and is forgotten; `granted` will not run. False: held (or about to be told so).
  bool cancel(Request& r) EXCLUDES(mutex_);
  void release(Request& r) EXCLUDES(mutex_);
  // For assertions and listings.
  bool held(const Request& r) const EXCLUDES(mutex_);
  std::size_t queued() const EXCLUDES(mutex_);

 private:
  bool blocked(const Request& r) const REQUIRES(mutex_);  // an earlier request conflicts
  void remove(Request& r, std::vector<std::function<void()>>& ready) REQUIRES(mutex_);

  mutable Mutex mutex_{LockRank::kLayout};
  // All requests in order of arrival, held and queued: O(requests on this inode) a step.
  boost::intrusive::list<Request> requests_ GUARDED_BY(mutex_);
  Executor& executor_;
};

}  // namespace pindax
