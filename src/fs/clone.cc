// SPDX-License-Identifier: BSD-3-Clause
//
// clone_range(): the steps of a clone (clone.h), each under a change of the layout room, until all is shared.
#include "fs/clone.h"

#include <algorithm>

namespace pindax {

namespace {

constexpr unsigned kMostRounds = 16;

}  // namespace

void Clone::start() {
  Status status = prepare();
  if (!status.ok() || count_ == 0) return finish(status);
  mark();
}

void Clone::interrupt() {
  std::shared_ptr<Change> inner;
  {
    MutexLock lock(mutex_);
    interrupted_ = true;
    inner = inner_;
  }
  if (inner) inner->interrupt();
}

Status Clone::measure() {
  InodeLocks locks{&source(), &target()};
  PINDAX_ASSIGN(const SlotView from, fs_.read_slot(source()));
  PINDAX_ASSIGN(const SlotView to, fs_.read_slot(target()));
  PINDAX_ASSIGN(count_, clone_length(ask_, *from, *to));
  return {};
}

Status Clone::prepare() {
  PINDAX_TRY(fs_.check_writable());
  PINDAX_TRY(measure());
  if (count_ == 0) return {};
  PINDAX_TRY(fs_.check_room());
  PINDAX_TRY(fs_.use_feature(format::kRoCompatShareCounts));
  return ask_.dedupe ? Status() : fs_.drop_capability(target());
}

void Clone::mark() {
  if (++rounds_ > kMostRounds)
    return finish(Status(Errc::kTryAgain, "the source is being written all the time"));
  if (rounds_ > 1) {
    const Status status = measure();
    if (!status.ok() || done_blocks_ >= blocks_for(count_)) return finish(status);
  }
  const Result<bool> marked = is_marked();
  if (!marked.ok()) return finish(marked.status());
  if (*marked) return share();
  ChangeRequest request;
  {
    ReadLock lock(source().mutex);
    const Result<SlotView> slot = fs_.read_slot(source());
    if (slot.ok()) request = make_change_request(fs_, **slot, ask_.dedupe ? "dedupe" : "clone", context_);
  }
  request.lock_range = request.break_range = source_range();
  request.only_frees = false;
  set_patience(request);
  const auto self = shared_from_this();
  run(
      source(), request, [self](const ChangeGrant&) { return self->flag_source(); },
      [self](Status status) { status.ok() ? self->share() : self->finish(std::move(status)); });
}

void Clone::share() {
  Result<ChangeRequest> request = plan();
  if (!request.ok()) return finish(request.status());
  again_ = false;
  const auto self = shared_from_this();
  run(
      target(), *request, [self](const ChangeGrant& grant) { return self->share_all(grant); },
      [self](Status status) {
        if (self->again_)
          self->mark();
        else
          self->finish(std::move(status));
      });
}

void Clone::set_patience(ChangeRequest& request) const {
  if (!ask_.never_wait) return;
  request.policy = BusyPolicy::kRefuse;
  request.deadline = std::chrono::milliseconds(0);
}

void Clone::run(Inode& inode, const ChangeRequest& request, std::function<Status(const ChangeGrant&)> apply,
                std::function<void(Status)> done) {
  unsigned number = 0;
  {
    MutexLock lock(mutex_);
    inner_.reset();
    number = ++changes_;
  }
  auto inner = fs_.layout().change(*inode.layout(), request, std::move(apply), std::move(done));
  bool interrupt_it = false;
  {
    MutexLock lock(mutex_);
    if (number == changes_ && !finished_)
      inner_ = inner;  // the next one, or the end, may have come before this line
    interrupt_it = interrupted_ && !finished_;
  }
  if (interrupt_it) inner->interrupt();
}

void Clone::finish(Status status) {
  std::shared_ptr<Change> inner;
  {
    MutexLock lock(mutex_);
    finished_ = true;
    inner = std::move(inner_);
  }
  const auto done = std::move(done_);
  const u64 shared = std::min(count_, done_blocks_ << kBlockShift);
  if (differs_)
    done(u64{0});
  else if (status.ok())
    done(count_);
  else if (ask_.may_shorten && shared > 0)
    done(shared);
  else
    done(std::move(status));
}

std::shared_ptr<Change> FileSystemImpl::clone_range(const CloneRequest& request, const ChangeContext& context,
                                                    std::function<void(Result<u64>)> done) {
  auto clone = std::make_shared<Clone>(*this, request, context, std::move(done));
  clone->start();
  return clone;
}

}  // namespace pindax
