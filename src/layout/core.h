// SPDX-License-Identifier: BSD-3-Clause
//
// What all inodes of a Layout share: the executor, the options, the sources of numbers, the table of clients, the list of
// operations under way, the waits-for graph. Lives as long as anything of the room does.
//
// Locks of this room, outermost first; none of one rank is taken under another of the same rank, and no callback of another room
// runs under any but ClientPort::send_*:
//   kLayout      InodeLayout::mutex, RangeLock's own      one inode's mappings, gates, breaks, page owners / its lock
//   kWaitGraph   Core::mutex, ClientState::mutex, WaitGraph's own
//   kClientQueue inside ClientPort::send_*
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "layout/client_port.h"
#include "layout/gate.h"
#include "layout/wait_graph.h"

namespace pindax {

class Break;
class Mapping;
class SlowPin;

using Clock = Executor::Clock;

// Something that sleeps until a client's pins may have changed.
class Wakeable {
 public:
  virtual ~Wakeable() = default;
  virtual void wake() = 0;  // look again; thread-safe, no ranked lock held
};

// A client session. Its mappings, recalls and pins without slots by number; who waits for it.
class ClientState : public std::enable_shared_from_this<ClientState> {
 public:
  explicit ClientState(std::shared_ptr<ClientPort> p) : port(std::move(p)) {}

  const std::shared_ptr<ClientPort> port;
  std::atomic<bool> gone{false};         // D1: its pins have ended
  std::atomic<bool> memory_gone{false};  // and nothing maps the pool for it any more

  bool has_slots() const { return port->slot_header() != nullptr; }

  // U2: registered before the scan whose outcome it may sleep on, so that no bell between scan and sleep is lost.
  void wait(const std::shared_ptr<Wakeable>& who) EXCLUDES(mutex);
  void stop_waiting(Wakeable* who) EXCLUDES(mutex);
  void wake_all() EXCLUDES(mutex);
  // At most one true a period: poll_dead() asks the kernel.
  bool time_to_poll(Clock::time_point now, Clock::duration period) EXCLUDES(mutex);

  Mutex mutex{LockRank::kWaitGraph};
  std::map<u32, std::shared_ptr<Mapping>> mappings GUARDED_BY(mutex);  // removed ones too, until their id is reusable
  std::unordered_map<u64, std::shared_ptr<Mapping>> recalls GUARDED_BY(mutex);  // sent, not acknowledged
  std::unordered_map<u64, std::shared_ptr<Mapping>> message_pins GUARDED_BY(mutex);
  // A2 for threads without slots: what the client cannot say itself.
  struct Episode {
    u64 age = 0;
    u64 pins = 0;
    u32 number = 0;
  };
  std::map<u32, Episode> episodes GUARDED_BY(mutex);

  // Leases whose holder was asked to end them, by slot; a slot that publishes something else by now has no entry.
  struct AskedLease {
    u64 state = 0;
    Clock::time_point since, last;
  };
  std::map<u32, AskedLease> asked_leases GUARDED_BY(mutex);

  // Long-term pins that were admitted, ended ones among them until the quota is reached: they end without a message.
  struct LongtermPin {
    u32 slot = 0;
    u64 state = 0;        // of the slot
    u64 message_pin = 0;  // without a slot
    u64 bytes = 0;
  };
  // False: `pin` would exceed the quota.
  bool admit_longterm(const LongtermPin& pin, u64 quota_bytes) REQUIRES(mutex);

 private:
  std::vector<LongtermPin> longterm_ GUARDED_BY(mutex);
  u64 longterm_bytes_ GUARDED_BY(mutex) = 0;
  std::size_t longterm_kept_ GUARDED_BY(mutex) = 0;  // when last looked through
  std::map<Wakeable*, std::weak_ptr<Wakeable>> waiting_ GUARDED_BY(mutex);
  Clock::time_point next_poll_ GUARDED_BY(mutex){};
};

class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Executor& e, const LayoutOptions& o) : executor(e), options(o) {}

  Executor& executor;
  const LayoutOptions options;
  std::atomic<KernelCache*> kernel_cache{nullptr};
  std::atomic<QuarantineOwner*> quarantine_owner{nullptr};
  GenerationSource generations;
  WaitGraph graph;
  std::atomic<u64> last_ticket{0};  // A1
  std::atomic<u64> last_id{0};      // of recalls, pins and changes

  struct Counts {  // LayoutTotals
    std::atomic<u64> breaks{0}, waited{0}, retries{0}, scans{0}, recalls{0}, revoked{0};
    std::atomic<u64> lease_recalls{0}, evictions{0}, evictions_refused{0}, faults{0};
    std::atomic<u64> pins_of_the_gone{0};  // and of clients without slots
  };
  Counts counts;

  u64 new_id() { return last_id.fetch_add(1, std::memory_order_relaxed) + 1; }
  // Shows the client every ticket up to `ticket`.
  static void publish_ticket(ClientState& client, u64 ticket);

  std::shared_ptr<ClientState> find(ClientPort& port) EXCLUDES(mutex);
  std::vector<std::shared_ptr<ClientState>> all_clients() EXCLUDES(mutex);
  // D1: its pins end, everybody who waits for it looks again.
  void client_gone(ClientState& client);

  void add(Break& b) EXCLUDES(mutex);
  void remove(Break& b) EXCLUDES(mutex);

  Mutex mutex{LockRank::kWaitGraph};
  std::unordered_map<ClientPort*, std::shared_ptr<ClientState>> clients GUARDED_BY(mutex);
  std::map<u64, Break*> operations GUARDED_BY(mutex);  // by id; each removes itself before it dies
};

}  // namespace pindax
