// SPDX-License-Identifier: BSD-3-Clause
//
// A request that may wait for pins: SETATTR of a size, FALLOCATE, OPEN with O_TRUNC, the fill of a page. Joins
// FUSE's interrupts to the layout room's Change (R8).
//
// libfuse calls an interrupt function with the request's lock held, also from within its registration, and a
// reply frees the request. So
//  1. the function is registered before the change starts: the request cannot be replied to before that;
//  2. the function only notes the interrupt and posts the rest to the executor: it never replies, and never
//  waits;
//  3. it is taken back before the reply: that waits for a function that runs, and later interrupts find
//  nothing.
//
// A fill that ends with an error is a SIGBUS, whatever the error, and any signal interrupts, also one that has a
// handler. So a fill is only ended for a thread that dies: until it does (a second signal brings no second
// interrupt) it is looked at now and then.
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

  // The same in steps, for what does not end with a status: begin, start the change, attach() it; finished() before
  // the reply, whichever of the two comes first.
  enum class EndedBy { kAnySignal, kDeath };
  static std::shared_ptr<PendingChange> begin(PendingChanges& all, Executor& executor, fuse_req_t req, EndedBy ended_by);
  void attach(std::shared_ptr<Change> change) EXCLUDES(mutex_);
  void finished() EXCLUDES(mutex_);

  PendingChange(PendingChanges& all, Executor& executor, fuse_req_t req, EndedBy ended_by)
      : all_(all), executor_(executor), req_(req), ended_by_(ended_by), thread_(::fuse_req_ctx(req)->pid) {}

 private:
  friend class PendingChanges;
  static void on_interrupt(fuse_req_t req, void* data);
  void signalled() EXCLUDES(mutex_);
  void interrupt() EXCLUDES(mutex_);

  PendingChanges& all_;
  Executor& executor_;
  const fuse_req_t req_;
  const EndedBy ended_by_;
  const pid_t thread_;  // 0: of another pid namespace
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
