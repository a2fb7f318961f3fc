// SPDX-License-Identifier: BSD-3-Clause
//
// A request that may wait for pins: SETATTR of a size, FALLOCATE, OPEN with O_TRUNC. Joins FUSE's interrupts
// to the layout room's Change (R8).
//
// libfuse calls an interrupt function with the request's lock held, also from within its registration, and a
// reply frees the request. So
//  1. the function is registered before the change starts: the request cannot be replied to before that;
//  2. the function only notes the interrupt and posts the rest to the executor: it never replies, and never
//  waits;
//  3. it is taken back before the reply: that waits for a function that runs, and later interrupts find
//  nothing.
#pragma once

#include <fuse_lowlevel.h>

#include <functional>
#include <memory>
#include <unordered_set>

#include "base/executor.h"
#include "layout/layout.h"

namespace pindax {

class PendingChanges;

class PendingChange : public std::enable_shared_from_this<PendingChange> {
 public:
  using Done = std::function<void(Status)>;
  // `start` begins the change with the callback that it is given. `finish` runs after the change and must
  // reply.
  static void run(PendingChanges& all, Executor& executor, fuse_req_t req,
                  const std::function<std::shared_ptr<Change>(Done)>& start, Done finish);

  PendingChange(PendingChanges& all, Executor& executor, fuse_req_t req)
      : all_(all), executor_(executor), req_(req) {}

 private:
  friend class PendingChanges;
  static void on_interrupt(fuse_req_t req, void* data);
  void attach(std::shared_ptr<Change> change) EXCLUDES(mutex_);
  void interrupt() EXCLUDES(mutex_);
  void finished() EXCLUDES(mutex_);

  PendingChanges& all_;
  Executor& executor_;
  const fuse_req_t req_;
  Mutex mutex_{LockRank::kLeaf};
  std::shared_ptr<Change> change_ GUARDED_BY(mutex_);
  bool interrupted_ GUARDED_BY(mutex_) = false;
  bool done_ GUARDED_BY(mutex_) = false;
};

// All that wait, so that an unmount can end them.
class PendingChanges {
 public:
  void interrupt_all() EXCLUDES(mutex_);
  std::size_t count() const EXCLUDES(mutex_);

 private:
  friend class PendingChange;
  mutable Mutex mutex_{LockRank::kLeaf};
  std::unordered_set<PendingChange*> changes_ GUARDED_BY(mutex_);
};

}  // namespace pindax
