// SPDX-License-Identifier: BSD-3-Clause
//
// The allocator's inside. One class, its parts in one file a subject: allocator.cc (blocks), inode_slots.cc,
// host_space.cc, quarantine.cc, holds.cc, shares.cc, bad_blocks.cc; policy in placement.h, the way back of freed blocks in resting.h, what changes on media in media_counts.h.
//
// Invariants
//  1. A group's bitmaps are read once, when it is first needed, under its mutex. They change on media only in commits that
//     allocate from or free into the group, which load it first: so a load never reads bits that are changing.
//  2. A block is in a group's free space only if its bit on media is clear, the record that cleared it is durable, and no
//     client can translate into it.
//     Nor if it is listed as bad, whatever its bit says.
//  3. An inode slot is in free_slots only if its slot on media is free by a committed record. A block of slots is examined
//     at most once; slots that are being freed meanwhile come back by their own transaction.
// A crash leaves the bitmaps and counts of the last durable record; memory is rebuilt from them.
#pragma once

#include <atomic>
#include <map>
#include <unordered_set>
#include <vector>

#include "alloc/allocator.h"
#include "alloc/free_space.h"
#include "alloc/placement.h"
#include "alloc/resting.h"
#include "alloc/sparse_bits.h"
#include "base/interval_map.h"
#include "base/mutex.h"
#include "tree/tree.h"

namespace pindax {

class AllocatorImpl final : public Allocator {
 public:
  explicit AllocatorImpl(MetaStore& store);
  ~AllocatorImpl() override;
  Status start();  // reads the StateRecord

  Result<BlockRun> allocate(Transaction& tx, const AllocateRequest& request) override;
  Status reserve_on_host(BlockRun run, BlockUse use) override;
  bool room_to_grow() const override { return free_blocks_.load() > reserved_blocks(); }
  void free(Transaction& tx, BlockRun run, bool mapped) override;
  void free_claimed(Transaction& tx, BlockRun run) override;
  bool punch_claimed(BlockRun run) override { return resting_.punch_claimed(run); }
  Status quarantine(Transaction& tx, BlockRun run, format::QuarantineReason reason) override;
  Status release_quarantine(Transaction& tx, BlockRun run) override;
  Result<std::vector<QuarantinedRun>> quarantined() override;
  Result<std::vector<OwnedRun>> owners(BlockRun run, Transaction* tx) override;
  Result<u64> countable(Transaction& tx, BlockRun run) override;
  Status add_owner(Transaction& tx, BlockRun run) override;
  Status drop_owner(Transaction& tx, BlockRun run, std::vector<BlockRun>* last) override;
  bool note_bad(BlockNo block) override;
  std::optional<BlockNo> first_bad(BlockRun run) const override;
  u64 bad_count() const override { return bad_count_.load(std::memory_order_acquire); }
  Status settle_bad() override;
  std::vector<BadBlock> bad_blocks() const override;
  void set_bad_listener(std::function<void()> listener) override;
  void hold(Transaction& tx, BlockRun run) override;
  Status release_hold(Transaction& tx, BlockRun run) override;
  std::vector<BlockRun> held(Transaction& tx, BlockRun run) override;
  void set_quarantine_all(bool on) override;
  Result<InodeNo> allocate_inode(Transaction& tx, InodeNo near) override;
  void free_inode(Transaction& tx, InodeNo ino) override;
  Result<bool> is_inode_block(BlockNo block) override;
  Result<std::optional<BlockNo>> next_inode_block(BlockNo from) override;
  Result<u32> next_generation(Transaction& tx) override;
  SpaceSummary summary() const override;
  Status reclaim() override;
  Result<u64> trim(BlockRun range, u64 minimum) override;
  Result<std::vector<BlockRun>> free_runs(u32 ag) override;

 private:
  static constexpr unsigned kCursors = 16;
  static constexpr u64 kUnknown = ~u64{0};
  // What data leaves alone of the host's space under a sparse pool, for the metadata that deleting needs.
  static constexpr u64 kHostSpareBytes = u64{4} << 20;

  struct Group {
    explicit Group(u32 index) : ag(index), overflow(index) {}
    const u32 ag;
    Mutex mutex{LockRank::kAllocGroup};
    std::atomic<u64> free{kUnknown};  // blocks in `space`; before loading what the header says; a hint
    std::atomic<bool> holds_host_space{true};  // perhaps: something became free since it was last given back
    bool loaded GUARDED_BY(mutex) = false;
    FreeSpace space GUARDED_BY(mutex);
    Placement placement GUARDED_BY(mutex);

    bool inodes_loaded GUARDED_BY(mutex) = false;
    SparseBits inode_blocks GUARDED_BY(mutex);          // bit: block of the group
    SparseBits unexamined GUARDED_BY(mutex);            // inode blocks whose slots were not looked at yet
    u64 examine_from GUARDED_BY(mutex) = 0;             // no unexamined block before it
    std::vector<InodeNo> free_slots GUARDED_BY(mutex);  // taken from the back
    std::unordered_set<u64> freeing GUARDED_BY(mutex);  // slots of transactions that are under way
    std::atomic<u64> shares_root{0};  // committed, known once loaded; changes under trees_mutex_
    std::atomic<u32> overflow;  // the group that got the last inode block which did not fit into this one; else itself
  };

