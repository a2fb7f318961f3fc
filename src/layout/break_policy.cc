// SPDX-License-Identifier: BSD-3-Clause
//
// Break: what the policy says about pins that are in the way, and about recalls that nobody answers.
//
// Each pin gets a verdict of its own; the operation's is the worst of them: refuse, before sleep, before quarantine. So it goes on
// without the pinned blocks only if all that is in the way may stay behind.
//
//                       wait         refuse            quarantine          evict
//   now                 sleep        refuse (1)        quarantine (1,2)    kill (1,3)
//   at the deadline     refuse       refuse            quarantine (2)      kill (3)
//   a lease, overdue    quarantine   refuse            quarantine (2)      kill (3)
//
// (1) if no deadline was given, else sleep. (2) if the operation only frees blocks, else it sleeps and at the deadline refuses.
// (3) and sleep until the client is gone. Where the daemon or the caller may not kill, or the process does not end: as
//     quarantine. The caller's own process is never killed.
//
// A lease's holder is asked as soon as a break finds it, whatever the policy, and has `lease_deadline` from then on: as a recall has.
#include "base/steps.h"
#include "layout/break.h"

namespace pindax {

namespace {

constexpr std::chrono::milliseconds kAskAgain{1000};  // the holder's queue was full, or he did not hear

bool is_lease(const SeenPin& pin) { return (pin.kind & proto::kPinKindMask) == static_cast<u32>(proto::PinKind::kLease); }

}  // namespace

// C6: the kernel has stopped the inode's write-back for this SETATTR, and everybody who touches a dirty page hangs.
// Mutex held.
bool Break::must_not_sleep() const NO_THREAD_SAFETY_ANALYSIS {
  return request_.kernel_setattr && (outstayed_ || inode_->pages.may_be_dirty());
}

Break::Verdict Break::verdict_for_recall() const {
  if (!must_not_sleep()) return Verdict::kSleep;
  return may_quarantine() ? Verdict::kQuarantine : Verdict::kRefuse;
}

Break::Verdict Break::decide(const std::vector<BusyPin>& busy) {
  bool at_once = false;
  {
    MutexLock lock(inode_->mutex);
    busy_offset_ = busy.front().range.begin;
    at_once = must_not_sleep();
  }
  look_again_.reset();
  Verdict worst = Verdict::kQuarantine;
  for (const BusyPin& b : busy) {
    const bool late = overdue(b);  // asks, too: whatever comes of this operation, the next one finds less in the way
    Verdict v = at_once ? (may_quarantine() ? Verdict::kQuarantine : Verdict::kRefuse) : verdict_for(b, late);
    // An unstable slot cannot be named, so its blocks cannot be held back for it.
    if (v == Verdict::kQuarantine && b.mapping == nullptr) v = expired() ? Verdict::kRefuse : Verdict::kSleep;
    if (v == Verdict::kRefuse || worst == Verdict::kQuarantine) worst = v;
  }
  return worst;
}

Break::Verdict Break::verdict_for(const BusyPin& b, bool overdue_lease) {
  const bool now = !deadline_ || expired();
  const Verdict otherwise = expired() ? Verdict::kRefuse : Verdict::kSleep;
  switch (policy_) {
    case BusyPolicy::kEvict: {
      // A lease's holder gets his time, unless the operation's own is over.
      const bool due = is_lease(b.pin) ? overdue_lease || expired() : now;
      if (b.mapping != nullptr && due && evict(b.mapping->client)) return Verdict::kSleep;
      return due && may_quarantine() ? Verdict::kQuarantine : otherwise;
    }
    case BusyPolicy::kQuarantine:
      return (now || overdue_lease) && may_quarantine() ? Verdict::kQuarantine : otherwise;
    case BusyPolicy::kRefuse:
      return now || overdue_lease ? Verdict::kRefuse : Verdict::kSleep;
    default:
      if (overdue_lease) return may_quarantine() ? Verdict::kQuarantine : Verdict::kRefuse;
      return otherwise;
  }
}

// Asks the holder of a lease to end it. True: his time is over.
bool Break::overdue(const BusyPin& b) {
  if (b.mapping == nullptr || !is_lease(b.pin)) return false;
  ClientState& client = *b.mapping->client;
  const auto now = Clock::now();
  bool ask = false;
  Clock::time_point since;
  const auto note = [&](ClientState::AskedLease& asked, u64 state) {
    if (asked.state != state || asked.since == Clock::time_point()) asked = {state, now, {}};
    ask = now - asked.last >= kAskAgain;
    if (ask) asked.last = now;
    since = asked.since;
  };
  if (b.message_pin != 0) {
    MutexLock lock(inode_->mutex);
    const auto it = b.mapping->message_pins.find(b.message_pin);
    if (it == b.mapping->message_pins.end()) return false;  // ended meanwhile: the next scan sees it
    note(it->second.asked, 0);
  } else {
    MutexLock lock(client.mutex);
    note(client.asked_leases[b.pin.slot], b.pin.state);
  }
  const auto due = since + core_.options.lease_deadline;
  if (ask) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(std::max(due - now, Clock::duration::zero()));
    client.port->send_pin_recall(b.message_pin != 0 ? proto::kMaxSlots : b.pin.slot, b.message_pin, left);
    core_.counts.lease_recalls.fetch_add(1, std::memory_order_relaxed);
  }
  if (now < due) look_again_ = std::min(look_again_.value_or(due), due);
  return now >= due;
}

// True: the client was killed and its end is worth waiting for.
bool Break::evict(const std::shared_ptr<ClientState>& client) {
  const auto now = Clock::now();
  const auto [it, first] = evicted_.try_emplace(client);
  if (first) {
    const ClientIdentity& who = client->port->identity();
    Status killed(Errc::kPermission, "it is the process that asked for this");
    if (who.pid == 0 || who.pid != requester().pid) {
      PINDAX_STEP("break.evict");
      const Requester& r = requester();
      killed = client->port->evict(std::string("it holds up a ") + request_.operation + " of inode " +
                                       std::to_string(inode_->ino.value) + " by process " + std::to_string(r.pid) + " (uid " +
                                       std::to_string(r.uid) + "), policy evict",
                                   request_.evict_as);
    }
    (killed.ok() ? core_.counts.evictions : core_.counts.evictions_refused).fetch_add(1, std::memory_order_relaxed);
    if (killed.ok()) it->second = now + core_.options.recall_deadline;
  }
  if (now >= it->second) return false;
  look_again_ = std::min(look_again_.value_or(it->second), it->second);
  return true;
}

// Policy evict, and a recall's deadline is over. True: somebody was killed, for it or before, and his end is worth waiting for.
bool Break::evict_silent_clients() {
  if (policy_ != BusyPolicy::kEvict || kind_ != Kind::kChange) return false;
  std::vector<std::shared_ptr<ClientState>> silent;
  {
    MutexLock lock(inode_->mutex);
    for (const HeldBack::Spec& spec : unacknowledged()) silent.push_back(spec.mapping->client);
  }
  bool any = false;
  for (const auto& client : silent)
    if (!client->memory_gone.load()) any = evict(client) || any;
  return any;
}

}  // namespace pindax
