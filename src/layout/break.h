// SPDX-License-Identifier: BSD-3-Clause
//
// Break: makes a range idle, then changes the layout, or hands the range over. A state machine; no thread waits in it.
//
//            begin
//              | A1 ticket
//              v
//   +----> [queued] ---- the range lock, FIFO (B1)
//   |          v
//   |     close gates (G1, first time), fence, scan all slots (G3, B2)
//   |          |                         |
//   |        clean                     busy: ask leases to end, evict (policy); verdict:
//   |          |                       refuse / quarantine (as clean, but for what is pinned) / sleep
//   |          v                                                                         |
//   |     recall translations and kernel pages (B3)              mark (U2), edges (A6), DROP THE LOCK
//   |      |           |                                                                 v
//   |   nothing     [recalling] --- not within recall_bound: drop the lock (B4) ---> [sleeping]
//   |   pending        | acknowledged                                                    |
//   |      v           v                                 unpin's bell, client gone, acknowledgement,
//   |     [applying], lock held                               deadline, periodic rescan (U3)
//   |          |                                                                         |
//   |     punch what was freed; not all of it: [settling] recall the rest, at most recall_bound
//   |          v                                                                         |
//   |     count out with a new generation (G2), unlock, serve the queue (B5)             |
//   |          v                                                                         |
//   |       [done]                                                                       |
//   +------------------------------------------------------------------------------------+
//
// Scan, sleep and wake use one predicate (R26): "a pin published in a slot or the daemon's table overlaps the range". Wakers
// never decide anything; they only make the break look again, at everything (R2).
//
// An interrupt ends it at any moment before [applying]: counted out, nothing changed (R8, R9). With a recall sent, the
// generation is new even so (G2, B4): clients that had acknowledged fault again.
//
// Three users:
//   kChange  a layout change. apply() runs with only the range lock held, then done().
//   kFill    C5: a page-cache fill. Direct translations are recalled, pins are waited for with a finite deadline; then the
//            pages are the cache's and go() runs with the hold.
//   kFault   C1, C4: a direct fault that must take pages from the cache, or zero pages from other mappers (R18), or the
//            shared blocks that it copies from everybody, itself included (R29). Creates no pins, so it scans none and never
//            waits for a sleeping break (A5). Without a mapping: a read or write past the cache (C7).
//
// Locking: `phase_` and what stands with it are guarded by inode_->mutex. Whoever moves the phase out of a waiting
// state owns the machine until the next one: the rest belongs to the owner alone.
#pragma once

#include <map>
#include <mutex>

#include "layout/held_back.h"
#include "layout/inode_layout.h"

namespace pindax {

inline constexpr std::chrono::milliseconds kFillDeadline{5000};  // C5, C6
inline constexpr u32 kMaxPasses = 64;                            // A4
inline constexpr u64 kRevokeAtOnceBytes = kHugePageSize;         // of one translation; more is asked for first

class Break final : public Change, public Wakeable, public std::enable_shared_from_this<Break> {
 public:
  enum class Kind { kChange, kFill, kFault };
  enum class Phase { kQueued, kScanning, kSleeping, kRecalling, kParked, kApplying, kSettling, kDone };
  using Apply = std::function<Status(const ChangeGrant&)>;
  using Done = std::function<void(Status)>;
  using Go = std::function<void(Result<SharedHold>)>;

  static std::shared_ptr<Break> change(std::shared_ptr<InodeLayout> inode, const ChangeRequest& request, Apply apply,
                                       Done done);
  static std::shared_ptr<Break> fill(std::shared_ptr<InodeLayout> inode, ByteRange range, bool writable, Go go);
  static std::shared_ptr<Break> access(std::shared_ptr<InodeLayout> inode, ByteRange range, Go go);
  static std::shared_ptr<Break> fault(std::shared_ptr<InodeLayout> inode, std::shared_ptr<Mapping> mapping, ByteRange range,
                                      FaultKind kind, Go go);
  Break(std::shared_ptr<InodeLayout> inode, Kind kind, const ChangeRequest& request);
  ~Break() override { core_.remove(*this); }

