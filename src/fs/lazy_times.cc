// SPDX-License-Identifier: BSD-3-Clause
//
// Times that are not worth a transaction each: atime, and mtime and ctime of stores in place. They live in Inode::recent,
// ride along with the next change of the slot, and are written at fsync, at the commit interval and at unmount. A crash
// loses them.
#include <time.h>

#include "fs/file_system_impl.h"

namespace pindax {
namespace {

constexpr i64 kRelatimeSeconds = 24 * 60 * 60;

}  // namespace

FileTime now() {
  struct timespec ts;
  ::clock_gettime(CLOCK_REALTIME, &ts);
  return {ts.tv_sec, static_cast<u32>(ts.tv_nsec)};
}

FileTime slot_atime(const format::Inode& slot) { return {static_cast<i64>(slot.atime_s.get()), slot.atime_ns}; }
FileTime slot_mtime(const format::Inode& slot) { return {static_cast<i64>(slot.mtime_s.get()), slot.mtime_ns}; }
FileTime slot_ctime(const format::Inode& slot) { return {static_cast<i64>(slot.ctime_s.get()), slot.ctime_ns}; }

void stamp(format::Inode& slot, unsigned which, FileTime t) {
  const auto s = static_cast<u64>(t.seconds);
  if (which & kStampAtime) slot.atime_s = s, slot.atime_ns = t.nanoseconds;
  if (which & kStampMtime) slot.mtime_s = s, slot.mtime_ns = t.nanoseconds;
  if (which & kStampCtime) slot.ctime_s = s, slot.ctime_ns = t.nanoseconds;
  slot.version_counter += 1;
}

void FileSystemImpl::note_access(Inode& inode) {
  using AccessTimes = MountOptions::AccessTimes;
  if (options_.access_times == AccessTimes::kNever || options_.read_only || unmounted_) return;
  const bool always = options_.access_times == AccessTimes::kAlways;
  FileTime atime, mtime, ctime;
  {
    ReadLock lock(inode.mutex);
    auto slot = read_slot(inode);
    if (!slot.ok() || ((*slot)->flags & format::kFlagNoAtime) != 0 || (options_.nodiratime && is_directory(**slot))) return;
    atime = slot_atime(**slot), mtime = slot_mtime(**slot), ctime = slot_ctime(**slot);
  }
  const FileTime t = now();
  {
    MutexLock lock(inode.lazy_mutex);
    if (inode.recent) {
      const auto& lazy = inode.recent->times;
      if (lazy.has_atime) atime = lazy.atime;
      if (lazy.has_mtime) mtime = lazy.mtime, ctime = lazy.ctime;
    }
    if (!always && atime > mtime && atime > ctime && t.seconds - atime.seconds < kRelatimeSeconds) return;
    inode.lazy().has_atime = true;
    inode.lazy().atime = t;
  }
  mark_dirty(inode);
}

void FileSystemImpl::note_modified(Inode& inode) {
  const FileTime t = now();
  {
    MutexLock lock(inode.lazy_mutex);
    auto& lazy = inode.lazy();
    lazy.has_mtime = true;
    lazy.mtime = lazy.ctime = t;
    ++lazy.changes;
  }
  mark_dirty(inode);
}

void FileSystemImpl::fold_lazy_times(Transaction& tx, Inode& inode, format::Inode& slot) {
  Inode::LazyTimes taken;
  {
    MutexLock lock(inode.lazy_mutex);
    if (!inode.recent || !inode.recent->times.dirty()) return;
    taken = std::exchange(inode.recent->times, {});
  }
  if (taken.has_atime) slot.atime_s = static_cast<u64>(taken.atime.seconds), slot.atime_ns = taken.atime.nanoseconds;
  if (taken.has_mtime) {
    slot.mtime_s = static_cast<u64>(taken.mtime.seconds), slot.mtime_ns = taken.mtime.nanoseconds;
    slot.ctime_s = static_cast<u64>(taken.ctime.seconds), slot.ctime_ns = taken.ctime.nanoseconds;
  }
  slot.version_counter += taken.changes;
  tx.on_abort([&inode, taken] {
    MutexLock lock(inode.lazy_mutex);
    auto& lazy = inode.lazy();
    if (taken.has_atime && !lazy.has_atime) lazy.has_atime = true, lazy.atime = taken.atime;
    if (taken.has_mtime && !lazy.has_mtime) lazy.has_mtime = true, lazy.mtime = taken.mtime, lazy.ctime = taken.ctime;
    lazy.changes += taken.changes;
  });
}

Status FileSystemImpl::write_lazy_times(Inode& inode) {
  {
    MutexLock lock(inode.lazy_mutex);
    if (!inode.recent || !inode.recent->times.dirty()) return {};
  }
  if (options_.read_only) return {};
  WriteLock lock(inode.mutex);
  Transaction tx(*store_);
  auto slot = change_slot(tx, inode);  // folds
  if (slot.code() == Errc::kStale) return {};
  PINDAX_TRY(slot);
  PINDAX_TRY(tx.commit());
  return {};
}

// ---- The list of dirty inodes ---------------------------------------------------------------------------------------

void FileSystemImpl::mark_dirty(Inode& inode) {
  if (inode.listed.load() || inode.orphan.load()) return;
  {
    InodeRef keep(&inode);
    MutexLock lock(dirty_mutex_);
    if (!inode.listed.exchange(true)) dirty_.emplace(&inode, std::move(keep));
  }
  if (inode.orphan.load()) drop_from_dirty(inode);  // unlinked meanwhile: nobody will ask for its times
}

void FileSystemImpl::linger(InodeRef inode) {
  MutexLock lock(dirty_mutex_);
  Inode* i = inode.get();
  i->listed = true;
  dirty_.emplace(i, std::move(inode));
}

void FileSystemImpl::drop_from_dirty(Inode& inode) {
  InodeRef gone;  // dropped outside the lock
  MutexLock lock(dirty_mutex_);
  auto it = dirty_.find(&inode);
  if (it == dirty_.end()) return;
  inode.listed = false;
  gone.swap(it->second);
  dirty_.erase(it);
}

std::vector<InodeRef> FileSystemImpl::take_dirty() {
  std::vector<InodeRef> taken;
  MutexLock lock(dirty_mutex_);
  taken.reserve(dirty_.size());
  for (auto& [inode, ref] : dirty_) {
    inode->listed = false;
    taken.push_back(std::move(ref));
  }
  dirty_.clear();
  return taken;
}

}  // namespace pindax
