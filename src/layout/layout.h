// SPDX-License-Identifier: BSD-3-Clause
//
// The layout room as the file system above it sees it: shared holds for I/O and faults, breaks for layout changes.
// PROTOCOL.md's rules are implemented behind this header; docs/protocol.md explains them.
//
// The room knows inodes by number, ranges by bytes, and everything above by interfaces that upper rooms implement:
//   KernelCache  (fuse)    drops the kernel's pages of a range
//   ClientPort   (server)  one client: its gates, slots, outgoing FIFO, proofs of death   (layout/client_port.h)
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/result.h"
#include "format/format.h"
#include "layout/range_lock.h"

namespace pindax {

using format::BusyPolicy;

// Who asked for an operation: for listings, for interrupts, for the waits-for graph.
struct Requester {
  u32 pid = 0;  // process
  u32 tid = 0;  // thread
  u32 uid = 0;
  std::string command;

  // Looks up the process and its command where only the thread is known. That costs more than most changes (15 us), so
  // it is done when somebody wants to know: not before a change has to wait or is listed.
  void identify();
};

// Implemented by the fuse room (a null object serves when nothing is mounted).
class KernelCache {
 public:
  virtual ~KernelCache() = default;
  // Writes back and drops the kernel's pages of `range`; `done` runs later, on any thread. One notification a
  // folio, from threads that serve no requests (C2). Never blocks the caller.
  virtual void drop(InodeNo ino, ByteRange range, std::function<void()> done) = 0;
  // The attributes changed behind the kernel's back (size, times): forget them and refresh the size (C7). Never blocks.
  virtual void invalidate_attributes(InodeNo ino) = 0;
};

// One inode's share in the protocol: lock, mappings, breaks, page-cache owners. Created with the first data operation,
// owned by the fs room's Inode, destroyed when nothing refers to the inode. Opaque above this room.
class InodeLayout;
struct InodeLayoutDeleter { void operator()(InodeLayout* p) const; };
using InodeLayoutPtr = std::unique_ptr<InodeLayout, InodeLayoutDeleter>;

// A shared hold of a range; released by the destructor or release(). Movable, not copyable.
struct ChangeGrant;
class SharedHold {
 public:
  SharedHold();
  struct State;
  explicit SharedHold(std::unique_ptr<State> s);
  SharedHold(SharedHold&&) noexcept;
  SharedHold& operator=(SharedHold&&) noexcept;
  ~SharedHold();
  void release();
  explicit operator bool() const { return state_ != nullptr; }
  // Of a fault that moves blocks (FaultKind::kCopy): how to treat those that the file gives up.
  const ChangeGrant& grant() const;

 private:
  std::unique_ptr<State> state_;
};

// What a break wants.
struct ChangeRequest {
  const char* operation = "";  // "truncate", "punch", …: for listings; static
  ByteRange lock_range;        // held exclusively while the change is applied
  ByteRange break_range;       // must be idle: no pins, no translations, no kernel pages; empty: lock only
  Requester requester;
  BusyPolicy policy = BusyPolicy::kWait;
  std::optional<std::chrono::milliseconds> deadline;  // of the wait; then kRefuse says kTextBusy
  // A SETATTR through the mount: must not sleep while the kernel may hold dirty pages of the inode (C6).
  bool kernel_setattr = false;
  // Blocks only vanish (truncate, punch): a forced revocation may end the operation, blocks then stay quarantined (F4).
  bool only_frees = true;
  // Blocks only appear where there were none (a write into a hole, an extension): translations, zero pages and kernel pages
  // of break_range are recalled (R18, R19), pins do not matter, since a pin of a hole promises nothing about it (P4).
  bool recall_only = false;
  // Translations for reading may stay, only the right to store is taken away (the source of a clone).
  bool downgrade = false;
  // On whose authority policy evict kills (a uid); empty: the mount's own.
  std::optional<u32> evict_as;
  // With recall_only: blocks of break_range may be replaced by copies (copy-on-write). Pins do not matter, since no shared block
  // is pinned (P4); but a stale translation shows another file's block, so every recall must be acknowledged (F4).
  bool moves_blocks = false;
  // apply() heeds ChangeGrant::claimed: translations of what it frees may then be revoked by punching ("Revocation").
  bool reports_freed = false;
};

// How apply() must treat the blocks that it takes out of the file.
struct ChangeGrant {
  bool was_mapped = false;  // some client ever translated into this inode: punch freed blocks before reuse (F5)
  // Pinned or unacknowledged file ranges (policy quarantine, C6, F4): their blocks go to quarantine, not to free space.
  std::vector<ByteRange> to_quarantine;
  // apply() calls this for every run that it put into quarantine for such a range; the room calls
  // QuarantineOwner::release when the last pin or translation that held it back is gone.
  std::function<void(ByteRange file_range, u64 block, u64 length_blocks)> quarantined;
  // File ranges, ascending and apart, that clients still translate, to be revoked by punching. Every run that apply() frees
  // there, wholly inside one of them and nobody's any more (not a share given up), is freed as claimed and reported through
  // `freed` at commit: the room then calls QuarantineOwner::punch_freed. What is not reported is recalled after the change.
  std::vector<ByteRange> claimed;
  std::function<void(ByteRange file_range, u64 block, u64 length_blocks)> freed;
};

// Implemented by the fs room.
class QuarantineOwner {
 public:
  virtual ~QuarantineOwner() = default;
  // Gives blocks back that apply() had to quarantine. Called on the executor.
  virtual void release(u64 block, u64 length_blocks) = 0;
  // A run that apply() reported as freed: out of the pool now, and then free. False: that happens later, before it is reused.
  // No lock held.
  virtual bool punch_freed(u64 block, u64 length_blocks) = 0;
};

// A break under way. Reference counted; dropping it does not end the break.
class Change {
 public:
  virtual ~Change() = default;
  // FUSE_INTERRUPT, a client's cancel, unmount: if the change has not been applied it ends with kInterrupted and
  // nothing done (R8, R9). Thread-safe, any time.
  virtual void interrupt() = 0;
};

struct LayoutOptions {
  BusyPolicy policy = BusyPolicy::kWait;
  std::optional<std::chrono::milliseconds> deadline;
  std::chrono::milliseconds recall_deadline{5000};  // B4
  std::chrono::milliseconds recall_bound{20};       // acks slower than this: drop the lock, start over (B4)
  // C6: a SETATTR must not sleep over a recall, and until it ends all who touch a dirty page hang. But what is forced out of a
  // client's hands is stored to for a while longer, so a client that lives gets time to answer on a busy machine.
  std::chrono::milliseconds setattr_recall_bound{1000};
  std::chrono::milliseconds rescan_period{500};     // for clients that never ring (U3)
  std::chrono::milliseconds lease_deadline{5000};   // how long the holder of a lease has after he was asked
  std::chrono::milliseconds stuck_after{10000};     // soft deadline of transient pins: then they are shown as stuck
  bool allow_longterm = false;
  u64 longterm_quota_bytes = ~u64{0};               // of one client's long-term pins
};

class Layout {
 public:
  static std::unique_ptr<Layout> create(Executor& executor, const LayoutOptions& options);
  virtual ~Layout() = default;