  void begin();
  void interrupt() override;
  void wake() override;
  void abandon();

  // ---- For the inode's other operations; inode mutex held ----
  // A pin over `range` must pass this break or queue behind it (A3).
  bool blocks_pins_in(ByteRange range) const NO_THREAD_SAFETY_ANALYSIS {
    return counted_in_ && phase_ != Phase::kDone && range_.overlaps(range);
  }
  bool closes(ByteRange range) const { return blocks_pins_in(range); }
  bool applying_in(ByteRange range) const NO_THREAD_SAFETY_ANALYSIS {
    return (phase_ == Phase::kApplying || phase_ == Phase::kSettling) && kind_ == Kind::kChange && range_.overlaps(range);
  }
  u64 ticket() const NO_THREAD_SAFETY_ANALYSIS { return ticket_; }
  WaitGraph::Node node() const { return id_; }
  struct Passer {
    const ClientState* client;
    u32 thread, episode;
    auto operator<=>(const Passer&) const = default;
  };
  u32& passes(const Passer& who) NO_THREAD_SAFETY_ANALYSIS { return passes_[who]; }
  bool has_passed(const Passer& who) const NO_THREAD_SAFETY_ANALYSIS { return passes_.contains(who); }
  void recheck_locked();  // InodeLayout::recheck()
  // Who asked for it, with process and command. No lock held.
  const Requester& requester() const;
  ChangeRow row() const;  // takes the mutex; without waits_for
  std::vector<RecallRow> recall_rows() const;

  u64 id() const { return id_; }
  ByteRange range() const { return range_; }
  Kind kind() const { return kind_; }
  InodeLayout& inode() const { return *inode_; }

 private:
  struct BusyPin {
    std::shared_ptr<Mapping> mapping;  // null: an unstable slot, of which nothing is known
    SeenPin pin;
    u64 message_pin = 0;
    ByteRange range;  // clipped to the mapping and the break
  };
  static WaitGraph::Holder holder_of(const BusyPin& b);
  struct ScanTarget {
    std::shared_ptr<ClientState> client;
    std::vector<std::shared_ptr<Mapping>> mappings;
  };
  enum class Verdict { kSleep, kQuarantine, kRefuse };

  // break_policy.cc: what is done about what is in the way
  Verdict decide(const std::vector<BusyPin>& busy);
  Verdict verdict_for(const BusyPin& b, bool overdue_lease);
  Verdict verdict_for_recall() const;  // mutex held
  bool may_quarantine() const {
    return kind_ == Kind::kChange && request_.only_frees && policy_ != BusyPolicy::kRefuse;
  }
  bool must_not_sleep() const;
  bool expired() const { return deadline_ && Clock::now() >= *deadline_; }
  bool overdue(const BusyPin& b);
  bool evict(const std::shared_ptr<ClientState>& client);
  bool evict_silent_clients();

  // break.cc: the machine
  void request_lock();
  void locked();
  bool behind_a_drain() const;
  void on_busy(std::vector<BusyPin> busy);
  void sleep(std::vector<BusyPin> busy, bool for_recall);
  void arm(Clock::time_point when);
  void timer_fired(u64 step);
  void poll_clients();
  void park();
  void outstay();
  std::function<void()> grant_leftovers(ChangeGrant& grant);
  void apply();
  void finish(Status status, bool applied);
  bool interrupted_now();
  void post(void (Break::*step)());

  // break_scan.cc
  void close_gates();
  std::vector<ScanTarget> scan_targets();
  std::vector<BusyPin> scan_message_pins();
  std::vector<BusyPin> scan_clients(const std::vector<ScanTarget>& targets, bool mark);
  std::vector<BusyPin> scan();
  void stop_waiting();

