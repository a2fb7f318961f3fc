// SPDX-License-Identifier: BSD-3-Clause
//
// What every FUSE handler works with: one per mount, libfuse's userdata.
//
// Handlers never block on a client, a pin or a range lock (R36): data calls reply from their callbacks, on
// whatever thread runs them; everything else is short. The few that wait for the media (fsync) hold a worker
// meanwhile.
#pragma once

#include <fcntl.h>
#include <fuse_lowlevel.h>

#include <atomic>
#include <unordered_map>

#include "base/executor.h"
#include "fs/file_system.h"
#include "fuse/device.h"
#include "fuse/mount.h"
#include "fuse/node_table.h"
#include "fuse/notifier.h"
#include "fuse/pending_change.h"

namespace pindax {

// How many handles each inode has that allow a shared writable mapping. The kernel's pages are the inode's, whoever had them
// filled: while there is such a handle every page may be stored into without another word (C5, C6). Thread-safe.
class StoreHandles {
 public:
  void add(InodeNo ino) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    ++count_[ino.value];
  }
  void remove(InodeNo ino) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto it = count_.find(ino.value);
    if (it != count_.end() && --it->second == 0) count_.erase(it);
  }
  bool any(InodeNo ino) const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return count_.contains(ino.value);
  }

 private:
  mutable Mutex mutex_{LockRank::kLeaf};
  std::unordered_map<u64, u64> count_ GUARDED_BY(mutex_);
};

struct Context {
  Context(FileSystem& f, Executor& e, MountService& s, const MountPoint& m, InodeRef root)
      : fs(f), executor(e), service(s), mount(m), nodes(std::move(root)), notifier(nodes) {}

  FileSystem& fs;
  Executor& executor;
  MountService& service;
  const MountPoint mount;
  Device device;
  NodeTable nodes;
  Notifier notifier;
  PendingChanges changes;
  StoreHandles store_handles;
  // Data requests whose callback has not run: each holds libfuse's session.
  std::atomic<u64> in_flight{0};
};

inline Context& context_of(fuse_req_t req) { return *static_cast<Context*>(::fuse_req_userdata(req)); }

// An open file or directory; fuse_file_info.fh points to it from OPEN to RELEASE.
struct Handle {
  InodeRef inode;
  int flags = 0;  // of open(2)

  u32 access() const { return static_cast<u32>(flags & O_ACCMODE); }
  bool writable() const { return (flags & O_ACCMODE) != O_RDONLY; }
  bool allows_stores() const { return (flags & O_ACCMODE) == O_RDWR; }
  bool append() const { return (flags & O_APPEND) != 0; }
};
inline Handle* handle_of(const fuse_file_info* fi) { return reinterpret_cast<Handle*>(fi->fh); }

}  // namespace pindax
