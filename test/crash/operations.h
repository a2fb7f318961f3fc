// SPDX-License-Identifier: BSD-3-Clause
//
// Operations of workloads: generated over a small set of files, done by the file system and by the model.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fs/file_system.h"
#include "model.h"
#include "pmem/recording_media.h"

namespace pindax::crash {

enum class OpKind : u8 {
  kCreate, kMkdir, kFifo, kDevice, kSymlink, kTemporary, kLink, kUnlink, kUnlinkOpen, kRmdir,
  kRename, kExchange, kWhiteout, kWrite, kAppend, kWriteSync, kTruncate, kAllocate, kAllocateKeep, kPunch,
  kZero, kZeroKeep, kCollapse, kInsert, kUnshare, kSetXattr, kRemoveXattr, kChmod, kChown, kUtimes, kSetFlags, kFsync, kSyncAll,
  kDirect, kDirectPersist, kClone, kRepair, kCheckpoint, kRemount, kKill,
  kKillMapped,  // a client that still maps the pool outlives the daemon: what is freed from then on is quarantined
};
const char* op_name(OpKind kind);

struct Operation {
  OpKind kind{};
  std::string path;
  std::string other;  // second path (of a clone: the source), symlink target, xattr name
  u64 offset = 0;
  u64 length = 0;     // or size, mode, owner
  bool core = false;  // also in long workloads
  std::string text() const;
};

// Every operation on the base tree, in a fixed order.
std::vector<Operation> generate_operations();

// What a byte of the `index`th operation's data is: depends on who wrote it and where, never 0 or the poison.
inline constexpr u8 kPoison = 0xDB;
// What the checker reads where the file system says that a block is bad.
inline constexpr u8 kLost = 0xDC;
u8 data_byte(u32 inode, u64 index, u64 offset);

// A granularity and a mode: what a crash may take is another matter for each.
struct Setting {
  const char* name;
  Granularity granularity;
  SyncMode sync;
  // A store in place is durable when the call returns.
  bool strict_data() const { return granularity == Granularity::kCacheLine; }
  bool strict_names() const { return sync == SyncMode::kStrict; }
};
inline constexpr Setting kSettings[] = {
    {"line-strict", Granularity::kCacheLine, SyncMode::kStrict},
    {"page-posix", Granularity::kPage, SyncMode::kPosix},
    {"page-strict", Granularity::kPage, SyncMode::kStrict},
    {"line-posix", Granularity::kCacheLine, SyncMode::kPosix},
};

// Keeps the executor's only thread busy while closed, so that background work comes after the reply, every time.
class Gate {
 public:
  explicit Gate(Executor& executor) : executor_(executor) {}
  void close();
  void open();
  void drain();  // opens, and waits until nothing is queued

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool open = false, entered = false;
  };
  Executor& executor_;
  std::shared_ptr<State> state_;
};

// A mounted file system and what the workload holds open.
struct World {
  World(RecordingMedia& m, Executor& e) : media(m), executor(e), gate(e) {}
  ~World() { kill(); }
  // `background`: orphans are cleaned up by the executor, as in a daemon; time alone starts nothing.
  Status mount(SyncMode sync, char boot, bool background, bool former_clients = false);
  void kill();  // as kill -9: nothing more reaches the media, but what is there stays

  RecordingMedia& media;
  Executor& executor;
  Gate gate;
  SyncMode sync = SyncMode::kStrict;
  char boot_id = 'A';
  std::unique_ptr<FileSystem> fs;
  std::vector<InodeRef> held;
  u32 model_inode = 0;  // of the operation at hand, for data_byte()
};

// Makes the files that workloads find, through the file system, and the same in the model.
Status build_tree(World& world, Model& model);
// `index` counts from 1.
Status do_operation(World& world, const Operation& op, u64 index);
// After the death of a daemon with clients free space is punched before it is used, by a thread that a busy machine may keep
// waiting: tries again while that is why there is no space.
Status retry_while_punching(FileSystem& fs, const std::function<Status()>& action);
// Adds the moment after the operation. False: it must fail, and the moment is as before.
bool model_operation(History& history, const Operation& op, u64 index, const Setting& setting);

}  // namespace pindax::crash
