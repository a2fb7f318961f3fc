// SPDX-License-Identifier: BSD-3-Clause
//
// Keys of the trees of names: part of the format, so that the file system and fsck agree. The low kCollisionBits tell
// entries of one hash apart.
#pragma once

#include "format/format.h"
#include "fs/siphash.h"

namespace pindax {

// Directory entries and xattrs. Entries' keys begin with kFirstCookie.
inline u64 name_key(const u8* hash_key, std::string_view name) {
  return siphash24(hash_key, name) >> (64 - format::kNameHashBits) << format::kCollisionBits;
}

// Records of further parents: of the directory and the entry's key there.
inline u64 parent_record_key(u64 dir, u64 key) {
  u64 x = dir * 0x9e37'79b9'7f4a'7c15 ^ key;
  x = (x ^ x >> 30) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ x >> 27) * 0x94d0'49bb'1331'11eb;
  x ^= x >> 31;
  return x >> (64 - format::kNameHashBits) << format::kCollisionBits;
}

}  // namespace pindax
