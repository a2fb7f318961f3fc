// SPDX-License-Identifier: BSD-3-Clause
//
// Private to the room: the one MetaStore.
//
// A commit, step by step
//   1. Without lock: seal, compare and encode the objects. Nothing can change them or what they are compared with (I2).
//   2. Commit mutex: room in the ring, at_commit actions, encode what they changed, append, install, publish appended_.
//   3. Without lock, strict mode: wait for a flush that covers the record. Whoever comes first flushes for everybody who
//      has appended so far (group commit); flushes follow each other, so durable_ never skips a record.
//
// A checkpoint, step by step; one at a time (checkpointing_)
//   1. Commit mutex: remember the end of the log as the target, freeze the overlay. checkpointing_ becomes true only
//      here, and a checkpoint never takes the commit mutex afterwards: so a committer may wait for it, or run one, in
//      the middle of a commit, without dropping the mutex.
//   2. Flush the log up to the target (I1), store frozen blocks in place, make them durable.
//   3. Flush the log up to the last record that freed a frozen block unstored: its predecessors' changes are now nowhere
//      but before the target.
//   4. Store the header: the head moves. Then drop the frozen blocks, then give the room back.
//
// Locking: commit_mutex_ (kCommit) before sync_mutex_ (kLeaf) and the overlay's. Waits for the media hold none of them,
// except the checkpoint that a commit runs when at_commit actions logged more than the ring had room for.
#pragma once

#include <atomic>

#include "journal/overlay.h"
#include "journal/record.h"
#include "journal/ring.h"
#include "journal/transaction.h"

namespace pindax {

class MetaStoreImpl final : public MetaStore {
 public:
  MetaStoreImpl(Media& media, const format::Geometry& geometry, SyncMode mode, bool read_only);
  // Replays and makes ready to append. Called once, before anything else.
  Status recover();

  Media& media() override { return media_; }
  const format::Geometry& geometry() const override { return geometry_; }
  SyncMode mode() const override { return mode_; }
  bool read_only() const override { return read_only_; }
  const ReplayReport& replay_report() const override { return report_; }
  Result<MetaView> view(PoolOffset at, u32 length) override;
  Status copy(PoolOffset at, u32 length, std::byte* out) override;
  Lsn last_lsn() const override { return Lsn(appended_.load(std::memory_order_acquire)); }
  Lsn durable_lsn() const override { return Lsn(durable_.load(std::memory_order_acquire)); }
  Status sync(Lsn upto) override EXCLUDES(commit_mutex_, sync_mutex_);
  Status checkpoint() override EXCLUDES(commit_mutex_, sync_mutex_);
  void set_durable_listener(std::function<void(Lsn)> listener) override EXCLUDES(sync_mutex_);
  u64 max_record_bytes() const override { return ring_.bytes() / kMaxRecordShare; }
  Status health() const override EXCLUDES(sync_mutex_);

 protected:
  Result<Lsn> commit(Transaction& tx) override EXCLUDES(commit_mutex_, sync_mutex_);
  void after_commit() override EXCLUDES(commit_mutex_, sync_mutex_);

 private:
  static constexpr u64 kMaxRecordShare = 4;     // of the ring
  static constexpr u64 kCheckpointShare = 2;    // a fuller ring is emptied
  static constexpr u64 kMaxStagedBlocks = 4096;  // 16 MiB; more are stored in place

  // meta_store.cc
  // Bytes of the ring between head and end; exact under the commit mutex while no checkpoint ends, else an upper bound.
  u64 used() const {
    const u64 head = head_.load();
    return appended_.load() - head;
  }
  Status encode(Transaction& tx, RecordBuilder& record);
  Result<Lsn> append(Transaction& tx, RecordBuilder& record) REQUIRES(commit_mutex_);
  void install(Transaction& tx, Lsn end) REQUIRES(commit_mutex_);
  Status make_room(u64 bytes) REQUIRES(commit_mutex_);
  Status make_room_holding(u64 bytes) REQUIRES(commit_mutex_);
  Status flush_to(Lsn upto) EXCLUDES(sync_mutex_);
  void wait_for_checkpoint() EXCLUDES(sync_mutex_);
  // False if a checkpoint is under way.
  bool begin_checkpoint(Lsn& target) REQUIRES(commit_mutex_) EXCLUDES(sync_mutex_);
  Status run_checkpoint(Lsn target) EXCLUDES(sync_mutex_);
  Status checkpoint_steps(Lsn target);
  void fail(const Status& why) EXCLUDES(sync_mutex_);
  void announce() EXCLUDES(sync_mutex_);

  // replay.cc
  class Replay;

  Media& media_;
  const format::Geometry geometry_;
  const SyncMode mode_;
  const bool read_only_;
  Ring ring_;
  Overlay overlay_;
  ReplayReport report_;
  u64 epoch_ = 0;

  Mutex commit_mutex_{LockRank::kCommit};
  std::atomic<u64> appended_{0};  // changes under commit_mutex_
  std::atomic<u64> head_{0};      // changes only while checkpointing_
  std::atomic<u64> durable_{0};   // changes under sync_mutex_
  std::atomic<u64> announced_{0};

  mutable Mutex sync_mutex_{LockRank::kLeaf};
  CondVar sync_done_;
  bool flushing_ GUARDED_BY(sync_mutex_) = false;
  bool checkpointing_ GUARDED_BY(sync_mutex_) = false;
  Status health_ GUARDED_BY(sync_mutex_);
  std::atomic<bool> failed_{false};
  std::shared_ptr<const std::function<void(Lsn)>> listener_ GUARDED_BY(sync_mutex_);
};

}  // namespace pindax
