// SPDX-License-Identifier: BSD-3-Clause
//
// Between the layout room and the server room: how a break reaches clients, and how clients reach the protocol.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "layout/layout.h"
#include "proto/shared.h"

namespace pindax {

struct ClientIdentity {
  u64 session = 0;
  u32 pid = 0;
  u32 uid = 0;
  u32 gid = 0;
  std::string command;  // from /proc, escaped only when printed
};

// One piece of a grant. As fs/file_system.h's Translation, in this room's words.
struct GrantPiece {
  enum class Kind { kBlocks, kHole, kBeyondEnd, kBad, kError };  // kBad: as kError, but remembered and recalled like zeros
  Kind kind = Kind::kHole;
  ByteRange range;      // bytes of the file
  u64 pool_offset = 0;  // kBlocks
  bool writable = false;
  bool copied = false;  // kBlocks: a client that is watched keeps a copy of the bytes instead of the pool's pages
  int error = 0;  // kError, kBad: errno
};

// A client session as the layout room sees it. Implemented by the server room. All calls are thread-safe and none
// blocks: what must be sent is queued (F2). Outlives its mappings.
class ClientPort {
 public:
  virtual ~ClientPort() = default;
  virtual const ClientIdentity& identity() const = 0;
  // Shared memory, already mapped and checked by the server; null for a client without it.
  virtual proto::GateHeader* gate_header() = 0;
  virtual proto::Gate* gate(u32 mapping) = 0;
  virtual proto::SlotHeader* slot_header() = 0;
  virtual proto::Slot* slots() = 0;
  // True: what it maps of the pool is watched, so that a page which lost its entry, by a punch of the block or by the client,
  // comes back as a request before anything can be reached through it ("Revocation" in docs/protocol.md).
  virtual bool revocable() const { return false; }
  // Packets of the FIFO that the client has carried out, by its own word.
  virtual u64 processed() { return 0; }
  // Into the client's FIFO (F1), in order of the calls. Returns the packet's number there.
  virtual u64 send_grant(u32 mapping, const GrantPiece& piece, u64 generation) = 0;
  virtual void send_recall(u64 recall, u32 mapping, ByteRange range, bool downgrade) = 0;
  // A lease is in the way: its holder is asked to end it within `deadline`. `slot` kMaxSlots: the pin that pin() called `pin`.
  virtual void send_pin_recall(u32 slot, u64 pin, std::chrono::milliseconds deadline) = 0;
  // Policy evict: ends the client's process with SIGKILL, on the authority of user `as` or (empty) of the mount itself. `why` is
  // for the log. Never the wrong process: kNotConnected after a hang-up; kPermission, kNotSupported where that cannot be.
  virtual Status evict(const std::string& why, std::optional<u32> as) = 0;
  // U2: drains the doorbell before a scan.
  virtual void drain_doorbell() = 0;  // ClientLayout::doorbell() calls it, then wakes those who scan
  // D1, polled while a break waits: ESRCH on its userfaultfd or an all-zero statm. True: its pins have ended.
  virtual bool poll_dead() = 0;
};

// A client's mapping of a file range, known to the inode's layout. Created by add_mapping, ended by remove_mapping.
class Mapping;

struct PinRequest {
  u32 slot = proto::kMaxSlots;  // kAsked slot, or kMaxSlots without shared memory
  u32 kind = 0;                 // PinKind | kPinFlags
  bool try_only = false;        // kTryAgain instead of waiting
  ByteRange range;              // bytes of the file
  u64 age = 0;
  u32 thread = 0, episode = 0;
};

// What listings show.
struct PinRow {
  InodeNo ino;
  ByteRange range;
  ClientIdentity client;
  u32 thread = 0;
  u32 kind = 0;  // PinKind | kPinFlags
  u64 age_ns = 0;
  // Older than the soft deadline (transient), or asked for and not ended in time (lease).
  bool stuck = false;
  i64 asked_ns = -1;  // a lease whose holder was asked to end it: how long ago
  u64 publication = 0;  // with the session and `slot`: tells this pin from all others, before and after
  u32 slot = proto::kMaxSlots;
  std::vector<u64> waiting_changes;  // ChangeRow::id
};
// A recall that was sent and not answered.
struct RecallRow {
  ClientIdentity client;
  u32 mapping = 0;
  ByteRange range;
  u64 age_ns = 0;
  i64 deadline_ms = 0;  // from now; negative: it has passed
};
struct ChangeRow {
  u64 id = 0;
  InodeNo ino;
  std::string operation;
  ByteRange range;
  Requester requester;
  BusyPolicy policy = BusyPolicy::kWait;
  std::string phase;  // "queued", "scanning", "waiting for pins", "recalling", "parked", "applying"
  u64 waiting_ns = 0;
  u64 scans = 0;
  u64 retries = 0;
  u64 busy_offset = 0;  // first busy byte seen by the last scan
  i64 deadline_ms = -1;      // of the whole wait, from its begin; -1: none
  std::vector<PinRow> waits_for;
  std::vector<RecallRow> recalls;  // that it waits for
  bool waits_for_kernel = false;   // to drop pages
  bool quarantines = false;        // it may complete without the busy blocks
  std::vector<u64> behind;         // a pin request: the changes (by id) that it queues behind (A3)
};
// What a direct fault is after. kCopy: a write or a pin that meets shared blocks, which it replaces by copies: every translation of
// them in this file goes first, and nobody passes before that is acknowledged. kWriteAhead: a write that can do with less of the range:
// kTryAgain if anybody else would have to give something up for it, or waits to change the range.
enum class FaultKind { kRead, kWrite, kWriteAhead, kCopy };
// Of all operations since the start.
struct LayoutTotals {
  u64 breaks = 0;   // that closed gates
  u64 waited = 0;   // of these, that slept at least once
  u64 retries = 0;  // sleeps
  u64 scans = 0;
  u64 recalls = 0;  // messages to clients
  u64 lease_recalls = 0;
  u64 evictions = 0;          // by policy
  u64 evictions_refused = 0;  // the same, where the daemon or the caller may not
  u64 faults = 0;
  u64 pins = 0;  // published, by the word of the clients
  u64 revoked = 0;  // translations that a punch ended, without a message
};
struct MappingRow {
  InodeNo ino;
  u64 session = 0;
  u32 mapping = 0;
  ByteRange range;
  bool writable = false;
  u64 granted_bytes = 0;
  bool indirect = false;
  u64 recalls_pending = 0;
};

// The part of Layout that serves clients; the same object as Layout (layout/layout.h).
class ClientLayout {
 public:
  virtual ~ClientLayout() = default;

