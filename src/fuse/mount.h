// SPDX-License-Identifier: BSD-3-Clause
//
// A file system on a mount point: session, worker threads, start and end.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "fs/file_system.h"
#include "proto/mount_ioctl.h"

namespace pindax {

struct MountPoint {
  std::string path;    // absolute
  std::string source;  // what mount(8) shows: the pool
  bool read_only = false;
  bool allow_other = false;
  double attr_timeout_s = 1.0;              // of attributes and entries in the kernel
  std::vector<std::string> kernel_options;  // suid, dev, noexec, …: as libfuse takes them
  unsigned workers = 0;                     // 0: by the number of processors
};

// What ioctls on the mount need from the daemon.
class MountService {
 public:
  virtual ~MountService() = default;
  virtual proto::MountInfo mount_info() = 0;
  // A token for `inode`, bound to `access` (O_ACCMODE) and to the process `pid`.
  virtual Result<proto::TokenReply> issue_token(const InodeRef& inode, u32 access, u32 pid) = 0;
  // What a token of that process stands for, once; kAccess if nothing that may be read.
  virtual Result<InodeRef> redeem_for_reading(const u8 (&token)[proto::kTokenBytes], u32 pid) = 0;
};

struct Context;

class Mount {
 public:
  // Mounts. The file system, executor and service outlive it. Errors say what to do: no /dev/fuse, no
  // permission, mount point missing or busy.
  static Result<std::unique_ptr<Mount>> attach(FileSystem& fs, Executor& executor, MountService& service,
                                               const MountPoint& point);
  ~Mount();  // unmounts

  // Serves requests until the mount is unmounted or end() is called. `ready` runs once the kernel may be
  // used.
  Status serve(std::function<void()> ready);
  // Thread-safe, from another thread than serve()'s: writes the kernel's dirty pages back, takes the mount
  // out of sight and gives those who use it `grace` to go, then ends serve().
  void end(std::chrono::milliseconds grace);
  // C7: a client changed the inode's times, and its size if `resized`; `done` runs, on any thread, once the kernel knows.
  // Thread-safe.
  void refresh(InodeNo ino, bool resized, std::function<void()> done);
  // A client made, removed or renamed `name` in `dir`; likewise.
  void forget_name(InodeNo dir, std::string name, std::function<void()> done);

 private:
  Mount() = default;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pindax
