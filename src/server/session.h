// SPDX-License-Identifier: BSD-3-Clause
//
// One client: its socket, its shared memory, its files and mappings, and what it waits for.
//
// A session lives through these phases:
//   kHello     connected; the only message is kHello
//   kWelcomed  gates handed out; the only messages are kAttachPool and, for tools, control requests
//   kAttached  everything
//   kGone      hung up, dead or thrown out: its pins have ended (D1), its translations still count until its memory is gone
//
// Threads. Messages are handled on the server's loop thread, one at a time. Completions (executor) only touch what
// `mutex_` guards, the outbox, and what they captured. ClientPort's calls come from any thread and take only the outbox's mutex.
// No lock is held over a call into the file system.
//
// A message that breaks the protocol makes its handler return a Status: the session ends, with a line in the log. All other
// failures are answers to the client.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "fs/file_system.h"
#include "layout/client_port.h"
#include "proto/messages.h"
#include "server/context.h"
#include "server/fault_ahead.h"
#include "server/outbox.h"

namespace pindax {

// Limits of one client, beyond which it gets errors (never the others).
inline constexpr std::size_t kMaxOpenFiles = 65536;
inline constexpr std::size_t kMaxPendingRequests = 65536;
inline constexpr u64 kMaxPopulateBytes = u64{1} << 30;  // of one step
inline constexpr u64 kMaxFaultBytes = kHugePageSize;    // of one fault: a look-up costs with the extents it meets
inline constexpr std::size_t kMaxFaultPieces = 256;     // granted by one fault
inline constexpr u64 kMaxHoleGrantBytes = 64 * 1024;    // zero pages granted around a read of a hole

// Who is at the other end, by the kernel's word at connect().
struct Peer {
  u32 pid = 0;  // 0: foreign pid namespace
  u32 uid = 0, gid = 0;
  std::vector<u32> groups;
  UniqueFd pidfd;  // none for pid 0
  std::string command;
};
Result<Peer> identify_peer(int socket);

class Session final : public ClientPort, public std::enable_shared_from_this<Session> {
 public:
  enum class Phase { kHello, kWelcomed, kAttached, kGone };

  Session(ServerContext& context, u64 id, UniqueFd socket, Peer peer);
  ~Session() override;

  u64 id() const { return identity_.session; }
  int socket() const { return socket_.get(); }
  int pidfd() const { return peer_.pidfd.get(); }
  const Peer& peer() const { return peer_; }
  Outbox& outbox() { return outbox_; }

  // ---- Loop thread ----
  // Reads and handles up to a few messages. An error (kNotConnected: hang-up) ends the session.
  Status receive();
  void on_doorbell();
  // Ends pins, interrupts waits, stops talking (D1). Idempotent.
  void hang_up();
  // After hang_up(): true once its address space is gone and its witness byte free; its mappings are then forgotten.
  bool try_bury();
  void process_ended() { process_ended_.store(true, std::memory_order_release); }
  // Housekeeping: mapping numbers whose last pin ended.
  void sweep();
  bool idle() EXCLUDES(mutex_);  // no continuation of it is outstanding

  // ---- ClientPort ----
  const ClientIdentity& identity() const override { return identity_; }
  proto::GateHeader* gate_header() override;
  proto::Gate* gate(u32 mapping) override;
  proto::SlotHeader* slot_header() override;
  proto::Slot* slots() override;
  u64 send_grant(u32 mapping, const GrantPiece& piece, u64 generation) override;
  bool revocable() const override { return revocable_.load(std::memory_order_acquire); }
  u64 processed() override;
  void send_recall(u64 recall, u32 mapping, ByteRange range, bool downgrade) override;
  void send_pin_recall(u32 slot, u64 pin, std::chrono::milliseconds deadline) override;
  Status evict(const std::string& why, std::optional<u32> as) override;
  void drain_doorbell() override;
  bool poll_dead() override;