  virtual void add_client(std::shared_ptr<ClientPort> client) = 0;
  // D1: its pins end now and every waiter looks again. Its translations count until client_memory_gone.
  virtual void client_gone(ClientPort& client) = 0;
  // Its address space is gone and its witness byte free: its mappings are forgotten, what they held back is released.
  virtual void client_memory_gone(ClientPort& client) = 0;

  // Registers mapping `id` and opens its gate (or leaves it closed over ranges that breaks hold). The InodeLayout outlives it.
  // `indirect`: the client reaches the pages through the kernel's page cache; only its pins matter here.
  virtual Mapping* add_mapping(InodeLayout& inode, ClientPort& client, u32 id, ByteRange range, bool writable,
                               bool indirect = false) = 0;
  // After the client unmapped: forgets translations. Pins through it stay until unpinned (R7): the object lives on for
  // scans while slots name it; the id may be reused once id_reusable says so.
  virtual void remove_mapping(Mapping* mapping) = 0;
  virtual bool id_reusable(ClientPort& client, u32 id) = 0;
  virtual u64 generation(Mapping& mapping) = 0;  // G4: as if open; what a MapReply, a PinReply and a grant carry

  // F1: under a shared hold over the pieces: enqueues the grants and remembers the translations for recalls.
  virtual void grant(Mapping& mapping, const SharedHold& hold, const std::vector<GrantPiece>& pieces) = 0;
  virtual void recall_acknowledged(ClientPort& client, u64 recall) = 0;
  // Page ownership for a direct fault (C1, C4): takes pages over from the kernel's cache, then `go` with a shared hold.
  virtual void with_fault(Mapping& mapping, ByteRange range, FaultKind kind, std::function<void(Result<SharedHold>)> go) = 0;

  virtual void doorbell(ClientPort& client) = 0;  // an awaited pin ended: wake who waits for this client
  // P3: visible to scans before `done(kOk)`. The handle's interrupt() gives up the wait.
  virtual std::shared_ptr<Change> pin(Mapping& mapping, const PinRequest& request, std::function<void(Result<u64>)> done) = 0;
  virtual Status unpin(ClientPort& client, u64 pin) = 0;  // pins without a slot

  virtual void set_uncommitted(InodeLayout& inode, bool uncommitted) = 0;  // Gate::uncommitted of all its mappings
  virtual void set_size(InodeLayout& inode, u64 size_bytes) = 0;           // Gate::size_bytes of all its mappings

  virtual std::vector<PinRow> list_pins() = 0;
  virtual std::vector<PinRow> list_stuck_pins() = 0;  // without waiting_changes; cheap where none is stuck
  virtual std::vector<ChangeRow> list_changes() = 0;
  virtual std::vector<MappingRow> list_mappings() = 0;
  virtual LayoutTotals totals() const = 0;
};

ClientLayout& client_layout(Layout& layout);

}  // namespace pindax
