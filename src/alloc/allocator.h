// SPDX-License-Identifier: BSD-3-Clause
//
// Which blocks are free, and which may not be used yet. Truth is the bitmaps on media; each AG keeps its free extents
// in two Boost.Intrusive sets (by place, by size) that are built when the AG is first needed.
//
// A block's life: free -> allocated -> (freed: record committed) -> resting until that record is durable, so that
// no crash can show its new content in its old file -> punched if clients may map it (F5) -> free again.
// Or: freed while pinned or still mapped by a former client -> quarantine (persistent, still set in the bitmap)
// -> released by a later transaction -> resting -> free.
//
// Locking: AG locks inside; bitmaps, AG headers and the StateRecord change under the commit mutex (at_commit).
// All calls are thread-safe unless they take a Transaction, which binds them to its thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "format/decode.h"
#include "journal/transaction.h"

namespace pindax {

struct BlockRun {
  BlockNo start;
  u64 length = 0;  // blocks; never crosses an AG
  BlockNo end() const { return start + length; }
  bool operator==(const BlockRun&) const = default;
};

enum class BlockUse { kData, kMetadata };

struct AllocateRequest {
  u64 wanted = 1;           // blocks
  u64 minimum = 1;          // fewer is kNoSpace
  BlockNo near{0};          // right there if free, else close by; 0: anywhere
  bool huge_align = false;  // start at a 2 MiB boundary of the pool if there is one with room for this, and for 2 MiB
  BlockUse use = BlockUse::kData;
  // Reserved on the host as well, where the pool is sparse. Not for blocks that nobody is to store into soon: unwritten ones of fallocate
  // may be more than the host has.
  bool reserve_on_host = true;
  unsigned worker = 0;  // workers prefer different AGs, so that parallel writers do not interleave
};

struct SpaceSummary {
  u64 total_blocks = 0;       // data blocks of all AGs
  u64 free_blocks = 0;        // allocatable now or after a sync (resting ones count)
  u64 resting_blocks = 0;     // freed, waiting for their record or their punch
  u64 punching_ms = 0;        // since the punch that is under way began: long if the host's kernel uses the pool's pages
  u64 quarantine_blocks = 0;  // freed by name, not reusable yet
  u64 bad_blocks = 0;         // that the media cannot read back, used or retired
  u64 retired_blocks = 0;     // of these, those that nobody has any more: neither free nor of use
  u64 reserved_blocks = 0;    // of the free ones, kept for operations that give space back
  u64 inodes_used = 0;
  u64 inodes_allocated = 0;
};

class Allocator {
 public:
  static Result<std::unique_ptr<Allocator>> open(MetaStore& store);
  virtual ~Allocator() = default;

  // Takes one run out of the in-memory free space at once; its bits join the transaction's record. An abort gives it
  // back. May be shorter than wanted, never than minimum. kNoSpace after resting blocks were hurried and still nothing.
  virtual Result<BlockRun> allocate(Transaction& tx, const AllocateRequest& request) = 0;
  // Makes sure that stores into the run, which is in use already, cannot fail for want of space on the host (Media::reserve()), whose space
  // that free blocks hold is given back first if need be. kNoSpace. For blocks allocated without reserve_on_host.
  virtual Status reserve_on_host(BlockRun run, BlockUse use) = 0;
  // True while there is more free space than the reserve that data and new names leave alone: deleting, truncating and
  // orphan clean-up need a few metadata blocks of their own, and must work on a full pool.
  virtual bool room_to_grow() const = 0;
  // Back to free space once the record is durable; `mapped`: some client may have translations, so punch first (F5).
  virtual void free(Transaction& tx, BlockRun run, bool mapped) = 0;
  // As free(mapped), but the caller calls punch_claimed(run) once the transaction is committed: no lock held. True: nobody reaches
  // the run any more and it is free; false: it is punched later, or went to quarantine.
  virtual void free_claimed(Transaction& tx, BlockRun run) = 0;
  virtual bool punch_claimed(BlockRun run) = 0;
  // Freed by name but not reusable; persistent.
  virtual Status quarantine(Transaction& tx, BlockRun run, format::QuarantineReason reason) = 0;
  // The pin or former client is gone: quarantined blocks inside `run` that nobody holds become free (in the transaction).
  virtual Status release_quarantine(Transaction& tx, BlockRun run) = 0;
  struct QuarantinedRun {
    BlockRun run;
    u64 since_ns = 0;
    format::QuarantineReason reason{};
  };
  virtual Result<std::vector<QuarantinedRun>> quarantined() = 0;

