// SPDX-License-Identifier: BSD-3-Clause
//
// See retried_change.h. The rounds follow each other: the next one starts in the `done` of the last.
#include "fs/retried_change.h"

namespace pindax {

namespace {

class FinishedChange final : public Change {
 public:
  void interrupt() override {}
};

}  // namespace

std::shared_ptr<Change> RetriedChange::failed(Status status, const std::function<void(Status)>& done) {
  done(std::move(status));
  return std::make_shared<FinishedChange>();
}

std::shared_ptr<Change> RetriedChange::start(Layout& layout, InodeRef inode, Plan plan, Apply apply,
                                             std::function<void(Status)> done) {
  std::shared_ptr<RetriedChange> change(
      new RetriedChange(layout, std::move(inode), std::move(plan), std::move(apply), std::move(done)));
  change->round();
  return change;
}

void RetriedChange::round() {
  const Result<ChangeRequest> request = plan_();
  if (!request.ok()) return finish(request.status());
  unsigned number = 0;
  {
    MutexLock lock(mutex_);
    inner_.reset();
    number = ++rounds_;
  }
  again_ = false;
  const std::shared_ptr<RetriedChange> self = shared_from_this();
  std::shared_ptr<Change> inner = layout_.change(
      *inode_->layout(), *request,
      [self](const ChangeGrant& grant) {
        const Status status = self->apply_(grant, &self->again_);
        return self->again_ ? Status(Errc::kTryAgain) : status;
      },
      [self](Status status) {
        if (self->again_) {
          self->round();
        } else {
          self->finish(std::move(status));
        }
      });
  bool interrupt_it = false;
  {
    MutexLock lock(mutex_);
    // A later round, or the end, may have come before this line.
    if (!finished_ && number == rounds_) inner_ = inner;
    interrupt_it = interrupted_ && !finished_;
  }
  if (interrupt_it) inner->interrupt();
}

void RetriedChange::finish(Status status) {
  std::shared_ptr<Change> inner;
  {
    MutexLock lock(mutex_);
    finished_ = true;
    inner = std::move(inner_);
  }
  const auto done = std::move(done_);
  plan_ = nullptr;
  apply_ = nullptr;
  done(std::move(status));
}

void RetriedChange::interrupt() {
  std::shared_ptr<Change> inner;
  {
    MutexLock lock(mutex_);
    interrupted_ = true;
    inner = inner_;
  }
  if (inner) inner->interrupt();
}

}  // namespace pindax
