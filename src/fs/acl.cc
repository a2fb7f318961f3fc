// SPDX-License-Identifier: BSD-3-Clause
#include "fs/acl.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/little_endian.h"
#include "fs/file_system_impl.h"

namespace pindax {
namespace {

constexpr u32 kAclVersion = 2;
constexpr u32 kNoId = ~u32{0};

struct RawHeader {
  le32 version;
};
struct RawEntry {
  le16 tag;
  le16 permissions;
  le32 id;
};
static_assert(sizeof(RawHeader) == 4 && sizeof(RawEntry) == 8);

bool contains(const std::vector<u32>& list, u32 v) { return std::find(list.begin(), list.end(), v) != list.end(); }

// The order of tags, and that each list has one owner, one group, one other, and a mask where names occur.
Status check_entries(const std::vector<AclEntry>& entries) {
  const auto bad = [] { return Status(Errc::kInvalid, "not a valid access control list"); };
  unsigned previous = 0;
  bool named = false, mask = false;
  unsigned required = 0;
  for (const AclEntry& e : entries) {
    if ((e.permissions & ~7u) != 0 || e.tag < previous) return bad();
    const bool may_repeat = e.tag == AclEntry::kUser || e.tag == AclEntry::kGroup;
    if (e.tag == previous && !may_repeat) return bad();
    switch (e.tag) {
      case AclEntry::kUserObj:
      case AclEntry::kGroupObj:
      case AclEntry::kOther: required |= e.tag; break;
      case AclEntry::kUser:
      case AclEntry::kGroup:
        if (e.id == kNoId) return bad();
        named = true;
        break;
      case AclEntry::kMask: mask = true; break;
      default: return bad();
    }
    previous = e.tag;
  }
  const bool complete = required == (AclEntry::kUserObj | AclEntry::kGroupObj | AclEntry::kOther);
  return complete && (mask || !named) ? Status() : bad();
}

u16 masked(const AclEntry& e, const AclEntry* mask) {
  return mask != nullptr ? static_cast<u16>(e.permissions & mask->permissions) : e.permissions;
}

}  // namespace

Result<Acl> Acl::parse(std::string_view xattr) {
  Acl acl;
  RawHeader header;
  if (xattr.empty()) return acl;
  if (xattr.size() < sizeof header || (xattr.size() - sizeof header) % sizeof(RawEntry) != 0) {
    return Status(Errc::kInvalid, "an access control list of an odd length");
  }
  std::memcpy(&header, xattr.data(), sizeof header);
  if (header.version != kAclVersion) return Status(Errc::kNotSupported, "an access control list of another version");
  for (std::size_t at = sizeof header; at < xattr.size(); at += sizeof(RawEntry)) {
    RawEntry raw;
    std::memcpy(&raw, xattr.data() + at, sizeof raw);
    acl.entries_.push_back({raw.tag, raw.permissions, raw.id});
  }
  if (!acl.empty()) PINDAX_TRY(check_entries(acl.entries_));
  return acl;
}

std::string Acl::print() const {
  std::string out;
  const RawHeader header{kAclVersion};
  out.append(reinterpret_cast<const char*>(&header), sizeof header);
  for (const AclEntry& e : entries_) {
    const bool named = e.tag == AclEntry::kUser || e.tag == AclEntry::kGroup;
    const RawEntry raw{e.tag, e.permissions, named ? e.id : kNoId};
    out.append(reinterpret_cast<const char*>(&raw), sizeof raw);
  }
  return out;
}

AclEntry* Acl::find(u16 tag) {
  for (AclEntry& e : entries_) {
    if (e.tag == tag) return &e;
  }
  return nullptr;
}

const AclEntry* Acl::find(u16 tag) const { return const_cast<Acl*>(this)->find(tag); }

bool Acl::equals_mode() const { return entries_.size() <= 3; }

u32 Acl::mode_bits() const {
  const AclEntry* user = find(AclEntry::kUserObj);
  const AclEntry* group = find(AclEntry::kMask) != nullptr ? find(AclEntry::kMask) : find(AclEntry::kGroupObj);
  const AclEntry* other = find(AclEntry::kOther);
  u32 mode = 0;
  if (user != nullptr) mode |= u32{user->permissions} << 6;
  if (group != nullptr) mode |= u32{group->permissions} << 3;
  if (other != nullptr) mode |= other->permissions;
  return mode;
}

void Acl::apply_mode(u32 mode) {
  AclEntry* group = find(AclEntry::kMask) != nullptr ? find(AclEntry::kMask) : find(AclEntry::kGroupObj);
  if (AclEntry* user = find(AclEntry::kUserObj)) user->permissions = static_cast<u16>(mode >> 6 & 7);
  if (group != nullptr) group->permissions = static_cast<u16>(mode >> 3 & 7);
  if (AclEntry* other = find(AclEntry::kOther)) other->permissions = static_cast<u16>(mode & 7);
}

void Acl::inherit(u32* mode) {
  apply_mode(mode_bits() & *mode);
  *mode = (*mode & ~u32{0777}) | mode_bits();
}

bool Acl::permits(u32 want, u32 uid, u32 gid, const std::vector<u32>& groups, u32 owner_uid, u32 owner_gid) const {
  const auto member = [&](u32 g) { return g == gid || contains(groups, g); };
  const AclEntry* mask = find(AclEntry::kMask);
  bool in_some_group = false;
  for (const AclEntry& e : entries_) {
    switch (e.tag) {
      case AclEntry::kUserObj:
        if (uid == owner_uid) return (e.permissions & want) == want;
        break;
      case AclEntry::kUser:
        if (uid == e.id) return (masked(e, mask) & want) == want;
        break;
      case AclEntry::kGroupObj:
      case AclEntry::kGroup:
        if (!member(e.tag == AclEntry::kGroupObj ? owner_gid : e.id)) break;
        in_some_group = true;
        if ((masked(e, mask) & want) == want) return true;
        break;
      case AclEntry::kOther: return !in_some_group && (e.permissions & want) == want;
      default: break;
    }
  }
  return false;
}

// ---- Lists of inodes --------------------------------------------------------------------------------------------------

Status FileSystemImpl::set_acl(Transaction& tx, format::Inode& slot, std::string_view name, std::string_view value,
                               int flags, const Caller& caller) {
  if (S_ISLNK(slot.mode)) return Status(Errc::kNotSupported, "symbolic links have no access control lists");
  PINDAX_ASSIGN(const Acl acl, Acl::parse(value));
  const bool access_list = name == kAccessAcl;
  if (!access_list && !is_directory(slot) && !acl.empty()) {
    return Status(Errc::kAccess, "only directories have default access control lists");
  }
  if (access_list && !acl.empty()) {
    u32 mode = (slot.mode & ~u32{0777}) | acl.mode_bits();
    const bool member = caller.gid == slot.gid || contains(caller.groups, slot.gid);
    if (!member && !caller.privileged) mode &= ~u32{S_ISGID};
    slot.mode = mode;
  }
  if (acl.empty() || (access_list && acl.equals_mode())) {
    const Status s = erase_xattr(tx, slot, name);
    return s.code() == Errc::kNoData ? Status() : s;
  }
  return put_xattr(tx, slot, name, acl.print(), flags);
}

Status FileSystemImpl::inherit_acl(Transaction& tx, const format::Inode& dir, format::Inode& slot, u32 umask) {
  auto stored = find_xattr(dir, kDefaultAcl, nullptr);
  if (stored.code() == Errc::kNoData) {
    slot.mode = slot.mode & ~(umask & 0777);
    return {};
  }
  PINDAX_TRY(stored);
  PINDAX_ASSIGN(Acl acl, Acl::parse(*stored));
  if (is_directory(slot)) PINDAX_TRY(put_xattr(tx, slot, kDefaultAcl, *stored, 0));
  u32 mode = slot.mode;
  acl.inherit(&mode);
  slot.mode = mode;
  if (acl.equals_mode()) return {};
  return put_xattr(tx, slot, kAccessAcl, acl.print(), 0);
}

Status FileSystemImpl::acl_chmod(Transaction& tx, format::Inode& slot) {
  auto stored = find_xattr(slot, kAccessAcl, &tx);
  if (stored.code() == Errc::kNoData) return {};
  PINDAX_TRY(stored);
  PINDAX_ASSIGN(Acl acl, Acl::parse(*stored));
  acl.apply_mode(slot.mode);
  return put_xattr(tx, slot, kAccessAcl, acl.print(), 0);
}

Status FileSystemImpl::access(Inode& inode, unsigned mask, const Caller& caller) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  const u32 want = mask & 7u;
  if ((mask & W_OK) != 0) {
    if (options_.read_only) return Status(Errc::kReadOnly);
    if ((slot->flags & format::kFlagImmutable) != 0) return Status(Errc::kPermission, "the file is immutable");
  }
  const u32 mode = slot->mode;
  if (caller.uid == 0) {  // as CAP_DAC_OVERRIDE
    const bool runs = (mask & X_OK) == 0 || S_ISDIR(mode) || (mode & 0111) != 0;
    return runs ? Status() : Status(Errc::kAccess);
  }
  auto stored = find_xattr(*slot, kAccessAcl);
  if (!stored.ok() && stored.code() != Errc::kNoData) return stored.status();
  bool granted = false;
  if (stored.ok()) {
    PINDAX_ASSIGN(const Acl acl, Acl::parse(*stored));
    granted = acl.permits(want, caller.uid, caller.gid, caller.groups, slot->uid, slot->gid);
  } else {
    const bool member = caller.gid == slot->gid || contains(caller.groups, slot->gid);
    const u32 bits = caller.uid == slot->uid ? mode >> 6 : member ? mode >> 3 : mode;
    granted = (bits & want) == want;
  }
  return granted ? Status() : Status(Errc::kAccess);
}

}  // namespace pindax