  Group& group(u32 ag);
  u64 group_start(const Group& g) const { return geometry_.ag_start(g.ag); }

  // Blocks that only metadata may take: a sixty-fourth of a small pool, at most 2 MiB.
  i64 reserved_blocks() const { return static_cast<i64>(std::min<u64>(total_blocks_ / 64, 512)); }

  // ---- Blocks (allocator.cc) ----
  Status load(Group& g) REQUIRES(g.mutex);
  Status load_free_space(Group& g) REQUIRES(g.mutex);
  // Takes a run out of the free space as one effort of Placement allows; nothing if no group can.
  Result<std::optional<BlockRun>> take(const AllocateRequest& request);
  Result<std::optional<BlockRun>> take_from(Group& g, const AllocateRequest& request, Placement::Effort effort);
  bool hurry(u64 seen);
  void free_now(Transaction& tx, BlockRun run, bool mapped, bool claimed = false);
  void rest(BlockRun run, Lsn lsn, bool mapped, bool claimed);
  void give_back(BlockRun run);

  // ---- Space of the host (host_space.cc) ----
  bool punch_some_group();  // starts to; false: no group has anything to give back
  BlockRun whole(u32 ag) const { return {BlockNo(geometry_.ag_start(ag)), geometry_.ag_length(ag)}; }
  // Free extents of at least `minimum` blocks inside the range rest until they are punched. How many blocks those have.
  u64 rest_free_space(Group& g, BlockRun range, u64 minimum, bool former) REQUIRES(g.mutex);

  // ---- Inode slots (inode_slots.cc) ----
  Status load_inodes(Group& g) REQUIRES(g.mutex);
  Result<std::optional<InodeNo>> take_slot(Group& g);
  Status examine(Group& g) REQUIRES(g.mutex);
  Status add_inode_block(Group& near);

  // ---- Quarantine (quarantine.cc) ----
  class TreeNodes;
  void lock_trees(Transaction& tx) NO_THREAD_SAFETY_ANALYSIS;
  Status put_quarantined(Transaction& tx, const QuarantinedRun& q);
  Status free_quarantined(Transaction& tx, BlockRun run);

  // ---- Holds (holds.cc) ----
  std::vector<OwnedRun> with_holds(std::vector<OwnedRun> runs) const;
  void change_holds(BlockRun run, bool add);

  // ---- Bad blocks (bad_blocks.cc) ----
  struct BadState {
    u64 since_ns = 0;
    bool recorded = false;  // on media
    bool retired = false;   // there, too
    bool given_up = false;  // it was free: out of the free space, its bit still clear
  };
  Status load_bad(const format::StateRecord& state);
  void take_bad_out(Group& g) REQUIRES(g.mutex);
  bool give_up(BlockNo block);  // false: it is not bad
  void tell_bad_listener();
  Result<bool> settle_some(u64* from);

  // ---- Shares (shares.cc) ----
  Result<TreeRef> shares_tree(BlockRun run, Transaction* tx);
  Status change_owners(Transaction& tx, BlockRun run, bool add, std::vector<BlockRun>* last);

  MetaStore& store_;
  const format::Geometry geometry_;
  u64 total_blocks_ = 0;

  Mutex groups_mutex_{LockRank::kLeaf};
  std::vector<std::atomic<Group*>> groups_;  // made on first use, kept until the end
  std::array<std::atomic<u64>, kCursors> cursors_;
  u64 longest_group_ = 0;  // data blocks of the longest AG: more cannot be had in one run

  std::atomic<i64> free_blocks_{0};  // allocatable now or later
  std::atomic<i64> inodes_used_{0};
  std::atomic<i64> inodes_allocated_{0};
  std::atomic<u64> next_generation_{1};
  std::atomic<bool> quarantine_all_{false};

  // The trees of this room (quarantine, share counts). Held by the transaction that changes one of them until its end: one lock
  // for all, since a free may need any of them in any order. The fields below are the holder's; a reader takes the mutex too.
  Mutex trees_mutex_{LockRank::kQuarantine};
  std::atomic<Transaction*> trees_holder_{nullptr};
  BlockNo quarantine_root_;                // committed
  std::atomic<u64> quarantine_blocks_{0};  // committed
  BlockNo pending_root_;                   // as the holder leaves it
  u64 pending_blocks_ = 0;
  bool quarantine_changed_ = false;
  IntervalMap<u32> holds_;                 // by block number, as committed
  std::map<u32, BlockNo> pending_shares_;  // roots by group, as the holder leaves them
  BlockNo bad_root_;                       // committed; settle_bad()'s

  mutable Mutex bad_mutex_{LockRank::kLeaf};
  std::map<u64, BadState> bad_ GUARDED_BY(bad_mutex_);  // by block
  std::function<void()> bad_listener_ GUARDED_BY(bad_mutex_);
  std::atomic<u64> bad_count_{0};  // of bad_
  std::atomic<u64> retired_count_{0};
  Mutex settle_mutex_{LockRank::kSync};  // one settle_bad() at a time

  Resting resting_;
};

}  // namespace pindax
