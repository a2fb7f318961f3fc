// SPDX-License-Identifier: BSD-3-Clause
//
// userfaultfd(2) as the library uses it.
#pragma once

#include "base/types.h"
#include "base/unique_fd.h"
#include "base/userfaultfd_abi.h"

namespace pindax::client {

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