  // For listings; any thread.
  struct Summary {
    bool direct = false;
    bool faults_by_signals = false;  // no userfaultfd: recalled, never revoked; its system calls on untouched memory fail
    bool attached = false;
    u64 age_ms = 0;
    i64 witness = -1;
    u64 queued_packets = 0;
  };
  Summary summary() const EXCLUDES(mutex_);
  Caller caller() const;
  bool sees_all() const { return peer_.uid == 0 || peer_.uid == context_.options.owner_uid; }

 private:
  struct OpenFile {
    InodeRef inode;
    int access = 0;  // O_ACCMODE bits
  };
  struct MappingEntry {
    u32 id = 0;
    InodeRef inode;
    Mapping* mapping = nullptr;  // null once removed
    ByteRange range;             // bytes of the file
    bool writable = false;
    bool indirect = false;  // pins only
    FaultAhead ahead;
    unsigned in_flight = 0;     // continuations that use `mapping`; guarded by mutex_
    bool unmapping = false;     // guarded by mutex_
    u64 unmap_request = 0;
  };
  using EntryPtr = std::shared_ptr<MappingEntry>;
  struct Packet {
    proto::Header header;
    std::span<const std::byte> body;
    std::vector<UniqueFd> descriptors;
    bool lost_control = false;  // more control data than fits
  };

  // dispatch.cc
  Status dispatch(Packet& packet);
  template <class Body>
  static Status take_body(const Packet& p, Body& out, std::span<const std::byte>* rest = nullptr);
  // C7: runs `then` once the kernel's view of the inode is right again after a change that succeeded.
  void after_change(Inode& inode, const Status& status, bool resized, std::function<void()> then);
  void reply(u64 request, const Status& status, std::span<const std::byte> body = {},
             std::span<const std::byte> tail = {}, std::vector<UniqueFd> descriptors = {});
  template <class Body>
  void reply_body(u64 request, const Body& body, std::span<const std::byte> tail = {},
                  std::vector<UniqueFd> descriptors = {}) {
    reply(request, Status(), std::as_bytes(std::span(&body, 1)), tail, std::move(descriptors));
  }
  u64 send(proto::Type type, u64 request, std::span<const std::byte> body);

  // attach.cc
  Status handle_hello(Packet& p);
  Status handle_attach_pool(Packet& p);
  Result<std::string> accept_pool(UniqueFd& fd, bool writable);  // the reason why not; empty: accepted

  // files.cc
  Status handle_open(Packet& p);
  Status handle_close(Packet& p);
  Status handle_read(Packet& p);
  Status handle_write(Packet& p);
  Status handle_stat(Packet& p);
  Status handle_sync(Packet& p);
  Result<OpenFile> use_file(const proto::FileRef& ref);
  void publish_size(Inode& inode);
  void finish_open(u64 request, OpenFile file, const KernelNews& news);

  // layout_ops.cc
  Status handle_fallocate(Packet& p);
  Status handle_truncate(Packet& p);
  Status handle_clone(Packet& p);
  Status handle_cancel(Packet& p);

