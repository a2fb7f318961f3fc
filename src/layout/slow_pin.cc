// SPDX-License-Identifier: BSD-3-Clause
#include "layout/slow_pin.h"

#include "base/clock.h"
#include "base/steps.h"

namespace pindax {

SlowPin::SlowPin(std::shared_ptr<Mapping> mapping, const PinRequest& request, Done done)
    : mapping_(std::move(mapping)),
      inode_(mapping_->inode),
      core_(*inode_->core),
      request_(request),
      node_(core_.graph.new_node()),
      done_(std::move(done)) {}

void SlowPin::begin() {
  // A2 for those who share no memory: the episode began with the first pin of this thread that still lasts, or now.
  if (!mapping_->client->has_slots()) {
    ClientState& client = *mapping_->client;
    MutexLock lock(client.mutex);
    auto& episode = client.episodes[request_.thread];
    if (episode.pins == 0) {
      episode.age = core_.last_ticket.load();
      ++episode.number;
    }
    request_.age = episode.age;
    request_.episode = episode.number;
  }
  request_lock();
}

void SlowPin::request_lock() {
  if (inode_->range_lock.acquire(lock_request_, request_.range, RangeLock::Mode::kShared, [self = shared_from_this()] { self->locked(); }))
    locked();
}

bool SlowPin::ended() {
  Errc why = Errc::kOk;
  {
    MutexLock lock(inode_->mutex);
    if (interrupted_) why = Errc::kInterrupted;
    else if (mapping_->client->gone.load() || mapping_->removed || !inode_->mappings.contains(mapping_.get()))
      why = Errc::kNotConnected;
  }
  if (why == Errc::kOk) return false;
  finish(why);
  return true;
}

// The client's other pins. Its slots are scanned without locks: all that is read here only decides who waits.
SlowPin::Siblings SlowPin::look_at_siblings() {
  Siblings s;
  ClientState& client = *mapping_->client;
  scan_slots(*client.port, [&](const SeenPin& pin, bool&) {
    if (pin.unstable) return true;
    if (pin.thread == request_.thread) s.holder = true;
    else s.oldest_age = std::min(s.oldest_age, pin.age);
    return true;
  });
  MutexLock lock(client.mutex);
  for (const auto& [thread, episode] : client.episodes) {
    if (episode.pins == 0) continue;
    if (thread == request_.thread) s.holder = true;
    else s.oldest_age = std::min(s.oldest_age, episode.age);
  }
  return s;
}

// Inode mutex held.
SlowPin::Pass SlowPin::may_pass(Break& w, const Siblings& siblings) const {
  const bool passes = request_.age < w.ticket() || w.has_passed(passer()) || siblings.oldest_age < w.ticket();
  if (!passes) return Pass::kNo;
  if (w.has_passed(passer()) && w.passes(passer()) >= kMaxPasses)
    return siblings.holder ? Pass::kExhausted : Pass::kNo;  // A4
  return Pass::kYes;
}

void SlowPin::locked() {
  lock_held_ = true;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ != Phase::kDone) phase_ = Phase::kOwned;
    woken_ = false;
  }
  if (ended()) return;
  const Siblings siblings = look_at_siblings();
  PINDAX_STEP("slow_pin.looked");
  std::vector<WaitGraph::Node> behind;
  bool exhausted = false;
  Result<u64> pin = Errc::kTryAgain;
  {
    MutexLock lock(inode_->mutex);
    std::vector<Break*> passed;
    for (const auto& w : inode_->breaks) {
      if (!w->blocks_pins_in(request_.range)) continue;
      const Pass p = may_pass(*w, siblings);
      exhausted = exhausted || p == Pass::kExhausted;
      if (p == Pass::kNo) behind.push_back(w->node());
      else passed.push_back(w.get());
    }
    if (!exhausted && behind.empty()) {
      for (Break* w : passed) ++w->passes(passer());
      pin = make_visible();  // P3: under the hold
    } else if (!exhausted && !request_.try_only) {
      behind_ = behind;
      inode_->queued_pins.push_back(shared_from_this());
    }
  }
  PINDAX_STEP("slow_pin.decided");
  if (exhausted) return finish(Errc::kDeadlock);
  if (behind.empty() || request_.try_only) return finish(std::move(pin));
  sleep(behind);
}

// Registered in queued_pins since the decision, so no end of a break is missed.
void SlowPin::sleep(const std::vector<WaitGraph::Node>& behind) {
  const u32 pid = mapping_->client->port->identity().pid;
  if (!core_.graph.sleep(node_, {pid, request_.thread}, {}, behind)) return finish(Errc::kDeadlock);
  PINDAX_STEP("slow_pin.sleeping");
  lock_held_ = false;
  inode_->range_lock.release(lock_request_);
  bool again = false;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ == Phase::kDone) return;
    again = woken_ || interrupted_;
    phase_ = again ? Phase::kQueued : Phase::kSleeping;
    if (again) inode_->queued_pins.remove(shared_from_this());
  }
  if (!again) return;
  core_.graph.wake(node_);
  request_lock();
}

