// SPDX-License-Identifier: BSD-3-Clause
//
// POSIX access control lists in the format of the system.posix_acl_* attributes (version 2 of linux/posix_acl_xattr.h).
// Semantics follow fs/posix_acl.c of the kernel. Reentrant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace pindax {

inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";
inline bool is_acl_name(std::string_view name) { return name == kAccessAcl || name == kDefaultAcl; }

struct AclEntry {
  enum Tag : u16 { kUserObj = 1, kUser = 2, kGroupObj = 4, kGroup = 8, kMask = 16, kOther = 32 };
  u16 tag = 0;
  u16 permissions = 0;  // rwx
  u32 id = 0;           // kUser, kGroup
};

class Acl {
 public:
  // kInvalid if the bytes are no valid list. A list without entries is valid and means "none".
  static Result<Acl> parse(std::string_view xattr);
  std::string print() const;

  bool empty() const { return entries_.empty(); }
  const std::vector<AclEntry>& entries() const { return entries_; }

  // The list says no more than nine mode bits.
  bool equals_mode() const;
  // The permission bits that stat shows: with a mask, it takes the group's place.
  u32 mode_bits() const;
  // After chmod.
  void apply_mode(u32 mode);
  // A directory's default list becomes a new inode's access list: permissions not in `mode` go; *mode loses what the
  // list does not grant.
  void inherit(u32* mode);
  // True if the list grants `want` (rwx bits).
  bool permits(u32 want, u32 uid, u32 gid, const std::vector<u32>& groups, u32 owner_uid, u32 owner_gid) const;

 private:
  AclEntry* find(u16 tag);
  const AclEntry* find(u16 tag) const;

  std::vector<AclEntry> entries_;
};

}  // namespace pindax
