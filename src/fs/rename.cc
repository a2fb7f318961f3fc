// SPDX-License-Identifier: BSD-3-Clause
//
// Rename: up to four inodes in one transaction.
//
// A directory that gets another parent could become its own ancestor by two renames at once; so such renames hold
// rename_mutex_, under which no directory changes its place, from before the check until the commit.
#include <stdio.h>
#include <sys/stat.h>

#include "base/steps.h"
#include "fs/file_system_impl.h"
#include "fs/names.h"

namespace pindax {
namespace {

constexpr unsigned kMaxDepth = 1u << 20;  // directories; deeper is a cycle
constexpr u8 kTypeCharacter = 2;          // DT_CHR

u8 type_of(const format::Inode& slot) { return static_cast<u8>((slot.mode & S_IFMT) >> 12); }

void move_subdirectory(format::Inode& from, format::Inode& to) {
  from.subdirs -= 1;
  from.links -= 1;
  to.subdirs += 1;
  to.links += 1;
}

}  // namespace

struct FileSystemImpl::Rename {
  Inode& from;
  Inode& to;
  std::string_view from_name;
  std::string_view to_name;
  unsigned flags;
  const Caller& caller;

  // Looked up without the locks, then verified under them.
  InodeRef source, target{};
  Entry source_entry{}, target_entry{};
  bool source_is_directory = false, target_is_directory = false;

  bool exchange() const { return (flags & RENAME_EXCHANGE) != 0; }
  bool moves_directory() const {
    return &from != &to && (source_is_directory || (exchange() && target_is_directory));
  }
};

Result<bool> FileSystemImpl::is_ancestor(InodeNo ancestor, InodeNo dir) {
  for (unsigned depth = 0; depth < kMaxDepth; ++depth) {
    if (dir == ancestor) return true;
    if (dir.value == superblock_.root_inode || dir.value == 0) return false;
    PINDAX_ASSIGN(const InodeRef inode, get(dir, 0));
    ReadLock lock(inode->mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(*inode));
    dir = InodeNo(slot->parent);
  }
  return Status(Errc::kCorrupt, "directories form a cycle");
}

Status FileSystemImpl::rename(Inode& from, std::string_view from_name, Inode& to, std::string_view to_name,
                              unsigned flags, const Caller& caller) {
  constexpr unsigned kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
  PINDAX_TRY(check_writable());
  if ((flags & ~kKnown) != 0) return Status(Errc::kInvalid, "unknown flags of rename");
  if ((flags & RENAME_EXCHANGE) != 0 && flags != RENAME_EXCHANGE) return Status(Errc::kInvalid);
  for (const std::string_view name : {from_name, to_name}) {
    PINDAX_TRY(check_name(name));
    if (name == "." || name == "..") return Status(Errc::kBusy, "\".\" and \"..\" cannot be renamed");
  }
  for (;;) {
    Rename r{from, to, from_name, to_name, flags, caller, nullptr};
    PINDAX_ASSIGN(r.source, lookup(from, from_name));
    auto target = lookup(to, to_name);
    if (target.ok()) r.target = std::move(*target);
    else if (target.code() != Errc::kNotFound) return target.status();
    bool again = false;
    PINDAX_STEP("fs.rename_looked_up");
    PINDAX_TRY(rename_once(r, &again));
    if (!again) return {};
  }
}

// The type of an inode never changes, so it may be read before the locks that the rename needs are known.
Result<bool> FileSystemImpl::is_directory_inode(Inode& inode) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  return is_directory(*slot);
}

Status FileSystemImpl::rename_once(Rename& r, bool* again) {
  PINDAX_ASSIGN(r.source_is_directory, is_directory_inode(*r.source));
  if (r.target) {
    PINDAX_ASSIGN(r.target_is_directory, is_directory_inode(*r.target));
  }
  if (!r.moves_directory()) return rename_locked(r, again);

  MutexLock topology(rename_mutex_);
  if (r.source_is_directory) {
    PINDAX_ASSIGN(const bool inside, is_ancestor(r.source->ino, r.to.ino));
    if (inside) return Status(Errc::kInvalid, "a directory cannot move into itself");
  }
  if (r.target && r.target_is_directory) {
    PINDAX_ASSIGN(const bool inside, is_ancestor(r.target->ino, r.from.ino));
    if (inside && r.exchange()) return Status(Errc::kInvalid, "a directory cannot move into itself");
    if (inside) return Status(Errc::kNotEmpty);
  }
  return rename_locked(r, again);
}

Status FileSystemImpl::rename_locked(Rename& r, bool* again) {
  const InodeLocks locks{&r.from, &r.to, r.source.get(), r.target.get()};
  {
    PINDAX_ASSIGN(const SlotView from, read_slot(r.from));
    PINDAX_ASSIGN(const SlotView to, read_slot(r.to));
    PINDAX_ASSIGN(r.source_entry, find_entry(*from, r.from_name));
    auto target = find_entry(*to, r.to_name);
    if (!target.ok() && target.code() != Errc::kNotFound) return target.status();
    *again = r.source_entry.ino != r.source->ino || target.ok() != (r.target != nullptr) ||
             (target.ok() && target->ino != r.target->ino);
    if (*again) return {};
    if (target.ok()) r.target_entry = *target;
    PINDAX_TRY(check_rename(r, *from, *to));
  }
  // Two names of one inode: nothing to do, says POSIX; and nothing to exchange.
  if (r.target == r.source) return {};
  Transaction tx(*store_);
  PINDAX_TRY(r.exchange() ? exchange_entries(tx, r) : move_entry(tx, r));
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("fs.renamed");
  return {};
}

