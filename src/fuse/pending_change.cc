// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/pending_change.h"

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/proc.h"

namespace pindax {
namespace {

constexpr std::chrono::milliseconds kLookAgain{100};

constexpr unsigned long long bit(int signal) { return 1ull << (signal - 1); }
constexpr unsigned long long kHarmless =
    bit(SIGCHLD) | bit(SIGCONT) | bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU) | bit(SIGURG) | bit(SIGWINCH);

// A signal is pending that ends the process: neither blocked nor ignored, and without a handler. Or the thread is gone already.
bool is_dying(pid_t thread) {
  if (thread == 0) return false;
  const std::string status = read_proc(static_cast<u32>(thread), "status");
  if (status.empty()) return true;
  const auto mask = [&](const char* key) { return std::strtoull(status_field(status, key).value_or("0").c_str(), nullptr, 16); };
  return ((mask("SigPnd") | mask("ShdPnd")) & ~(mask("SigBlk") | mask("SigIgn") | mask("SigCgt") | kHarmless)) != 0;
}

}  // namespace

std::shared_ptr<PendingChange> PendingChange::begin(PendingChanges& all, Executor& executor, fuse_req_t req,
                                                    EndedBy ended_by) {
  auto self = std::make_shared<PendingChange>(all, executor, req, ended_by);
  {
    MutexLock lock(all.mutex_);
    all.changes_.insert(self.get());
  }
  ::fuse_req_interrupt_func(req, &PendingChange::on_interrupt, self.get());
  return self;
}

void PendingChange::run(PendingChanges& all, Executor& executor, fuse_req_t req,
                        const std::function<std::shared_ptr<Change>(Done)>& start, Done finish) {
  auto self = begin(all, executor, req, EndedBy::kAnySignal);
  auto change = start([self, finish = std::move(finish)](Status status) {
    self->finished();
    finish(std::move(status));
  });
  self->attach(std::move(change));
}

void PendingChange::on_interrupt(fuse_req_t, void* data) {
  auto self = static_cast<PendingChange*>(data)->shared_from_this();
  Executor& executor = self->executor_;
  executor.post([self = std::move(self)] { self->signalled(); });
}

void PendingChange::signalled() {
  if (ended_by_ == EndedBy::kAnySignal || is_dying(thread_)) return interrupt();
  {
    MutexLock lock(mutex_);
    if (done_) return;
  }
  executor_.post_at(Executor::Clock::now() + kLookAgain, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->signalled();
  });
}

void PendingChange::attach(std::shared_ptr<Change> change) {
  {
    MutexLock lock(mutex_);
    if (done_) return;
    change_ = change;
    if (!interrupted_) return;
  }
  if (change != nullptr) change->interrupt();
}

void PendingChange::interrupt() {
  std::shared_ptr<Change> change;
  {
    MutexLock lock(mutex_);
    interrupted_ = true;
    if (done_) return;
    change = change_;
  }
  if (change != nullptr) change->interrupt();
}

void PendingChange::finished() {
  ::fuse_req_interrupt_func(req_, nullptr, nullptr);
  {
    MutexLock lock(all_.mutex_);
    all_.changes_.erase(this);
  }
  std::shared_ptr<Change> dropped;
  MutexLock lock(mutex_);
  done_ = true;
  dropped.swap(change_);
}

void PendingChanges::interrupt_all() {
  std::vector<std::shared_ptr<PendingChange>> waiting;
  {
    MutexLock lock(mutex_);
    for (PendingChange* c : changes_)
      if (auto ref = c->weak_from_this().lock()) waiting.push_back(std::move(ref));
  }
  for (const auto& c : waiting) c->interrupt();
}

std::size_t PendingChanges::count() const {
  MutexLock lock(mutex_);
  return changes_.size();
}

}  // namespace pindax
