// SPDX-License-Identifier: BSD-3-Clause
//
// The kernel's side of FUSE: <linux/fuse.h> and what later kernels added to it. libfuse 3.14 and the headers
// of its time stop at protocol 7.38; Pindax speaks to newer kernels through its own device hooks
// (fuse/device.h).
//
// Source: include/uapi/linux/fuse.h of Linux 6.18 (protocol 7.45); each constant names the minor version it
// came with.
#pragma once

#include <linux/fuse.h>

#include "base/types.h"

namespace pindax::abi {

// INIT flags, both words as one number (flags | flags2 << 32).
inline constexpr u64 kInitExt = u64{1} << 30;  // 7.36: flags2 is there
inline constexpr u64 kInitParallelDirops = u64{1}
                                           << 18;  // 7.25: lookup and readdir of one directory in parallel
inline constexpr u64 kInitHandleKillprivV2 = u64{1}
                                             << 28;    // 7.33: we clear set-id bits; the kernel says when
inline constexpr u64 kInitSetxattrExt = u64{1} << 29;  // 7.33: SETXATTR carries setxattr_flags
inline constexpr u64 kInitDirectIoAllowMmap = u64{1} << 36;  // 7.39: shared mmap of FOPEN_DIRECT_IO files

// include/uapi/linux/fs.h of Linux 6.18. The number says that the kernel hands a word out, although it takes one: so FUSE does not
// bring it along.
inline constexpr u32 kIocShutdown = 0x8004587d;  // FS_IOC_SHUTDOWN

// OPEN reply flags.
inline constexpr u32 kFopenDirectIo = 1u << 0;
inline constexpr u32 kFopenKeepCache = 1u << 1;
inline constexpr u32 kFopenNoFlush = 1u << 5;  // 7.34
inline constexpr u32 kFopenParallelDirectWrites = 1u << 6;  // 7.38

// Request flags that libfuse 3.14 drops.
inline constexpr u32 kOpenKillSuidgid = 1u << 0;      // fuse_open_in.open_flags, 7.33
inline constexpr u32 kWriteKillSuidgid = 1u << 2;     // fuse_write_in.write_flags, 7.31
inline constexpr u32 kFattrKillSuidgid = 1u << 11;    // fuse_setattr_in.valid, 7.33
inline constexpr u32 kSetxattrAclKillSgid = 1u << 0;  // fuse_setxattr_in.setxattr_flags, 7.33
inline constexpr u32 kSetxattrExtraBytes = 8;  // setxattr_flags and padding, behind the compatible struct

// Requests that libfuse 3.14 does not know.
inline constexpr u32 kOpTmpfile = 51;  // 7.37: arguments and reply as CREATE
inline constexpr u32 kOpStatx = 52;    // 7.39

struct StatxIn {
  u32 getattr_flags;
  u32 reserved;
  u64 fh;
  u32 sx_flags;
  u32 sx_mask;
};
static_assert(sizeof(StatxIn) == 24);

struct StatxTime {
  i64 tv_sec;
  u32 tv_nsec;
  u32 reserved;
};

struct Statx {
  u32 mask;
  u32 blksize;
  u64 attributes;
  u32 nlink;
  u32 uid;
  u32 gid;
  u16 mode;
  u16 spare0[1];
  u64 ino;
  u64 size;
  u64 blocks;
  u64 attributes_mask;
  StatxTime atime, btime, ctime, mtime;
  u32 rdev_major, rdev_minor, dev_major, dev_minor;
  u64 spare2[14];
};
static_assert(sizeof(Statx) == 256);

struct StatxOut {
  u64 attr_valid;
  u32 attr_valid_nsec;
  u32 flags;
  u64 spare[2];
  Statx stat;
};
static_assert(sizeof(StatxOut) == 288);

}  // namespace pindax::abi
