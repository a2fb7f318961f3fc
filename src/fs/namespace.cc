// SPDX-License-Identifier: BSD-3-Clause
//
// Names: look-up, creation, links, removal. Rename has a file of its own.
//
// Every operation is one transaction under the exclusive locks of all inodes it changes, taken in ascending inode number. The
// victim of a removal is only known after a look, so: look under the directory's shared lock, drop it, lock everything,
// look again, start over if the name changed hands.
//
// No operation waits for a pin (B6): what loses its last name joins the orphan list.
#include <sys/stat.h>

#include <cstring>

#include "base/steps.h"
#include "fs/file_system_impl.h"
#include "fs/names.h"

namespace pindax {
namespace {

// What new inodes take over from their directory.
constexpr u32 kInheritedFlags = format::kFlagSync | format::kFlagNoDump | format::kFlagNoAtime | format::kFlagDirSync;

bool in_group(const Caller& caller, u32 gid) {
  return caller.gid == gid || std::find(caller.groups.begin(), caller.groups.end(), gid) != caller.groups.end();
}

// Owner, group and mode of a new inode before umask and ACLs (inode_init_owner() in the kernel).
void init_owner(format::Inode& slot, const format::Inode& dir, u32 mode, const Caller& caller) {
  slot.uid = caller.uid;
  slot.gid = caller.gid;
  if ((dir.mode & S_ISGID) != 0) {
    slot.gid = dir.gid;
    if (S_ISDIR(mode)) mode |= S_ISGID;
  }
  const bool executable_sgid = (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
  if (!S_ISDIR(mode) && executable_sgid && !caller.privileged && !in_group(caller, slot.gid)) mode &= ~u32{S_ISGID};
  slot.mode = mode;
}

Result<format::DataKind> data_kind_of(u32 mode, std::string_view target) {
  switch (mode & S_IFMT) {
    case S_IFREG: return format::DataKind::kInlineExtents;
    case S_IFDIR: return format::DataKind::kTree;
    case S_IFLNK:
      if (target.empty()) return Status(Errc::kNotFound, "an empty symbolic link");
      if (target.size() > kMaxSymlinkBytes) return Status(Errc::kNameTooLong, "the symbolic link is too long");
      return target.size() <= format::kInlineSymlinkBytes ? format::DataKind::kInlineSymlink
                                                          : format::DataKind::kBlobSymlink;
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK: return format::DataKind::kNone;
    default: return Status(Errc::kInvalid, "unknown type of file");
  }
}

}  // namespace

Status check_name(std::string_view name) {
  if (name.empty()) return Status(Errc::kNotFound, "an empty name");
  if (name.size() > kMaxNameBytes) return Status(Errc::kNameTooLong, "a name is at most 255 bytes long");
  if (name.find('/') != name.npos || name.find('\0') != name.npos) {
    return Status(Errc::kInvalid, "a name holds neither a slash nor a zero byte");
  }
  return {};
}

Status check_directory(const format::Inode& dir) {
  return is_directory(dir) ? Status() : Status(Errc::kNotDirectory);
}

Status may_add_names(const format::Inode& dir) {
  PINDAX_TRY(check_directory(dir));
  if (dir.links == 0) return Status(Errc::kNotFound, "the directory was removed");
  if ((dir.flags & format::kFlagImmutable) != 0) return Status(Errc::kPermission, "the directory is immutable");
  return {};
}

Status may_remove_name(const format::Inode& dir, const format::Inode& victim) {
  PINDAX_TRY(check_directory(dir));
  constexpr u32 kForbidden = format::kFlagImmutable | format::kFlagAppend;
  if ((dir.flags & kForbidden) != 0) return Status(Errc::kPermission, "the directory is immutable or append-only");
  if ((victim.flags & kForbidden) != 0) return Status(Errc::kPermission, "the file is immutable or append-only");
  return {};
}

// ---- Look-up --------------------------------------------------------------------------------------------------------

Result<InodeRef> FileSystemImpl::lookup(Inode& dir, std::string_view name) {
  InodeNo ino;
  {
    ReadLock lock(dir.mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(dir));
    PINDAX_TRY(check_directory(*slot));
    if (name == ".") return InodeRef(&dir);
    if (name != "..") {
      PINDAX_TRY(check_name(name));
      PINDAX_ASSIGN(const Entry entry, find_entry(*slot, name));
      // Under the lock, while the entry says that the inode lives.
      auto found = get(entry.ino, 0);
      if (found.code() == Errc::kStale) {
        return Status(Errc::kCorrupt, "a directory entry names no inode: run pindax fsck");
      }
      return found;
    }
    ino = slot->parent != 0 ? InodeNo(slot->parent) : dir.ino;
  }
  return get(ino, 0);
}

Result<InodeRef> FileSystemImpl::resolve(std::string_view path) {
  PINDAX_ASSIGN(InodeRef at, root());
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (end > begin) {
      PINDAX_ASSIGN(at, lookup(*at, path.substr(begin, end - begin)));
    }
    begin = end + 1;
  }
  return at;
}

// ---- Creation -------------------------------------------------------------------------------------------------------

Result<FileSystemImpl::Born> FileSystemImpl::make_inode(Transaction& tx, const format::Inode& dir, const NewInode& what,
                                                        const Caller& caller, u32 links) {
  u32 mode = what.mode & (S_IFMT | 07777);
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  PINDAX_ASSIGN(const format::DataKind kind, data_kind_of(mode, what.symlink_target));
  PINDAX_ASSIGN(const InodeNo ino, allocator_->allocate_inode(tx, InodeNo(dir.self)));
  PINDAX_ASSIGN(const u32 generation, allocator_->next_generation(tx));
  PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, ino));
  *slot = format::Inode{};
  slot->magic = format::kInodeMagic;
  slot->version = static_cast<u16>(format::kVersion);
  slot->self = ino.value;
  slot->generation = generation;
  slot->data_kind = static_cast<u16>(kind);
  slot->links = links != 0 && S_ISDIR(mode) ? 2 : links;
  slot->flags = dir.flags & kInheritedFlags & (S_ISDIR(mode) ? ~0u : ~format::kFlagDirSync);
  slot->busy_policy = dir.busy_policy;
  slot->busy_deadline_ms = dir.busy_deadline_ms;
  slot->project = dir.project;
  if (S_ISCHR(mode) || S_ISBLK(mode)) slot->rdev = what.rdev;
  init_owner(*slot, dir, mode, caller);
  const FileTime t = now();
  stamp(*slot, kStampAtime | kStampMtime | kStampCtime, t);
  slot->crtime_s = static_cast<u64>(t.seconds);
  slot->crtime_ns = t.nanoseconds;
  if (S_ISLNK(mode)) {
    slot->size_bytes = what.symlink_target.size();
    if (kind == format::DataKind::kInlineSymlink) {
      std::memcpy(slot->body.symlink, what.symlink_target.data(), what.symlink_target.size());
    } else {
      PINDAX_ASSIGN(slot->body.blob, write_blob(tx, *slot, what.symlink_target));
    }
  } else {
    PINDAX_TRY(inherit_acl(tx, dir, *slot, caller.umask));
  }
  return Born{ino, generation, slot};
}

