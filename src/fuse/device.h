// SPDX-License-Identifier: BSD-3-Clause
//
// The FUSE device under libfuse: hooks around its read and writev that reach what libfuse 3.14 does not know.
//
//  read    - remembers flags that libfuse drops (RequestExtras), on the thread that will run the handler
//          - answers TMPFILE and STATX itself and reads on
//          - brings SETXATTR into the form that libfuse parses
//  writev  - adds to the INIT reply the features that libfuse cannot ask for, as far as the kernel offered
//  them
//
// libfuse calls fuse_session_custom_io's hooks for a session that it has mounted itself: the call only sets
// the table and the descriptor (lib/fuse_lowlevel.c), so mounting by fusermount3 stays libfuse's work.
#pragma once

#include <atomic>
#include <functional>

#include "fuse/kernel_abi.h"

struct fuse_session;

namespace pindax {

struct Context;

// Of the request that this thread read last, hence of the one whose handler it runs.
struct RequestExtras {
  bool kill_suidgid = false;  // WRITE, SETATTR, OPEN, CREATE: the caller lacks CAP_FSETID
  bool kill_sgid = false;     // SETXATTR of an ACL: the caller is not in the group
};
const RequestExtras& request_extras();

class Device {
 public:
  // After fuse_session_mount() or equal. `ready` runs once, when the kernel has taken the INIT reply.
  static int install(fuse_session* session, Context& context, std::function<void()> ready);

 private:
  friend struct DeviceHooks;
  void peek(struct fuse_in_header* request, std::size_t* length, bool* answered, int fd, Context& context);

  std::atomic<u64> init_unique_{0};
  u64 offered_ = 0;    // by the kernel, in INIT
  u64 requested_ = 0;  // in our reply
  std::function<void()> ready_;
};

}  // namespace pindax
