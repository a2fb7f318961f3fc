// SPDX-License-Identifier: BSD-3-Clause
//
// What Debian 12's headers, older than the kernels it runs on, lack of userfaultfd(2) (source: Linux
// include/uapi/linux/userfaultfd.h, 6.6).
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/types.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace pindax {

inline constexpr u64 kFeatureMinorShmem = u64{1} << 10;
inline constexpr u64 kFeatureWpShmem = u64{1} << 12;
inline constexpr u64 kFeaturePoison = u64{1} << 14;

struct UffdioPoison {
  struct uffdio_range range;
  u64 mode;
  i64 updated;
};
inline constexpr unsigned long kUffdioPoison = _IOWR(UFFDIO, 0x08, UffdioPoison);

}  // namespace pindax