Status FileSystemImpl::check_rename(const Rename& r, const format::Inode& from, const format::Inode& to) {
  PINDAX_TRY(may_add_names(to));
  PINDAX_ASSIGN(const SlotView source, read_slot(*r.source));
  PINDAX_TRY(may_remove_name(from, *source));
  if (r.exchange() || (r.flags & RENAME_WHITEOUT) != 0) PINDAX_TRY(may_add_names(from));
  if (!r.target) return r.exchange() ? Status(Errc::kNotFound) : Status();
  if ((r.flags & RENAME_NOREPLACE) != 0) return Status(Errc::kExists);
  if (r.target == r.source) return {};
  PINDAX_ASSIGN(const SlotView target, read_slot(*r.target));
  PINDAX_TRY(may_remove_name(to, *target));
  if (r.exchange()) return {};
  if (r.source_is_directory && !r.target_is_directory) return Status(Errc::kNotDirectory);
  if (!r.source_is_directory && r.target_is_directory) return Status(Errc::kIsDirectory);
  if (r.target_is_directory && target->entries != 0) return Status(Errc::kNotEmpty);
  return {};
}

Status FileSystemImpl::exchange_entries(Transaction& tx, Rename& r) {
  PINDAX_ASSIGN(format::Inode * from, change_slot(tx, r.from));
  PINDAX_ASSIGN(format::Inode * to, change_slot(tx, r.to));
  PINDAX_ASSIGN(format::Inode * source, change_slot(tx, *r.source));
  PINDAX_ASSIGN(format::Inode * target, change_slot(tx, *r.target));
  const Parent source_place{r.from.ino, r.source_entry.key}, target_place{r.to.ino, r.target_entry.key};
  PINDAX_TRY(replace_entry(tx, *from, source_place.key, r.from_name, r.target->ino, type_of(*target)));
  PINDAX_TRY(replace_entry(tx, *to, target_place.key, r.to_name, r.source->ino, type_of(*source)));
  PINDAX_TRY(remove_parent(tx, *source, source_place));
  PINDAX_TRY(add_parent(tx, *source, target_place));
  PINDAX_TRY(remove_parent(tx, *target, target_place));
  PINDAX_TRY(add_parent(tx, *target, source_place));
  if (r.source_is_directory) move_subdirectory(*from, *to);
  if (r.target_is_directory) move_subdirectory(*to, *from);
  const FileTime t = now();
  stamp(*source, kStampCtime, t);
  stamp(*target, kStampCtime, t);
  stamp(*from, kStampMtime | kStampCtime, t);
  stamp(*to, kStampMtime | kStampCtime, t);
  return {};
}

Status FileSystemImpl::move_entry(Transaction& tx, Rename& r) {
  PINDAX_ASSIGN(format::Inode * from, change_slot(tx, r.from));
  PINDAX_ASSIGN(format::Inode * to, change_slot(tx, r.to));
  PINDAX_ASSIGN(format::Inode * source, change_slot(tx, *r.source));
  const FileTime t = now();
  u64 to_key = r.target_entry.key;
  if (r.target) {
    PINDAX_ASSIGN(format::Inode * target, change_slot(tx, *r.target));
    PINDAX_TRY(drop_link(tx, *r.target, *target, {r.to.ino, to_key}, t));  // first: orphans before the quarantine
    PINDAX_TRY(replace_entry(tx, *to, to_key, r.to_name, r.source->ino, type_of(*source)));
    if (r.target_is_directory) {
      to->subdirs -= 1;
      to->links -= 1;
    }
  } else {
    PINDAX_ASSIGN(to_key, insert_entry(tx, *to, r.to_name, r.source->ino, type_of(*source)));
  }
  const Parent source_place{r.from.ino, r.source_entry.key};
  PINDAX_TRY(remove_parent(tx, *source, source_place));
  PINDAX_TRY(add_parent(tx, *source, {r.to.ino, to_key}));
  if ((r.flags & RENAME_WHITEOUT) != 0) {
    NewInode whiteout;
    whiteout.mode = S_IFCHR;
    PINDAX_ASSIGN(const Born born, make_inode(tx, *from, whiteout, r.caller, 1));
    PINDAX_TRY(replace_entry(tx, *from, source_place.key, r.from_name, born.ino, kTypeCharacter));
    PINDAX_TRY(add_parent(tx, *born.slot, source_place));
  } else {
    PINDAX_TRY(erase_entry(tx, *from, source_place.key));
  }
  if (r.source_is_directory && from != to) move_subdirectory(*from, *to);
  stamp(*source, kStampCtime, t);
  stamp(*from, kStampMtime | kStampCtime, t);
  if (to != from) stamp(*to, kStampMtime | kStampCtime, t);
  return {};
}

}  // namespace pindax
