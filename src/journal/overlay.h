// SPDX-License-Identifier: BSD-3-Clause
//
// The overlay: every metadata block whose committed bytes are not yet in their place, found by block number.
//
// Each shard has two generations. Commits install into *active*. A checkpoint begins with freeze(), which turns active
// into *frozen*: those buffers no longer change. A commit that meets a frozen block clones it into active. Readers look
// into active, then frozen, then the pool. The checkpoint stores frozen buffers in place and drops them once the
// journal's head has moved.
//
// Invariants
//   1. A block that has an entry in neither generation has no record between the durable head of the journal and its
//      end. So a freed block needs a revoke only if it has an entry.
//   2. In place only those lines of a block are stored that were changed since the block was last stored: the bytes
//      of other objects in it may be under a reader's eyes.
//   3. A freed block leaves both generations. It is never stored in place afterwards, as it may hold a file's data
//      by then: a frozen buffer is stored under its shard's lock.
//
// Locking: a mutex per shard, rank kOverlay. Objects inside a block belong to their owners' locks (MetaStore I2).
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "journal/meta_store.h"

namespace pindax {

// One 4 KiB buffer with the committed bytes of a block.
class StagedBlock {
 public:
  alignas(kCacheLineSize) std::byte bytes[kBlockSize];
  u64 dirty = 0;  // a bit per 64-byte line that differs from the bytes in place; shard lock
  bool known = false;  // a transaction of this mount stored the whole block (MetaView::known()); shard lock
};

class Overlay {
 public:
  explicit Overlay(Media& media) : media_(media) {}

  // The staged bytes at `at`; an empty view if the block is not staged.
  MetaView find(PoolOffset at) const;
  // The committed bytes, staged or in place, between two commits and two stores of the checkpoint.
  Status copy(PoolOffset at, u32 length, std::byte* out) const;
  bool contains(BlockNo block) const;
  // Makes sure that `block` is in active with its committed bytes; `fresh`: contents do not matter. For the committer.
  Status prepare(BlockNo block, bool fresh);
  // Copies an object into its prepared block. `dirty` has a bit per changed line of the block. What was replayed is bytes
  // of the media.
  enum class Source { kTransaction, kReplay };
  void install(PoolOffset at, const std::byte* bytes, u32 length, u64 dirty, Source source);
  // The block was freed by the record that ends at `lsn`.
  void forget(BlockNo block, Lsn lsn);
  // Blocks in active: what the next checkpoint will have to store.
  u64 active_count() const { return active_count_.load(std::memory_order_relaxed); }

  // Of the checkpoint. freeze(): commit mutex held, nothing frozen. Then write, then drop.
  void freeze();
  // Stores and flushes what is frozen; durable on return. Sets `forgotten` to the end of the last record that
  // freed a frozen block before it was stored: the head may move only when that record is durable.
  Status write_frozen(Lsn& forgotten);
  void drop_frozen();

 private:
  using Table = std::unordered_map<u64, std::shared_ptr<StagedBlock>>;
  static constexpr unsigned kShards = 64;
  struct Shard {
    mutable Mutex mutex{LockRank::kOverlay};
    Table active GUARDED_BY(mutex);
    Table frozen GUARDED_BY(mutex);
    Lsn forgotten GUARDED_BY(mutex);  // since freeze(), of frozen blocks
    std::atomic<u64> population{0};   // entries in both; zero needs no lock to be seen
  };
  Shard& shard(u64 block) const { return shards_[block % kShards]; }
  static void count(Shard& s) REQUIRES(s.mutex) {
    s.population.store(s.active.size() + s.frozen.size(), std::memory_order_release);
  }
  Status write_block(BlockNo block, std::vector<ByteRange>& written);

  Media& media_;
  mutable Shard shards_[kShards];
  std::atomic<u64> active_count_{0};
};

}  // namespace pindax