  // ---- Shared blocks (shares.cc). Files' blocks only; what is not recorded has one owner ----
  struct OwnedRun {
    BlockRun run;
    u64 owners = 1;
  };
  // Of every block of the run, in order; neighbours may be equal; with holds. As `tx` sees it; null: as committed.
  virtual Result<std::vector<OwnedRun>> owners(BlockRun run, Transaction* tx) = 0;
  // How many blocks from the start of the run one transaction should count up or down at once. At least 1.
  virtual Result<u64> countable(Transaction& tx, BlockRun run) = 0;
  // One owner more for every block, which the caller knows to be owned. kTooManyLinks.
  virtual Status add_owner(Transaction& tx, BlockRun run) = 0;
  // One owner less (T2: counted down and tested in one step). Runs that have none left are appended to `last`: theirs to free
  // or to quarantine, in this transaction.
  virtual Status drop_owner(Transaction& tx, BlockRun run, std::vector<BlockRun>* last) = 0;

  // ---- Holds (holds.cc): runs that a file has given up while somebody may still read them through a translation of that file which he
  // was told to drop and has not (F4). In memory; after a crash quarantine_all does the same for everything (D2) ----
  // From the commit on, until release_hold(), every block counts one owner more, so that whoever owns it does not store into it in
  // place, and does not leave quarantine. Holds of a block add up.
  virtual void hold(Transaction& tx, BlockRun run) = 0;
  // One hold less; what is in quarantine and not held any more becomes free.
  virtual Status release_hold(Transaction& tx, BlockRun run) = 0;
  // The parts of the run that are held, as the transaction finds them, which must have changed owners or quarantine before.
  virtual std::vector<BlockRun> held(Transaction& tx, BlockRun run) = 0;

  // ---- Bad blocks (bad_blocks.cc): what they hold cannot be read back. Listed on media for good, never handed out ----
  struct BadBlock {
    BlockNo block;
    bool retired = false;  // nobody has it
    u64 since_ns = 0;
  };
  // From now on the block is bad: at once in memory, on media with the next settle_bad(), of which the listener is told. Any lock
  // may be held but one of rank kLeaf. False: that is no news, or outside the pool.
  virtual bool note_bad(BlockNo block) = 0;
  // The first bad block of the run. Costs one load while there are none.
  virtual std::optional<BlockNo> first_bad(BlockRun run) const = 0;
  virtual u64 bad_count() const = 0;
  // Writes down what was noted, and retires bad blocks that were free or have become so. No lock held. An error leaves the rest
  // for the next call.
  virtual Status settle_bad() = 0;
  virtual std::vector<BadBlock> bad_blocks() const = 0;  // ascending
  // Called when settle_bad() has something to do, with any locks held: it must take none but of rank kLeaf. Null: nobody.
  virtual void set_bad_listener(std::function<void()> listener) = 0;

  // While set (a former client still maps the pool: D2), every free() goes to quarantine instead, and blocks that may be shared
  // count one owner more.
  virtual void set_quarantine_all(bool on) = 0;

  // An unused inode slot, near the directory's AG; allocates an inode block if none has a free slot. The slot's media
  // object belongs to the caller from now on; it must set mode != 0 in the same transaction.
  virtual Result<InodeNo> allocate_inode(Transaction& tx, InodeNo near) = 0;
  virtual void free_inode(Transaction& tx, InodeNo ino) = 0;
  // True if the block is an inode block: an inode number from outside can be trusted to be read.
  virtual Result<bool> is_inode_block(BlockNo block) = 0;
  // The first block of inodes at or behind `from`, in order of place; nothing behind the last. New ones may appear any time.
  virtual Result<std::optional<BlockNo>> next_inode_block(BlockNo from) = 0;
  // A generation for a new inode, never given out before.
  virtual Result<u32> next_generation(Transaction& tx) = 0;

  virtual SpaceSummary summary() const = 0;
  // Makes resting blocks free now (syncs the journal, punches). No ranked lock held. kTryAgain: some still wait for
  // their punch after two seconds.
  virtual Status reclaim() = 0;
  // reclaim(), and gives the host what free extents of at least `minimum` blocks inside `range` still hold of a sparse pool. How
  // many blocks those have. kNotSupported: the pool is not sparse. What is being punched is not free to others meanwhile, who wait for it.
  virtual Result<u64> trim(BlockRun range, u64 minimum) = 0;
  // Free runs of one AG in order of place (fsck, dump, layout).
  virtual Result<std::vector<BlockRun>> free_runs(u32 ag) = 0;
};

// Writes AG headers, bitmaps and the StateRecord of an empty pool (mkfs). Durable on return. AG metadata of a
// pool whose host file is known to read as zeros costs only the blocks it writes.
Status format_allocation(Media& media, const format::Geometry& geometry);

}  // namespace pindax
