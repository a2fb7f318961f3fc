// SPDX-License-Identifier: BSD-3-Clause
//
// A pin that comes by message: because the gate was closed or slow, or because the client shares no memory.
//
// Under a shared hold of its range (so no break is between its scan and its end there) the request looks at the
// breaks that sleep over the range. It must pass each of them (A3) or queues behind them, without the hold; every end
// of such a break makes it look again, in order of arrival. Then it becomes visible to scans (P3): the slot goes
// from asked to active by compare-and-swap, or a row joins the daemon's table; only then the hold is released and the
// caller answered.
//
// A3  W is passed by a thread (a) whose episode is older than W, (b) that has passed W in this episode, (c) of which a
//     sibling is in an episode of its own age older than W. Ages come from the client: a liar delays breaks of files that he
//     maps, which he could do by holding a pin.
// A4  kMaxPasses passes of one episode by one break; then a holder gets kDeadlock at once, others queue.
#pragma once

#include "layout/break.h"

namespace pindax {

class SlowPin final : public Change, public Wakeable, public std::enable_shared_from_this<SlowPin> {
 public:
  using Done = std::function<void(Result<u64>)>;
  SlowPin(std::shared_ptr<Mapping> mapping, const PinRequest& request, Done done);

  void begin();
  void interrupt() override;
  void wake() override;
  void abandon();
  ByteRange range() const { return request_.range; }
  const ClientState& client() const { return *mapping_->client; }
  ChangeRow row() const;  // inode mutex held

 private:
  enum class Phase { kQueued, kOwned, kSleeping, kDone };
  enum class Pass { kYes, kNo, kExhausted };
  // What the client's other pins say about it.
  struct Siblings {
    bool holder = false;  // the thread itself holds a pin
    u64 oldest_age = ~u64{0};
  };
  void request_lock();
  void locked();
  void sleep(const std::vector<WaitGraph::Node>& behind);
  void finish(Result<u64> result);
  bool ended();  // interrupted, client gone, mapping gone: finished
  Siblings look_at_siblings();
  Pass may_pass(Break& w, const Siblings& siblings) const;
  Result<u64> make_visible();  // inode mutex held
  Status admit_longterm(ClientState::LongtermPin pin);  // inode mutex held; `bytes` is filled in
  Break::Passer passer() const { return {mapping_->client.get(), request_.thread, request_.episode}; }

  const std::shared_ptr<Mapping> mapping_;
  const std::shared_ptr<InodeLayout> inode_;
  Core& core_;
  PinRequest request_;
  const WaitGraph::Node node_;
  const Clock::time_point arrived_ = Clock::now();
  Done done_;
  RangeLock::Request lock_request_;
  bool lock_held_ = false;

  // Guarded by inode_->mutex.
  Phase phase_ = Phase::kQueued;
  bool woken_ = false, interrupted_ = false;
  std::vector<WaitGraph::Node> behind_;
};

}  // namespace pindax
