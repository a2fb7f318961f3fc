// SPDX-License-Identifier: BSD-3-Clause
//
// What the sessions of one server share.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "fs/file_system.h"
#include "layout/client_port.h"
#include "pmem/pool_media.h"
#include "server/descriptors.h"
#include "server/token_table.h"

namespace pindax {

struct ServerOptions {
  std::string socket_path;
  std::string mount_point;         // empty without a mount
  u32 owner_uid = 0;               // of the mount: sees all rows and may stop the daemon
  bool allow_other = true;         // other users than the owner and root may attach
  bool share_userfaultfd = false;  // hand out /dev/userfaultfd
  // The pool as clients may open it; null or no media: nothing is mapped directly.
  PoolMedia* pool = nullptr;
};

// Numbers of witness bytes in use. Thread-safe.
class WitnessTable {
 public:
  // The lowest number that neither a session nor a former client has. kNoSpace if all are taken.
  Result<u32> allocate(const PoolMedia& pool) EXCLUDES(mutex_);
  void release(u32 index) EXCLUDES(mutex_);
  // A former client's: not handed out, though it may have been let go, until whoever watches it has seen that.
  void reserve(u32 index) EXCLUDES(mutex_);

 private:
  Mutex mutex_{LockRank::kLeaf};
  std::set<u32> used_ GUARDED_BY(mutex_);
};

// Posix mode: which files have write grants that no fsync has covered yet (Gate::uncommitted). A grant counts itself in before
// it leaves; an fsync clears the flag only if no grant came since it began. Thread-safe.
class UncommittedTable {
 public:
  explicit UncommittedTable(FileSystem& fs) : fs_(fs) {}
  void granted(Inode& inode) EXCLUDES(mutex_);
  u64 begin_sync(const Inode& inode) EXCLUDES(mutex_);
  void end_sync(Inode& inode, u64 begun) EXCLUDES(mutex_);

 private:
  FileSystem& fs_;
  Mutex mutex_{LockRank::kServer};
  std::map<InodeNo, u64> grants_ GUARDED_BY(mutex_);  // absent: nothing uncommitted
  u64 next_ GUARDED_BY(mutex_) = 1;
};

class Session;

// What a client changed of what the kernel may remember (C7).
struct KernelNews {
  std::vector<std::pair<InodeNo, std::string>> names;  // directory and name: made, removed or renamed
  std::vector<InodeNo> inodes;                         // whose attributes changed
};

// The mount beside the server, if there is one. Implemented above; thread-safe.
class KernelView {
 public:
  virtual ~KernelView() = default;
  // Attributes of the inode changed by a client: `done` runs, on any thread, once the kernel has forgotten the old ones and, where
  // the file may have been `resized`, knows the new size.
  virtual void refresh(InodeNo ino, bool resized, std::function<void()> done) = 0;
  // `name` in `dir` was made, removed or renamed by a client: likewise, once the kernel has forgotten what it knew of it.
  virtual void forget_name(InodeNo dir, std::string name, std::function<void()> done) = 0;
};

struct ServerContext {
  ServerContext(FileSystem& file_system, ServerOptions o) : fs(file_system), options(std::move(o)), uncommitted(fs) {}

  FileSystem& fs;
  const ServerOptions options;
  PoolIdentity pool_identity;  // valid if options.pool
  TokenTable tokens;
  WitnessTable witnesses;
  UncommittedTable uncommitted;
  Undertaker undertaker;
  // Set while a mount stands: it must learn the sizes that clients change (C7).
  std::atomic<KernelView*> kernel_view{nullptr};
  std::atomic<u64> stuck_pins{0};  // now, and
  std::atomic<u64> stuck_pins_ever{0};
  int epoll_fd = -1;
  std::function<void()> on_shutdown;  // {"op":"shutdown"}; any thread
  // Runs `then`, on any thread, once the kernel has forgotten what is not so any more. At once without a mount.
  void announce(const KernelNews& news, std::function<void()> then);
  // The live sessions, for listings. Any thread, no locks held.
  std::function<std::vector<std::shared_ptr<Session>>()> sessions;

  ClientLayout& clients() { return client_layout(fs.layout()); }
};

// What the epoll entries carry: session number and kind of descriptor.
enum class WatchKind : u64 { kSocket = 0, kDoorbell = 1, kProcess = 2 };
constexpr u64 watch_tag(u64 session, WatchKind kind) { return session << 2 | static_cast<u64>(kind); }

}  // namespace pindax
