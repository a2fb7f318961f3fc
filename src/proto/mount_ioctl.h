// SPDX-License-Identifier: BSD-3-Clause
//
// ioctls on any descriptor of a mount (facts: ioctls with data reach the daemon on files and directories).
#pragma once

#include <sys/ioctl.h>

#include "proto/messages.h"

namespace pindax::proto {

// Where the daemon listens and who it is.
struct MountInfo {
  u32 version;
  u32 daemon_pid;
  char socket_path[108];  // terminated
  char pool_path[1024];   // terminated
  u8 uuid[16];
};
// A single-use token for this descriptor's inode, access mode and calling process; valid for ten seconds.
struct TokenReply {
  u8 token[kTokenBytes];
  u64 inode;
  u32 access;  // O_ACCMODE bits recorded at open
  u32 reserved;
};

inline constexpr unsigned long kIocMountInfo = _IOR('P', 0x40, MountInfo);
inline constexpr unsigned long kIocToken = _IOR('P', 0x41, TokenReply);
// Layout changes that FUSE does not forward (collapse, insert, unshare).
struct IoctlFallocate { u32 mode; u32 reserved; u64 offset, length; };
inline constexpr unsigned long kIocFallocate = _IOW('P', 0x42, IoctlFallocate);
// On the destination. `token`: kIocToken's, of the source, which is open for reading.
struct IoctlClone {
  u8 token[kTokenBytes];
  u64 source_offset, destination_offset, length;  // as CloneBody
  u32 flags;                                      // kClone…
  u32 reserved;
  u64 bytes;  // out: as CloneReply
};
inline constexpr unsigned long kIocClone = _IOWR('P', 0x43, IoctlClone);

}  // namespace pindax::proto