  // break_revoke.cc
  struct Claim {
    std::shared_ptr<Mapping> mapping;
    ByteRange range;
  };
  struct FreedRun {
    ByteRange range;  // of the file
    u64 block = 0, length_blocks = 0;
  };
  bool may_revoke() const;
  bool punch_reaches(Mapping& m, ByteRange r) const;    // mutex held
  bool revokes_at_once(Mapping& m, ByteRange r) const;  // mutex held
  void claim(ChangeGrant& grant);                       // mutex held
  bool revoke(const std::vector<FreedRun>& freed, bool applied);

  // break_recall.cc
  void recall();
  void recall_answered();
  void retake_lock();
  void settled();
  void bound_passed();
  void force_or_refuse();
  void keep_waiting_for_recall();
  bool anything_pending() const;  // mutex held
  Clock::time_point latest_recall_deadline() const;
  // Makes shared blocks the file's own: what is stale then may only be read, and where it is a copy in the client's memory, it is
  // no more at risk than zeros are.
  bool copies() const { return request_.moves_blocks && (kind_ == Kind::kFault || request_.recall_only); }
  // Stale translations are zeros.
  bool zeros_only() const { return !request_.moves_blocks && (kind_ == Kind::kFault || request_.recall_only); }
  bool exempt(const Mapping& mapping, ByteRange r) const;
  IntervalMap<bool> without_exempt(const Mapping& mapping, ByteRange r) const;  // what is left of the range
  std::vector<HeldBack::Spec> unacknowledged() const;
  std::vector<HeldBack::Spec> held_back_specs() const;

  const std::shared_ptr<InodeLayout> inode_;
  Core& core_;
  const Kind kind_;
  const ChangeRequest request_;
  mutable Requester requester_ = request_.requester;
  mutable std::once_flag identified_;
  const BusyPolicy policy_;
  const ByteRange range_;  // made idle; block aligned: pins protect blocks, and a gate must say what the scan says (R26)
  const u64 id_;
  const Clock::time_point arrived_ = Clock::now();
  const std::optional<Clock::time_point> deadline_;
  bool write_ = false;                // kFill: writable handle; kFault: write fault
  std::shared_ptr<Mapping> faulter_;  // kFault
  // The kernel's pages stay: they are in a fill's own hands, or the faulter's memory; or (C6) a SETATTR's, which the kernel drops
  // itself when it has the answer, and until then a notification over a dirty page would wait for that very answer.
  bool leaves_cache() const {
    return kind_ == Kind::kFill || request_.kernel_setattr || (faulter_ != nullptr && faulter_->indirect);
  }
  Apply apply_;
  Done done_;
  Go go_;

  // Guarded by inode_->mutex.
  Phase phase_ = Phase::kQueued;
  u64 step_ = 0;  // grows with each change of phase, so that a late timer knows itself
  bool woken_ = false;
  bool interrupted_ = false;
  bool counted_in_ = false;   // G1
  bool recall_sent_ = false;  // G2
  bool counts_as_sleeping_setattr_ = false;
  bool outstayed_ = false;  // a SETATTR: a parked fill has waited for too long
  bool sleeps_for_recall_ = false;
  u64 ticket_ = 0;  // A1
  u64 scans_ = 0, retries_ = 0, busy_offset_ = 0;
  std::map<Passer, u32> passes_;

  // The owner's.
  RangeLock::Request lock_request_;
  bool lock_held_ = false;
  Executor::TimerId timer_ = 0;
  std::optional<Clock::time_point> recall_deadline_;
  std::optional<Clock::time_point> look_again_;  // before the periodic rescan: a lease falls due, a killed client should be gone
  // Clients that policy evict has tried to end, and until when their end is waited for (the epoch: it may not be ended).
  std::map<std::shared_ptr<ClientState>, Clock::time_point> evicted_;
  std::vector<BusyPin> exempt_;                // pinned, to be quarantined
  std::vector<HeldBack::Spec> forced_;         // not acknowledged in time (F4)
  std::vector<Claim> claims_;                  // translations that a punch is to end
  bool overdue_ = false;                       // answers took longer than the bound: revoke what can be revoked
  std::vector<std::shared_ptr<ClientState>> waits_on_;  // registered with these
};

}  // namespace pindax