Result<InodeRef> FileSystemImpl::create(Inode& dir, std::string_view name, const NewInode& what, const Caller& caller) {
  PINDAX_TRY(check_writable());
  PINDAX_TRY(check_name(name));
  if (name == "." || name == "..") return Errc::kExists;
  WriteLock lock(dir.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(dir));
    PINDAX_TRY(check_directory(*seen));
    auto entry = find_entry(*seen, name);
    if (entry.ok()) return Errc::kExists;
    if (entry.code() != Errc::kNotFound) return entry.status();
    PINDAX_TRY(may_add_names(*seen));
    PINDAX_TRY(check_room());
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * parent, change_slot(tx, dir));
  PINDAX_ASSIGN(const Born born, make_inode(tx, *parent, what, caller, 1));
  const u32 mode = born.slot->mode;
  PINDAX_ASSIGN(const u64 key, insert_entry(tx, *parent, name, born.ino, static_cast<u8>((mode & S_IFMT) >> 12)));
  PINDAX_TRY(add_parent(tx, *born.slot, {dir.ino, key}));
  if (S_ISDIR(mode)) {
    parent->subdirs += 1;
    parent->links += 1;
  }
  stamp(*parent, kStampMtime | kStampCtime, now());
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("fs.created");
  return adopt(born);
}

Result<InodeRef> FileSystemImpl::create_unnamed(Inode& dir, const NewInode& what, const Caller& caller) {
  PINDAX_TRY(check_writable());
  if ((what.mode & S_IFMT) != 0 && !S_ISREG(what.mode)) return Status(Errc::kInvalid, "only regular files go unnamed");
  ReadLock lock(dir.mutex);
  PINDAX_ASSIGN(const SlotView parent, read_slot(dir));
  PINDAX_TRY(may_add_names(*parent));
  PINDAX_TRY(check_room());
  Transaction tx(*store_);
  lock_orphans(tx);
  PINDAX_ASSIGN(const Born born, make_inode(tx, *parent, what, caller, 0));
  PINDAX_TRY(add_orphan(tx, born.ino));
  PINDAX_TRY(tx.commit());
  PINDAX_ASSIGN(InodeRef inode, adopt(born));
  inode->orphan = true;
  return inode;
}

