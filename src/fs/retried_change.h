// SPDX-License-Identifier: BSD-3-Clause
//
// A layout change whose ranges depend on the file's size. The size is only certain under the exclusive hold,
// so the change plans with the size of the moment, and apply() asks for another round if the plan no longer
// fits.
#pragma once

#include <functional>
#include <memory>

#include "fs/file_system_impl.h"

namespace pindax {

class RetriedChange final : public Change, public std::enable_shared_from_this<RetriedChange> {
 public:
  // Without locks: what to lock and break, by the file's present state.
  using Plan = std::function<Result<ChangeRequest>()>;
  // As Layout::change's. Sets *again, having done nothing, if the ranges of the last plan do not cover the
  // change.
  using Apply = std::function<Status(const ChangeGrant&, bool* again)>;

  static std::shared_ptr<Change> start(Layout& layout, InodeRef inode, Plan plan, Apply apply,
                                       std::function<void(Status)> done);
  // For calls that fail before they reach the layout room: runs `done`.
  static std::shared_ptr<Change> failed(Status status, const std::function<void(Status)>& done);

  void interrupt() override;

 private:
  RetriedChange(Layout& layout, InodeRef inode, Plan plan, Apply apply, std::function<void(Status)> done)
      : layout_(layout),
        inode_(std::move(inode)),
        plan_(std::move(plan)),
        apply_(std::move(apply)),
        done_(std::move(done)) {}
  void round();
  void finish(Status status);

  Layout& layout_;
  InodeRef inode_;
  Plan plan_;
  Apply apply_;
  std::function<void(Status)> done_;
  bool again_ = false;  // between apply and done of one round, which never overlap

  Mutex mutex_{LockRank::kLeaf};
  std::shared_ptr<Change> inner_ GUARDED_BY(mutex_);  // the round under way
  unsigned rounds_ GUARDED_BY(mutex_) = 0;
  bool interrupted_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
};

}  // namespace pindax