  virtual InodeLayoutPtr attach(InodeNo ino) = 0;

  virtual void set_kernel_cache(KernelCache* cache) = 0;  // null: none
  virtual void set_quarantine_owner(QuarantineOwner* owner) = 0;

  // Shared hold of `range`, FIFO among all takers. `go` runs with the hold: at once on this thread, or later on the
  // executor. It must not block on anything that can wait for a client, the kernel or a range lock.
  virtual void with_shared(InodeLayout& inode, ByteRange range, std::function<void(SharedHold)> go) = 0;

  // A page-cache fill (`writable`: the page may be stored into without another word): takes the pages over from direct mappers
  // (recall), waits as a break with a finite deadline where pinned (C5), is parked while draining (C4) or while a SETATTR
  // sleeps (C6). `go` runs with a shared hold and ownership recorded, or with the error that the fill gets; kInterrupted by
  // way of the handle.
  virtual std::shared_ptr<Change> with_fill(InodeLayout& inode, ByteRange range, bool writable,
                                            std::function<void(Result<SharedHold>)> go) = 0;

  // For bytes that are read or stored in place past the kernel's page cache (C7): as with_shared, once the kernel has written
  // back and dropped the pages of the range that it owns, all of them, or only those that may be dirty.
  enum class CachedPages { kAll, kMaybeDirty };
  virtual void with_cache_dropped(InodeLayout& inode, ByteRange range, CachedPages which,
                                  std::function<void(Result<SharedHold>)> go) = 0;
  // The first byte of the range whose page the kernel's cache may hold; the range's end if there is none. Stays true under a
  // hold of the range but for pages that the kernel lets go.
  virtual u64 first_cached(InodeLayout& inode, ByteRange range) const = 0;

  // Kernel write-back of dirty pages: at once, no lock that a break holds while it waits (C3).
  // False: the range is being freed now; the caller must drop the data instead of storing or allocating.
  virtual bool may_write_back(InodeLayout& inode, ByteRange range) = 0;

  // Runs the break state machine (B1–B6). `apply` runs once with the range idle and exclusively held, on this thread or the
  // executor; it performs the change (one transaction) and must not block. `done` runs exactly once, without locks, with apply's
  // status or the reason why there was no apply. Returns a handle for interrupt(), already finished if done ran.
  virtual std::shared_ptr<Change> change(InodeLayout& inode, const ChangeRequest& request,
                                         std::function<Status(const ChangeGrant&)> apply,
                                         std::function<void(Status)> done) = 0;

  // The blocks behind `range` are (not) shared with another file: pins there take the slow path (P4), so that the server can unshare
  // them first. Not shared any more: the blocks may be copies, so block numbers that clients remember are void (G5).
  // Call under an exclusive hold whose change broke the range, or before the mapping that it is for exists.
  virtual void set_shared(InodeLayout& inode, ByteRange range, bool shared) = 0;

  // Bytes of the file are lost: from now on all pins take the slow path, where the server refuses those of lost bytes. For good, or until
  // nobody knows the inode any more: a repaired file loses some speed only.
  virtual void set_damaged(InodeLayout& inode) = 0;

  // True if the kernel may hold pages of the inode.
  virtual bool has_kernel_pages(InodeLayout& inode) const = 0;
  // Ranges of the inode that the kernel may hold dirty: data for SEEK_DATA (facts/fuse.md).
  virtual std::vector<ByteRange> maybe_dirty(InodeLayout& inode) const = 0;
  virtual bool ever_mapped(const InodeLayout& inode) const = 0;
  // True while a client maps or pins the inode or a break on it is under way: the inode must stay in memory.
  virtual bool in_use(const InodeLayout& inode) const = 0;
};

}  // namespace pindax
