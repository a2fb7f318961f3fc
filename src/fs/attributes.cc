// SPDX-License-Identifier: BSD-3-Clause
//
// stat and its counterpart. Lazy times are newer than the slot's and win.
#include <sys/stat.h>

#include "base/steps.h"
#include "fs/file_system_impl.h"

namespace pindax {
namespace {

constexpr u32 kNanosPerSecond = 1'000'000'000;
constexpr u64 kSectorsPerBlock = kBlockSize / 512;

bool in_group(const Caller& caller, u32 gid) {
  return caller.gid == gid || std::find(caller.groups.begin(), caller.groups.end(), gid) != caller.groups.end();
}

// chmod, chown, and what they do to the set-id bits.
void set_owner_and_mode(format::Inode& slot, const SetAttributes& set, const Caller& caller) {
  const bool chown = (set.valid & (SetAttributes::kUid | SetAttributes::kGid)) != 0;
  if ((set.valid & SetAttributes::kUid) != 0) slot.uid = set.uid;
  if ((set.valid & SetAttributes::kGid) != 0) slot.gid = set.gid;
  u32 mode = slot.mode;
  const bool kill = (set.valid & SetAttributes::kKillSuidgid) != 0 || (chown && !caller.privileged);
  if (kill && !S_ISDIR(mode)) {
    mode &= ~u32{S_ISUID};
    // Without group execution the bit means mandatory locking.
    if ((mode & S_IXGRP) != 0) mode &= ~u32{S_ISGID};
  }
  if ((set.valid & SetAttributes::kMode) != 0) {
    mode = (mode & S_IFMT) | (set.mode & 07777);
    if (!caller.privileged && !in_group(caller, slot.gid)) mode &= ~u32{S_ISGID};
  }
  slot.mode = mode;
}

Status check_times(const SetAttributes& set) {
  const bool bad = ((set.valid & SetAttributes::kAtime) != 0 && set.atime.nanoseconds >= kNanosPerSecond) ||
                   ((set.valid & SetAttributes::kMtime) != 0 && set.mtime.nanoseconds >= kNanosPerSecond) ||
                   ((set.valid & SetAttributes::kCtime) != 0 && set.ctime.nanoseconds >= kNanosPerSecond);
  return bad ? Status(Errc::kInvalid, "a time has less than 10^9 nanoseconds") : Status();
}

Status check_settable(const format::Inode& slot, u32 valid) {
  if ((slot.flags & format::kFlagImmutable) != 0) return Status(Errc::kPermission, "the file is immutable");
  constexpr u32 kOwnership = SetAttributes::kMode | SetAttributes::kUid | SetAttributes::kGid;
  constexpr u32 kTimes = SetAttributes::kAtime | SetAttributes::kMtime;
  const bool chosen = (valid & kTimes) != 0 && (valid & SetAttributes::kTouch) == 0;
  if ((slot.flags & format::kFlagAppend) != 0 && ((valid & kOwnership) != 0 || chosen))
    return Status(Errc::kPermission, "the file is append-only");
  return {};
}

}  // namespace

Attributes FileSystemImpl::describe(Inode& inode, const format::Inode& slot) {
  Attributes a;
  a.ino = inode.ino;
  a.generation = slot.generation;
  a.mode = slot.mode;
  a.links = slot.links;
  a.uid = slot.uid;
  a.gid = slot.gid;
  a.rdev = slot.rdev;
  a.blocks_512 = slot.blocks * kSectorsPerBlock;
  a.size_bytes = is_directory(slot) ? std::max<u64>(slot.blocks, 1) * kBlockSize : slot.size_bytes.get();
  a.atime = slot_atime(slot);
  a.mtime = slot_mtime(slot);
  a.ctime = slot_ctime(slot);
  a.crtime = {static_cast<i64>(slot.crtime_s.get()), slot.crtime_ns};
  a.flags = slot.flags;
  a.version = slot.version_counter;
  MutexLock lock(inode.lazy_mutex);
  if (inode.recent) {
    const auto& lazy = inode.recent->times;
    if (lazy.has_atime) a.atime = lazy.atime;
    if (lazy.has_mtime) a.mtime = lazy.mtime, a.ctime = lazy.ctime;
    a.version += lazy.changes;
  }
  return a;
}

Result<Attributes> FileSystemImpl::attributes(Inode& inode) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  return describe(inode, *slot);
}

Result<Attributes> FileSystemImpl::set_attributes(Inode& inode, const SetAttributes& set, const Caller& caller) {
  PINDAX_TRY(check_writable());
  PINDAX_TRY(check_times(set));
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(inode));
    if (set.valid == 0) return describe(inode, *seen);
    PINDAX_TRY(check_settable(*seen, set.valid));
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  constexpr u32 kOwnership =
      SetAttributes::kMode | SetAttributes::kUid | SetAttributes::kGid | SetAttributes::kKillSuidgid;
  if ((set.valid & kOwnership) != 0) set_owner_and_mode(*slot, set, caller);
  if ((set.valid & (SetAttributes::kUid | SetAttributes::kGid)) != 0 && slot->xattr_root != 0) {
    const Status dropped = erase_xattr(tx, *slot, kCapabilityXattr);
    if (!dropped.ok() && dropped.code() != Errc::kNoData) return dropped;
  }
  if ((set.valid & SetAttributes::kMode) != 0) PINDAX_TRY(acl_chmod(tx, *slot));
  stamp(*slot, kStampCtime, (set.valid & SetAttributes::kCtime) != 0 ? set.ctime : now());
  if ((set.valid & SetAttributes::kAtime) != 0) stamp(*slot, kStampAtime, set.atime);
  if ((set.valid & SetAttributes::kMtime) != 0) stamp(*slot, kStampMtime, set.mtime);
  const Attributes result = describe(inode, *slot);
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("fs.attributes_set");
  return result;
}

Result<u32> FileSystemImpl::flags(Inode& inode) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  return slot->flags.get();
}

Status FileSystemImpl::set_flags(Inode& inode, u32 flags) {
  PINDAX_TRY(check_writable());
  if ((flags & ~format::kKnownFlags) != 0) {
    return Status(Errc::kNotSupported, "flags are sync, immutable, append, nodump, noatime and dirsync");
  }
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(inode));
    if (!is_regular(*seen) && !is_directory(*seen)) return Status(Errc::kNotSupported, "only files and directories have flags");
    if (!is_directory(*seen) && (flags & format::kFlagDirSync) != 0) return Status(Errc::kNotSupported);
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  slot->flags = flags;
  stamp(*slot, kStampCtime, now());
  PINDAX_TRY(tx.commit());
  return {};
}

}  // namespace pindax