Status FileSystemImpl::link(Inode& target, Inode& dir, std::string_view name) {
  PINDAX_TRY(check_writable());
  PINDAX_TRY(check_name(name));
  if (name == "." || name == "..") return Status(Errc::kExists);
  InodeLocks locks{&dir, &target};
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(dir));
    PINDAX_TRY(check_directory(*seen));
    auto entry = find_entry(*seen, name);
    if (entry.ok()) return Status(Errc::kExists);
    if (entry.code() != Errc::kNotFound) return entry.status();
    PINDAX_TRY(may_add_names(*seen));
    PINDAX_TRY(check_room());
    PINDAX_ASSIGN(const SlotView slot, read_slot(target));
    if (is_directory(*slot)) return Status(Errc::kPermission, "a directory has one name");
    if ((slot->flags & (format::kFlagImmutable | format::kFlagAppend)) != 0) return Status(Errc::kPermission);
    if (slot->links >= format::kMaxLinks) return Status(Errc::kTooManyLinks);
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, target));
  const bool was_orphan = belongs_to_orphans(*slot);
  slot->links += 1;
  const bool named_now = was_orphan && !belongs_to_orphans(*slot);
  if (named_now) PINDAX_TRY(remove_orphan(tx, target.ino));
  PINDAX_ASSIGN(format::Inode * parent, change_slot(tx, dir));
  const FileTime t = now();
  PINDAX_ASSIGN(const u64 key, insert_entry(tx, *parent, name, target.ino, static_cast<u8>((slot->mode & S_IFMT) >> 12)));
  PINDAX_TRY(add_parent(tx, *slot, {dir.ino, key}));
  stamp(*slot, kStampCtime, t);
  stamp(*parent, kStampMtime | kStampCtime, t);
  tx.on_commit([&target](Lsn) { target.orphan = false; });
  PINDAX_TRY(tx.commit());
  // An unnamed inode was not listed as dirty; what it has unsynced must outlive its last user from now on.
  if (named_now) mark_dirty(target);
  return {};
}

// ---- Removal --------------------------------------------------------------------------------------------------------

Status FileSystemImpl::unlink(Inode& dir, std::string_view name) { return remove_name(dir, name, false); }

Status FileSystemImpl::rmdir(Inode& dir, std::string_view name) {
  if (name == ".") return Status(Errc::kInvalid);
  if (name == "..") return Status(Errc::kNotEmpty);
  return remove_name(dir, name, true);
}

Status FileSystemImpl::drop_link(Transaction& tx, Inode& inode, format::Inode& slot, Parent parent, FileTime t) {
  const bool was_orphan = belongs_to_orphans(slot);
  slot.links = is_directory(slot) ? 0 : slot.links - 1;
  if (slot.links == 0 && !was_orphan) PINDAX_TRY(add_orphan(tx, inode.ino));
  PINDAX_TRY(remove_parent(tx, slot, parent));
  stamp(slot, kStampCtime, t);
  if (slot.links == 0) {
    tx.on_commit([this, &inode, no_blocks = slot.blocks == 0](Lsn) {
      inode.orphan = true;
      inode.holds_no_blocks = no_blocks;
      drop_from_dirty(inode);
    });
  }
  return {};
}

Status FileSystemImpl::remove_name(Inode& dir, std::string_view name, bool directory) {
  PINDAX_TRY(check_writable());
  PINDAX_TRY(check_name(name));
  if (!directory && (name == "." || name == "..")) return Status(Errc::kIsDirectory);
  for (;;) {
    PINDAX_ASSIGN(const InodeRef victim, lookup(dir, name));
    PINDAX_STEP("fs.remove_looked_up");
    const InodeLocks locks{&dir, victim.get()};
    PINDAX_ASSIGN(const SlotView seen, read_slot(dir));
    PINDAX_ASSIGN(const Entry entry, find_entry(*seen, name));
    if (entry.ino != victim->ino) continue;
    {
      PINDAX_ASSIGN(const SlotView slot, read_slot(*victim));
      if (directory && !is_directory(*slot)) return Status(Errc::kNotDirectory);
      if (!directory && is_directory(*slot)) return Status(Errc::kIsDirectory);
      PINDAX_TRY(may_remove_name(*seen, *slot));
      if (directory && slot->entries != 0) return Status(Errc::kNotEmpty);
    }
    Transaction tx(*store_);
    PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, *victim));
    PINDAX_ASSIGN(format::Inode * parent, change_slot(tx, dir));
    const FileTime t = now();
    PINDAX_TRY(drop_link(tx, *victim, *slot, {dir.ino, entry.key}, t));  // first: orphans before the quarantine
    PINDAX_TRY(erase_entry(tx, *parent, entry.key));
    if (directory) {
      parent->subdirs -= 1;
      parent->links -= 1;
    }
    stamp(*parent, kStampMtime | kStampCtime, t);
    PINDAX_TRY(tx.commit());
    PINDAX_STEP("fs.removed");
    return {};
  }
}

// ---- Symbolic links ---------------------------------------------------------------------------------------------------

Result<std::string> FileSystemImpl::read_link(Inode& inode) {
  std::string out;
  {
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
    if (!S_ISLNK(slot->mode)) return Status(Errc::kInvalid, "not a symbolic link");
    if (slot->data_kind == static_cast<u16>(format::DataKind::kInlineSymlink)) {
      out.assign(reinterpret_cast<const char*>(slot->body.symlink), slot->size_bytes);
    } else {
      PINDAX_ASSIGN(out, read_blob(slot->body.blob, inode.ino.value, nullptr));
    }
  }
  note_access(inode);
  return out;
}

}  // namespace pindax
