// SPDX-License-Identifier: BSD-3-Clause
//
// The file system as an object: its parts, its space, its quarantine. Subjects have files of their own.
#include <cstring>

#include "fs/file_system_impl.h"
#include "pmem/pool_media.h"

namespace pindax {

SyncMode default_sync_mode(Granularity g) { return g == Granularity::kPage ? SyncMode::kPosix : SyncMode::kStrict; }

FileSystemImpl::FileSystemImpl(Media& media, Executor& executor, const MountOptions& options)
    : media_(media), executor_(executor), options_(options), tasks_(make_task_count()) {}

FileSystemImpl::~FileSystemImpl() {
  media_.set_poison_listener(nullptr);
  if (allocator_) allocator_->set_bad_listener(nullptr);
  stop_background();
  take_dirty();  // as kill -9 would lose them
  if (layout_) layout_->set_quarantine_owner(nullptr);
}

Status FileSystemImpl::check_writable() const {
  if (options_.read_only) return Status(Errc::kReadOnly, "the file system is mounted read-only");
  if (unmounted_) return Status(Errc::kReadOnly, "the file system was unmounted");
  if (shut_down_) return Status(Errc::kIo, "the file system was shut down: mount it again");
  return store_->health();
}

Status FileSystemImpl::check_room() const {
  if (allocator_->room_to_grow()) return {};
  return Status(Errc::kNoSpace, "the pool is full");
}

Result<struct statvfs> FileSystemImpl::statfs() {
  const SpaceSummary space = allocator_->summary();
  struct statvfs out {};
  out.f_bsize = kBlockSize;
  out.f_frsize = kBlockSize;
  out.f_blocks = space.total_blocks - space.retired_blocks;
  out.f_bfree = space.free_blocks;
  out.f_bavail = space.free_blocks - space.reserved_blocks;
  // Inodes are made from free blocks: what there could be, not what there is.
  const u64 unused = space.inodes_allocated > space.inodes_used ? space.inodes_allocated - space.inodes_used : 0;
  out.f_ffree = unused + (space.free_blocks - space.reserved_blocks) * format::kInodesPerBlock;
  out.f_favail = out.f_ffree;
  out.f_files = space.inodes_used + out.f_ffree;
  u64 id = 0;
  std::memcpy(&id, superblock_.uuid, sizeof id);
  out.f_fsid = id;
  out.f_namemax = kMaxNameBytes;
  return out;
}

// ---- Quarantine -----------------------------------------------------------------------------------------------------

// At mount, before anything is freed: who still maps the pool says so with a witness byte (D2).
Status FileSystemImpl::find_former_clients() {
  PINDAX_ASSIGN(auto quarantined, allocator_->quarantined());
  bool present = options_.former_clients;
  {
    MutexLock lock(former_mutex_);
    former_quarantine_ = std::move(quarantined);
    if (const auto* pool = dynamic_cast<const PoolMedia*>(&media_)) {
      PINDAX_ASSIGN(former_witnesses_, pool->witnesses_held());
      present = present || !former_witnesses_.empty();
    }
  }
  return set_former_clients(present);
}

// The commit timer's look at those that were there at mount.
Status FileSystemImpl::watch_former_clients() {
  {
    MutexLock lock(former_mutex_);
    if (former_witnesses_.empty()) return {};
    const auto& pool = dynamic_cast<const PoolMedia&>(media_);
    std::erase_if(former_witnesses_, [&](u32 index) {
      const auto held = pool.witness_held(index);
      return held.ok() && !*held;
    });
    if (!former_witnesses_.empty()) return {};
  }
  return set_former_clients(false);
}

Status FileSystemImpl::set_former_clients(bool present) {
  allocator_->set_quarantine_all(present);
  return present ? Status() : release_former_quarantine();
}

Status FileSystemImpl::release_former_quarantine() {
  std::vector<BlockRun> runs;
  {
    MutexLock lock(former_mutex_);
    former_witnesses_.clear();
    for (const auto& q : std::exchange(former_quarantine_, {})) runs.push_back(q.run);
  }
  if (options_.read_only) return {};
  PINDAX_ASSIGN(const auto now_quarantined, allocator_->quarantined());
  for (const auto& q : now_quarantined) {
    if (q.reason == format::QuarantineReason::kFormerClient) runs.push_back(q.run);
  }
  for (const BlockRun& run : runs) {
    Transaction tx(*store_);
    PINDAX_TRY(allocator_->release_quarantine(tx, run));
    if (!tx.empty()) PINDAX_TRY(tx.commit());
  }
  return {};
}

void FileSystemImpl::release(u64 block, u64 length_blocks) {
  if (!check_writable().ok()) return;  // stays in quarantine: the next mount frees it
  Transaction tx(*store_);
  const Status s = allocator_->release_hold(tx, BlockRun{BlockNo(block), length_blocks});
  if (s.ok() && !tx.empty()) static_cast<void>(tx.commit().ok());  // on failure likewise
}

}  // namespace pindax