Status SlowPin::admit_longterm(ClientState::LongtermPin pin) {
  if ((request_.kind & proto::kPinKindMask) != static_cast<u32>(proto::PinKind::kLongterm)) return {};
  pin.bytes = block_aligned(request_.range).length();
  const u64 quota = core_.options.longterm_quota_bytes;
  MutexLock lock(mapping_->client->mutex);
  if (mapping_->client->admit_longterm(pin, quota)) return {};
  return Status(Errc::kNoMemory, "the long-term pins of this client would exceed its " + std::to_string(quota) +
                                     " bytes (mount option long_term_pins): end others first");
}

Result<u64> SlowPin::make_visible() {
  ClientState& client = *mapping_->client;
  if (request_.slot < proto::kMaxSlots) {
    if (!client.has_slots() || request_.slot >= slot_count(*client.port)) return Errc::kProtocol;
    proto::Slot& slot = client.port->slots()[request_.slot];
    u64 state = slot.state.load(std::memory_order_seq_cst);
    const u64 asked = static_cast<u64>(proto::SlotState::kAsked);
    if ((state & (proto::kSlotSequenceUnit - 1)) != asked) return Errc::kProtocol;
    // The client's bytes: what the slot says is what scans will believe, so it must be what was asked for.
    const ByteRange said{slot.begin.load(std::memory_order_relaxed), slot.end.load(std::memory_order_relaxed)};
    if (said != request_.range || slot.mapping.load(std::memory_order_relaxed) != mapping_->id) return Errc::kProtocol;
    const u64 active = state - asked + static_cast<u64>(proto::SlotState::kActive);
    if (Status s = admit_longterm({request_.slot, active, 0, 0}); !s.ok()) return s;
    if (!slot.state.compare_exchange_strong(state, active, std::memory_order_seq_cst)) return Errc::kProtocol;
    return u64{0};
  }
  const u64 id = core_.new_id();
  if (Status s = admit_longterm({proto::kMaxSlots, 0, id, 0}); !s.ok()) return s;
  core_.counts.pins_of_the_gone.fetch_add(1, std::memory_order_relaxed);
  mapping_->message_pins.emplace(
      id, MessagePin{request_.kind, request_.range, request_.age, request_.thread, monotonic_ns(), {}});
  MutexLock lock(client.mutex);
  client.message_pins.emplace(id, mapping_);
  auto& episode = client.episodes[request_.thread];
  if (episode.pins++ == 0) episode.age = request_.age;
  return id;
}

ChangeRow SlowPin::row() const {
  ChangeRow row;
  const ClientIdentity& who = mapping_->client->port->identity();
  row.id = node_;
  row.ino = inode_->ino;
  row.operation = "pin";
  row.range = request_.range;
  row.requester = {who.pid, request_.thread, who.uid, who.command};
  row.phase = "queued behind a change";
  row.waiting_ns = static_cast<u64>(std::chrono::nanoseconds(Clock::now() - arrived_).count());
  row.behind = behind_;
  return row;
}

void SlowPin::wake() {
  {
    MutexLock lock(inode_->mutex);
    woken_ = true;
    if (phase_ != Phase::kSleeping) return;
    phase_ = Phase::kQueued;
    inode_->queued_pins.remove(shared_from_this());
  }
  core_.graph.wake(node_);
  core_.executor.post([self = shared_from_this()] { self->request_lock(); });
}

void SlowPin::interrupt() {
  bool queued = false;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ == Phase::kDone) return;
    interrupted_ = true;
    queued = phase_ == Phase::kQueued;
  }
  if (queued && inode_->range_lock.cancel(lock_request_)) {
    core_.executor.post([self = shared_from_this()] { self->finish(Errc::kInterrupted); });
    return;
  }
  wake();
}

void SlowPin::finish(Result<u64> result) {
  Done done;
  {
    MutexLock lock(inode_->mutex);
    if (phase_ != Phase::kDone) done = std::move(done_);
    phase_ = Phase::kDone;
    inode_->queued_pins.remove(shared_from_this());
  }
  core_.graph.wake(node_);
  if (lock_held_) inode_->range_lock.release(lock_request_);
  lock_held_ = false;
  if (done) done(std::move(result));
}

void SlowPin::abandon() {
  Done done;
  {
    MutexLock lock(inode_->mutex);
    phase_ = Phase::kDone;
    done = std::move(done_);
  }
  inode_->range_lock.cancel(lock_request_);
  core_.graph.wake(node_);
}

}  // namespace pindax
