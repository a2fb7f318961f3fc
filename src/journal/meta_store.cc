// SPDX-License-Identifier: BSD-3-Clause
#include "journal/meta_store.h"

#include <algorithm>

#include "base/steps.h"
#include "journal/meta_store_impl.h"

namespace pindax {

MetaStoreImpl::MetaStoreImpl(Media& media, const format::Geometry& geometry, SyncMode mode, bool read_only)
    : media_(media), geometry_(geometry), mode_(mode), read_only_(read_only), ring_(media, geometry), overlay_(media) {}

Result<std::unique_ptr<MetaStore>> MetaStore::open(Media& media, const format::Geometry& geometry, SyncMode mode,
                                                   bool read_only) {
  auto store = std::make_unique<MetaStoreImpl>(media, geometry, mode, read_only);
  PINDAX_TRY(store->recover());
  return std::unique_ptr<MetaStore>(std::move(store));
}

Result<MetaView> MetaStoreImpl::view(PoolOffset at, u32 length) {
  PINDAX_ASSERT(length != 0 && (at.value & kBlockMask) + length <= kBlockSize);
  if (offset_block(at).value >= geometry_.pool_blocks)
    return Status(Errc::kCorrupt, "metadata refers to a block outside the pool: run fsck");
  if (MetaView staged = overlay_.find(at)) return staged;
  const std::byte* in_place = media_.view(at, length);
  if (in_place == nullptr) return Status(Errc::kIo, "block of the pool cannot be mapped");
  if (Status s = media_.probe(at, length); !s.ok())
    return s.with_context("metadata in block " + std::to_string(offset_block(at).value));
  return MetaView(in_place, nullptr);
}

Status MetaStoreImpl::copy(PoolOffset at, u32 length, std::byte* out) {
  PINDAX_ASSERT(length != 0 && (at.value & kBlockMask) + length <= kBlockSize);
  if (offset_block(at).value >= geometry_.pool_blocks)
    return Status(Errc::kCorrupt, "metadata refers to a block outside the pool: run fsck");
  return overlay_.copy(at, length, out);
}

// ---- Health and the flush of the log ------------------------------------------------------------------------------

void MetaStoreImpl::fail(const Status& why) {
  MutexLock lock(sync_mutex_);
  if (health_.ok()) health_ = why.with_context("the pool has failed, it can only be read until it is mounted again");
  failed_.store(true, std::memory_order_release);
  sync_done_.notify_all();
}

Status MetaStoreImpl::health() const {
  if (!failed_.load(std::memory_order_acquire)) {
    if (!media_.failed()) return {};
    return Status(Errc::kIo, "a store into the pool was lost: check the host's file system and mount again");
  }
  MutexLock lock(sync_mutex_);
  return health_;
}

Status MetaStoreImpl::flush_to(Lsn upto) {
  u64 from, to;
  {
    MutexLock lock(sync_mutex_);
    while (durable_.load() < upto.value && flushing_ && health_.ok()) sync_done_.wait(sync_mutex_);
    if (durable_.load() >= upto.value) return {};
    if (!health_.ok()) return health_;
    flushing_ = true;
    from = durable_.load();
    to = appended_.load(std::memory_order_acquire);
  }
  PINDAX_STEP("journal.flush");
  Status status = ring_.flush(Lsn(from), Lsn(to));
  if (status.ok()) status = media_.drain();
  if (!status.ok()) fail(status);
  MutexLock lock(sync_mutex_);
  flushing_ = false;
  if (status.ok()) durable_.store(to, std::memory_order_release);
  sync_done_.notify_all();
  return status;
}

Status MetaStoreImpl::sync(Lsn upto) {
  PINDAX_TRY(flush_to(std::min(upto, last_lsn())));
  announce();
  return {};
}

void MetaStoreImpl::set_durable_listener(std::function<void(Lsn)> listener) {
  auto shared = listener ? std::make_shared<const std::function<void(Lsn)>>(std::move(listener)) : nullptr;
  MutexLock lock(sync_mutex_);
  listener_.swap(shared);
}

void MetaStoreImpl::announce() {
  const u64 durable = durable_.load(std::memory_order_acquire);
  u64 seen = announced_.load(std::memory_order_relaxed);
  while (seen < durable)
    if (announced_.compare_exchange_weak(seen, durable)) {
      std::shared_ptr<const std::function<void(Lsn)>> listener;
      {
        MutexLock lock(sync_mutex_);
        listener = listener_;
      }
      if (listener) (*listener)(Lsn(durable));
      return;
    }
}

// ---- Checkpoint -----------------------------------------------------------------------------------------------------

void MetaStoreImpl::wait_for_checkpoint() {
  MutexLock lock(sync_mutex_);
  while (checkpointing_) sync_done_.wait(sync_mutex_);
}

bool MetaStoreImpl::begin_checkpoint(Lsn& target) {
  {
    MutexLock lock(sync_mutex_);
    if (checkpointing_) return false;
    checkpointing_ = true;
  }
  target = last_lsn();
  overlay_.freeze();
  return true;
}

Status MetaStoreImpl::checkpoint_steps(Lsn target) {
  PINDAX_STEP("journal.checkpoint_frozen");
  PINDAX_TRY(flush_to(target));
  PINDAX_STEP("journal.checkpoint_logged");
  Lsn forgotten;
  PINDAX_TRY(overlay_.write_frozen(forgotten));
  PINDAX_STEP("journal.checkpoint_stored");
  PINDAX_TRY(flush_to(forgotten));
  PINDAX_TRY(ring_.store_header(target, epoch_));
  PINDAX_STEP("journal.checkpoint_head");
  return {};
}

Status MetaStoreImpl::run_checkpoint(Lsn target) {
  const Status status = checkpoint_steps(target);
  if (status.ok()) {
    overlay_.drop_frozen();
    head_.store(target.value);
  } else {
    fail(status);  // what is frozen stays readable; no other checkpoint begins
  }
  MutexLock lock(sync_mutex_);
  checkpointing_ = false;
  sync_done_.notify_all();
  return status;
}

Status MetaStoreImpl::checkpoint() {
  if (read_only_) return {};
  Lsn target;
  for (;;) {
    PINDAX_TRY(health());
    {
      MutexLock lock(commit_mutex_);
      if (last_lsn().value == head_.load()) return {};
      if (begin_checkpoint(target)) break;
    }
    wait_for_checkpoint();
  }
  PINDAX_TRY(run_checkpoint(target));
  announce();
  return {};
}

// ---- Commit ---------------------------------------------------------------------------------------------------------

Status MetaStoreImpl::encode(Transaction& tx, RecordBuilder& record) {
  for (auto& [at, object] : tx.objects_) {
    if (object.encoded) continue;
    for (const auto& [within, seal] : object.inner)
      if (seal != nullptr) seal(object.bytes.get() + within);
    if (object.seal != nullptr) object.seal(object.bytes.get());
    if (object.fresh) {
      object.dirty = record.add_whole(at, object.bytes.get(), object.length);
    } else {
      PINDAX_ASSIGN(const MetaView before, view(at, object.length));
      object.dirty |= record.add_changes(at, before.data(), object.bytes.get(), object.length);
    }
    object.encoded = true;
  }
  return {};
}

// Waits for room with the mutex dropped: for the time before at_commit actions have run.
Status MetaStoreImpl::make_room(u64 bytes) {
  bytes = std::min(bytes, ring_.bytes());
  while (ring_.bytes() - used() < bytes) {
    PINDAX_TRY(health());
    Lsn target;
    const bool mine = begin_checkpoint(target);
    commit_mutex_.unlock();
    const Status status = mine ? run_checkpoint(target) : Status();
    if (!mine) wait_for_checkpoint();
    commit_mutex_.lock();
    PINDAX_TRY(status);
  }
  return {};
}

// Makes room without letting go of the mutex: at_commit actions have run and their objects must stay the newest.
Status MetaStoreImpl::make_room_holding(u64 bytes) {
  if (bytes > ring_.bytes()) return Status(Errc::kTooBig, "transaction larger than the journal");
  while (ring_.bytes() - used() < bytes) {
    PINDAX_TRY(health());
    Lsn target;
    if (begin_checkpoint(target))
      PINDAX_TRY(run_checkpoint(target));
    else
      wait_for_checkpoint();
  }
  return {};
}

void MetaStoreImpl::install(Transaction& tx, Lsn end) {
  for (BlockNo block : tx.forgotten_)
    if (!tx.objects_.contains(block_offset(block))) overlay_.forget(block, end);
  for (auto& [at, object] : tx.objects_)
    if (object.dirty != 0) overlay_.install(at, object.bytes.get(), object.length, object.dirty, Overlay::Source::kTransaction);
}

Result<Lsn> MetaStoreImpl::append(Transaction& tx, RecordBuilder& record) {
  for (auto& action : tx.at_commit_) PINDAX_TRY(action(tx));
  PINDAX_TRY(encode(tx, record));
  for (BlockNo block : tx.forgotten_)
    if (overlay_.contains(block)) record.add_revoke(block);
  if (record.empty()) return last_lsn();
  PINDAX_TRY(make_room_holding(record.size()));
  for (auto& [at, object] : tx.objects_)
    if (object.dirty != 0) PINDAX_TRY(overlay_.prepare(offset_block(at), object.fresh));

  const Lsn begin = last_lsn();
  const Lsn end = begin + record.size();
  record.finish(begin, epoch_);
  PINDAX_STEP("journal.append");
  if (Status status = ring_.write(begin, record.data(), record.size()); !status.ok()) {
    fail(status);
    return status;
  }
  install(tx, end);
  appended_.store(end.value, std::memory_order_release);
  PINDAX_STEP("journal.appended");
  return end;
}

Result<Lsn> MetaStoreImpl::commit(Transaction& tx) {
  if (read_only_) return Status(Errc::kReadOnly, "the pool is open for reading only");
  PINDAX_TRY(health());
  RecordBuilder record;
  PINDAX_TRY(encode(tx, record));
  if (record.size() > max_record_bytes())
    return Status(Errc::kTooBig, "transaction larger than the journal takes at once");
  Lsn end;
  {
    MutexLock lock(commit_mutex_);
    PINDAX_TRY(make_room(tx.record_bytes_estimate()));
    PINDAX_ASSIGN(end, append(tx, record));
  }
  if (mode_ == SyncMode::kStrict || media_.granularity() == Granularity::kVolatile) tx.durability_ = flush_to(end);
  return end;
}

void MetaStoreImpl::after_commit() {
  announce();
  if (used() < ring_.bytes() / kCheckpointShare && overlay_.active_count() <= kMaxStagedBlocks) return;
  Lsn target;
  {
    MutexLock lock(commit_mutex_);
    if (failed_.load() || !begin_checkpoint(target)) return;
  }
  // A failure shows in health(): this transaction is committed.
  (void)run_checkpoint(target);
  announce();
}

}  // namespace pindax
