// SPDX-License-Identifier: BSD-3-Clause
//
// userfaultfd(2) as the library uses it. Debian 12's headers are older than the kernels it runs on: what they lack is
// declared here (source: Linux include/uapi/linux/userfaultfd.h, 6.6).
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/types.h"
#include "base/unique_fd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace pindax::client {

inline constexpr u64 kFeaturePoison = u64{1} << 14;

struct UffdioPoison {
  struct uffdio_range range;
  u64 mode;
  i64 updated;
};
inline constexpr unsigned long kUffdioPoison = _IOWR(UFFDIO, 0x08, UffdioPoison);
inline constexpr u64 kFeatureMinorShmem = u64{1} << 10;
inline constexpr u64 kFeatureWpShmem = u64{1} << 12;

// One userfaultfd and what we ask of it. All calls may run on any thread, allocate nothing and return 0 or an errno.
class Userfaultfd {
 public:
  // Tries the system call, then /dev/userfaultfd, then `device` (a descriptor of /dev/userfaultfd from the daemon, or -1). 0 or an
  // errno: EPERM where an unprivileged process may not have one.
  int open(int device);
  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }

  int watch(void* address, u64 length);  // register MISSING and WP
  // Whether pages of a file in shared memory can be watched.
  bool can_watch_shared() const { return shared_; }
  int watch_shared(u64 address, u64 length);  // of such a file: MISSING, MINOR and WP
  // Enters pages of a watched file; those that are entered already count as done. A page that the file lacks is made of zeros.
  int enter(u64 address, u64 length);
  // Read faults see zeros, a later store comes back as a write-protect fault. EEXIST is fine: somebody was faster.
  int fill_zeros(u64 address, u64 length);
  // The same with the bytes at `source`. EFAULT if those cannot be read.
  int fill_copy(u64 address, u64 length, const void* source) { return fill(address, length, source); }
  int poison(u64 address, u64 length);  // touching it is a SIGBUS
  void wake(u64 address, u64 length);

 private:
  int negotiate(int fd);
  int fill(u64 address, u64 length, const void* source);  // null: zeros
  bool shared_ = false;
  UniqueFd fd_;
};

}  // namespace pindax::client