  // mappings.cc, faults.cc, pins.cc
  Status handle_map(Packet& p);
  Status handle_unmap(Packet& p);
  Status handle_fault(Packet& p);
  Status handle_persist(Packet& p);
  Status handle_recall_ack(Packet& p);
  Status handle_pin(Packet& p);
  Status handle_unpin(Packet& p);
  Result<u32> free_mapping_id();
  EntryPtr find_mapping(u32 id);
  void begin_use(const EntryPtr& entry) EXCLUDES(mutex_);
  void end_use(const EntryPtr& entry) EXCLUDES(mutex_);
  void finish_unmap(const EntryPtr& entry);
  // Grants something for the first block of `range` and what else is cheap; then `done`, exactly once, with the end of what
  // was looked at.
  using FaultDone = std::function<void(const Status& status, u64 covered_end)>;
  void fault(const EntryPtr& entry, ByteRange range, bool write, FaultDone done);
  void store_into_hole(const EntryPtr& entry, ByteRange range, const FaultDone& done);  // at range.begin
  void allocate_and_grant(const EntryPtr& entry, ByteRange range, FaultKind kind, std::function<void(Status)> done);
  // True: the first block is served. Under the hold; a write that meets no writable block there is not served.
  Result<bool> grant_existing(MappingEntry& entry, ByteRange range, bool write, const SharedHold& hold, u64* covered_end);
  // Blocks that were just looked up for writing: F1, under the hold.
  void grant_made(MappingEntry& entry, const std::vector<Translation>& made, ByteRange range, const SharedHold& hold);
  void grant_error(const MappingEntry& entry, ByteRange range, const Status& why);
  void finish_write_pin(const EntryPtr& entry, ByteRange range, u64 at, u64 pin, u64 request);
  void finish_read_pin(const EntryPtr& entry, ByteRange range, u64 at, u64 pin, u64 request);
  void answer_pin(const EntryPtr& entry, ByteRange range, u64 pin, u64 request, const Status& status);

  // control.cc
  Status handle_control(Packet& p);

  // Requests that wait for others: kCancel finds them here.
  struct Pending {
    std::shared_ptr<Change> change;
    bool cancelled = false;
  };
  // False: too many are waiting already, or the number is in use; it has been answered.
  bool begin_pending(u64 request) EXCLUDES(mutex_);
  void set_pending_change(u64 request, std::shared_ptr<Change> change) EXCLUDES(mutex_);
  void end_pending(u64 request) EXCLUDES(mutex_);
  void end_work() EXCLUDES(mutex_);

  ServerContext& context_;
  UniqueFd socket_;
  Peer peer_;
  ClientIdentity identity_;
  Outbox outbox_;
  const std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();

  // Loop thread; set before the layout room knows the session, never changed after.
  Phase phase_ = Phase::kHello;
  GateArea gates_;
  SharedArea slots_;
  UniqueFd doorbell_;
  UniqueFd userfaultfd_;
  std::atomic<bool> faults_by_signals_{false};  // it has none
  bool control_only_ = false;
  bool in_layout_ = false;
  bool buried_ = false;
  std::atomic<i64> witness_{-1};
  std::atomic<bool> direct_{false};
  std::atomic<bool> revocable_{false};
  std::atomic<bool> attached_{false};
  std::atomic<bool> process_ended_{false};
  std::atomic<bool> gone_{false};
  std::atomic<bool> evict_refused_{false};  // and logged

  // Loop thread.
  std::unordered_map<u64, OpenFile> files_;
  u64 next_handle_ = 1;
  std::unordered_map<u32, EntryPtr> mappings_;
  std::map<u32, InodeRef> retired_;  // numbers that a pin may still name (R7)
  u32 next_mapping_ = 0;

  mutable Mutex mutex_{LockRank::kClient};
  std::unordered_map<u64, Pending> pending_ GUARDED_BY(mutex_);
  unsigned work_ GUARDED_BY(mutex_) = 0;
  std::vector<EntryPtr> unmapped_ GUARDED_BY(mutex_);  // removed by a completion: the loop thread forgets them
};

template <class Body>
Status Session::take_body(const Packet& p, Body& out, std::span<const std::byte>* rest) {
  if (p.body.size() < sizeof(Body) || (rest == nullptr && p.body.size() != sizeof(Body)))
    return Status(Errc::kProtocol, "a message of the wrong size");
  std::memcpy(&out, p.body.data(), sizeof(Body));
  if (rest != nullptr) *rest = p.body.subspan(sizeof(Body));
  return {};
}

inline Caller Session::caller() const {
  Caller c;
  c.uid = peer_.uid;
  c.gid = peer_.gid;
  c.umask = 0;
  c.tid = peer_.pid;
  c.groups = peer_.groups;
  c.privileged = peer_.uid == 0;
  return c;
}

}  // namespace pindax
