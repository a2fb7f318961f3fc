// SPDX-License-Identifier: BSD-3-Clause
//
// Operations on the file system itself.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>
#include <future>

#include "operations.h"

namespace pindax::crash {

void Gate::close() {
  state_ = std::make_shared<State>();
  executor_.post([state = state_] {
    std::unique_lock lock(state->mutex);
    state->entered = true;
    state->changed.notify_all();
    state->changed.wait(lock, [&] { return state->open; });
  });
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->entered; });
}

void Gate::open() {
  if (!state_) return;
  std::unique_lock lock(state_->mutex);
  state_->open = true;
  state_->changed.notify_all();
  lock.unlock();
  state_.reset();
}

void Gate::drain() {
  open();
  executor_.drain();
}

Status World::mount(SyncMode mode, char boot, bool background, bool former_clients) {
  sync = mode;
  boot_id = boot;
  MountOptions options;
  options.sync = mode;
  options.background = background;
  options.former_clients = former_clients;
  options.commit_interval = std::chrono::hours(1);
  options.boot_id = std::string(16, boot);
  PINDAX_ASSIGN(fs, FileSystem::mount(media, executor, options));
  return {};
}

void World::kill() {
  gate.drain();
  if (!fs) return;
  media.set_dead(true);
  held.clear();
  executor.drain();
  fs.reset();
  executor.drain();
  media.set_dead(false);
}

namespace {

const ChangeGrant kNothingHeldBack;

class Doer {
 public:
  Doer(World& world, const Operation& op, u64 index) : w_(world), fs_(*world.fs), op_(op), index_(index) {}

  Status run() {
    switch (op_.kind) {
      case OpKind::kCreate: return create(S_IFREG | 0644);
      case OpKind::kMkdir: return create(S_IFDIR | 0755);
      case OpKind::kFifo: return create(S_IFIFO | 0640);
      case OpKind::kDevice: return create(S_IFCHR | 0640);
      case OpKind::kSymlink: return create(S_IFLNK | 0777);
      case OpKind::kTemporary: return temporary();
      case OpKind::kLink: return link();
      case OpKind::kUnlink:
      case OpKind::kUnlinkOpen:
      case OpKind::kRmdir: return remove();
      case OpKind::kRename: return rename(0);
      case OpKind::kExchange: return rename(RENAME_EXCHANGE);
      case OpKind::kWhiteout: return rename(RENAME_WHITEOUT);
      case OpKind::kWrite: return write_path(false, false);
      case OpKind::kAppend: return write_path(true, false);
      case OpKind::kWriteSync: return write_path(false, true);
      case OpKind::kTruncate:
      case OpKind::kAllocate:
      case OpKind::kAllocateKeep:
      case OpKind::kPunch:
      case OpKind::kZero:
      case OpKind::kZeroKeep:
      case OpKind::kCollapse:
      case OpKind::kInsert:
      case OpKind::kUnshare: return change();
      case OpKind::kDirect: return direct(false);
      case OpKind::kDirectPersist: return direct(true);
      case OpKind::kClone: return clone();
      case OpKind::kRepair: return repair();
      case OpKind::kSetXattr: {
        PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
        return fs_.set_xattr(*inode, op_.other, std::string(op_.length, static_cast<char>('a' + index_)), 0, caller());
      }
      case OpKind::kRemoveXattr: {
        PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
        return fs_.remove_xattr(*inode, op_.other);
      }
      case OpKind::kChmod:
      case OpKind::kChown:
      case OpKind::kUtimes: return set_attributes();
      case OpKind::kSetFlags: {
        PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
        return fs_.set_flags(*inode, static_cast<u32>(op_.length));
      }
      case OpKind::kFsync: {
        PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
        return fs_.fsync(*inode, false);
      }
      case OpKind::kSyncAll: return fs_.sync_all();
      case OpKind::kCheckpoint: return fs_.store().checkpoint();
      case OpKind::kRemount: return remount();
      case OpKind::kKill:
      case OpKind::kKillMapped: w_.kill(); return mount_again();
    }
    return Status(Errc::kInvalid);
  }

 private:
  static Caller caller() {
    Caller c;
    c.umask = 0;
    c.privileged = true;
    return c;
  }
  Result<InodeRef> directory_of(const std::string& path, std::string* name) {
    const std::size_t slash = path.rfind('/');
    *name = path.substr(slash + 1);
    return fs_.resolve(slash == 0 ? "/" : path.substr(0, slash));
  }
  Status create(u32 mode) {
    std::string name;
    PINDAX_ASSIGN(InodeRef dir, directory_of(op_.path, &name));
    const std::string target(op_.length, 't');
    FileSystem::NewInode what{.mode = mode, .rdev = S_ISCHR(mode) ? 0x103u : 0u, .symlink_target = {}};
    if (S_ISLNK(mode)) what.symlink_target = target;
    return fs_.create(*dir, name, what, caller()).status();
  }
  Status temporary() {
    std::string name;
    PINDAX_ASSIGN(InodeRef dir, directory_of(op_.path, &name));
    const FileSystem::NewInode what{.mode = S_IFREG | 0644, .rdev = 0, .symlink_target = {}};
    PINDAX_ASSIGN(InodeRef inode, fs_.create_unnamed(*dir, what, caller()));
    PINDAX_TRY(write(inode, 0, 6000, false, false));
    return fs_.link(*inode, *dir, name);
  }
  Status link() {
    std::string name;
    PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
    PINDAX_ASSIGN(InodeRef dir, directory_of(op_.other, &name));
    return fs_.link(*inode, *dir, name);
  }
  Status remove() {
    std::string name;
    PINDAX_ASSIGN(InodeRef dir, directory_of(op_.path, &name));
    if (op_.kind == OpKind::kRmdir) return fs_.rmdir(*dir, name);
    if (op_.kind == OpKind::kUnlinkOpen) {
      PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
      w_.held.push_back(std::move(inode));
    }
    return fs_.unlink(*dir, name);
  }
  Status rename(unsigned flags) {
    std::string from_name, to_name;
    PINDAX_ASSIGN(InodeRef from, directory_of(op_.path, &from_name));
    PINDAX_ASSIGN(InodeRef to, directory_of(op_.other, &to_name));
    return fs_.rename(*from, from_name, *to, to_name, flags, caller());
  }
  Status write_path(bool append, bool sync) {
    PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
    PINDAX_ASSIGN(const u64 size, fs_.size(*inode));
    return write(inode, append ? size : op_.offset, op_.length, append, sync);
  }
  // Bytes depend on the inode as the model numbers it, which the workload told.
  Status write(const InodeRef& inode, u64 offset, u64 length, bool append, bool sync) {
    std::vector<std::byte> data(length);
    for (u64 i = 0; i < length; ++i) data[i] = static_cast<std::byte>(data_byte(w_.model_inode, index_, offset + i));
    FileSystem::WriteRequest request;
    request.offset = offset;
    request.data = data;
    request.append = append;
    request.sync = sync;
    request.caller = caller();
    auto done = std::make_shared<std::promise<Status>>();
    auto result = done->get_future();
    fs_.write(inode, request, [done, length](Result<u64> n) {
      done->set_value(n.ok() && *n != length ? Status(Errc::kNoSpace, "a short write") : n.status());
    });
    return wait(result);
  }
  Status wait(std::future<Status>& result) {
    if (result.wait_for(std::chrono::seconds(0)) != std::future_status::ready) w_.gate.open();
    return result.get();
  }
  Status change() {
    PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
    auto promise = std::make_shared<std::promise<Status>>();
    auto result = promise->get_future();
    auto done = [promise](Status s) { promise->set_value(std::move(s)); };
    FileSystem::ChangeContext context;
    context.caller = caller();
    if (op_.kind == OpKind::kTruncate) {
      auto change = fs_.truncate(inode, op_.length, context, done);
      return wait(result);
    }
    int mode = 0;
    switch (op_.kind) {
      case OpKind::kAllocateKeep: mode = FALLOC_FL_KEEP_SIZE; break;
      case OpKind::kPunch: mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; break;
      case OpKind::kZero: mode = FALLOC_FL_ZERO_RANGE; break;
      case OpKind::kZeroKeep: mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE; break;
      case OpKind::kCollapse: mode = FALLOC_FL_COLLAPSE_RANGE; break;
      case OpKind::kInsert: mode = FALLOC_FL_INSERT_RANGE; break;
      case OpKind::kUnshare: mode = FALLOC_FL_UNSHARE_RANGE; break;
      default: break;
    }
    auto change = fs_.fallocate(inode, mode, op_.offset, op_.length, context, done);
    return wait(result);
  }
  Status clone() {
    PINDAX_ASSIGN(InodeRef to, fs_.resolve(op_.path));
    PINDAX_ASSIGN(InodeRef from, fs_.resolve(op_.other));
    auto promise = std::make_shared<std::promise<Status>>();
    auto result = promise->get_future();
    FileSystem::ChangeContext context;
    context.caller = caller();
    const FileSystem::CloneRequest request{
        .source = from, .destination = to, .source_offset = op_.offset, .destination_offset = op_.offset, .length = op_.length};
    auto change = fs_.clone_range(request, context, [promise](Result<u64> bytes) { promise->set_value(bytes.status()); });
    return wait(result);
  }
  // The file's first block goes bad, if it has one of its own with bytes in it, and is written again.
  Status repair() {
    {
      PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
      PINDAX_ASSIGN(const auto extents, fs_.extents(*inode, {0, kBlockSize}));
      if (!extents.empty() && !extents[0].shared && extents[0].state != format::ExtentState::kUnwritten)
        fs_.allocator().note_bad(extents[0].block);
      PINDAX_TRY(fs_.tend_bad_blocks());
    }
    return write_path(false, false);
  }
  // As a client with a mapping: translations for writing, then stores through them.
  Status direct(bool persist) {
    PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
    PINDAX_ASSIGN(const u64 size, fs_.size(*inode));
    const ByteRange range{op_.offset, std::min(op_.offset + op_.length, size)};
    auto promise = std::make_shared<std::promise<Status>>();
    auto result = promise->get_future();
    ChangeRequest request;
    request.operation = "direct";
    request.lock_range = request.break_range = block_aligned(range);
    request.recall_only = request.moves_blocks = true;
    request.only_frees = false;
    PINDAX_ASSIGN(const bool copies, fs_.shares_blocks(*inode, range));
    auto store = [&, promise] { promise->set_value(store_direct(*inode, range, persist)); };
    std::shared_ptr<Change> change;
    if (copies) change = fs_.layout().change(*inode->layout(), request, [&](const ChangeGrant&) { return store(), Status(); }, [](const Status&) {});
    else fs_.layout().with_shared(*inode->layout(), block_aligned(range), [&](SharedHold) { store(); });
    PINDAX_TRY(wait(result));
    fs_.note_direct_stores(*inode, range);
    const bool page = w_.media.granularity() == Granularity::kPage;
    return persist && (page || w_.sync == SyncMode::kPosix) ? fs_.fsync(*inode, true) : Status();
  }
  Status store_direct(Inode& inode, ByteRange range, bool persist) {
    PINDAX_ASSIGN(const auto pieces, fs_.translate(inode, block_aligned(range), true, &kNothingHeldBack));
    for (const Translation& t : pieces) {
      if (t.kind != Translation::Kind::kBlocks) continue;
      const ByteRange part = intersect({t.file_offset, t.file_offset + t.length}, range);
      std::vector<std::byte> data(part.length());
      for (u64 i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(data_byte(w_.model_inode, index_, part.begin + i));
      const PoolOffset at = t.pool_offset + (part.begin - t.file_offset);
      PINDAX_TRY(w_.media.write(at, data.data(), data.size()));
      if (persist && w_.media.granularity() != Granularity::kPage) PINDAX_TRY(w_.media.persist(at, data.size()));
    }
    return {};
  }
  Status set_attributes() {
    PINDAX_ASSIGN(InodeRef inode, fs_.resolve(op_.path));
    SetAttributes set;
    if (op_.kind == OpKind::kChmod) {
      set.valid = SetAttributes::kMode;
      set.mode = static_cast<u32>(op_.length);
    } else if (op_.kind == OpKind::kChown) {
      set.valid = SetAttributes::kUid | SetAttributes::kGid;
      set.uid = set.gid = static_cast<u32>(op_.length);
    } else {
      set.valid = SetAttributes::kMtime;
      set.mtime.seconds = static_cast<i64>(op_.length);
    }
    return fs_.set_attributes(*inode, set, caller()).status();
  }
  Status remount() {
    w_.gate.drain();
    w_.held.clear();
    w_.executor.drain();
    PINDAX_TRY(w_.fs->unmount());
    w_.fs.reset();
    return mount_again();
  }
  Status mount_again() {
    w_.gate.close();
    return w_.mount(w_.sync, w_.boot_id, true, op_.kind == OpKind::kKillMapped);
  }

  World& w_;
  FileSystem& fs_;
  const Operation& op_;
  const u64 index_;
};

}  // namespace

Status retry_while_punching(FileSystem& fs, const std::function<Status()>& action) {
  constexpr unsigned kMostTries = 100;
  for (unsigned tries = 0;; ++tries) {
    Status status = action();
    if (status.code() != Errc::kNoSpace || fs.allocator().summary().resting_blocks == 0 || tries == kMostTries) return status;
    PINDAX_TRY(fs.allocator().reclaim());
  }
}

Status do_operation(World& world, const Operation& op, u64 index) {
  if (op.kind == OpKind::kRemount || op.kind == OpKind::kKill || op.kind == OpKind::kKillMapped)
    return Doer(world, op, index).run();
  return retry_while_punching(*world.fs, [&] { return Doer(world, op, index).run(); });
}

Status build_tree(World& world, Model& model) {
  static const Operation kSteps[] = {
      {OpKind::kCreate, "/f", "", 0, 0},      {OpKind::kWrite, "/f", "", 0, 9990},
      {OpKind::kCreate, "/g", "", 0, 0},      {OpKind::kWrite, "/g", "", 0, 4096},
      {OpKind::kWrite, "/g", "", 16384, 4096}, {OpKind::kSetXattr, "/g", "user.a", 0, 40},
      {OpKind::kCreate, "/r", "", 0, 0},      {OpKind::kWrite, "/r", "", 0, 9000},
      {OpKind::kCreate, "/q", "", 0, 0},      {OpKind::kClone, "/q", "/r", 0, 0},
      {OpKind::kCreate, "/e", "", 0, 0},      {OpKind::kMkdir, "/d", "", 0, 0},
      {OpKind::kCreate, "/d/c", "", 0, 0},    {OpKind::kWrite, "/d/c", "", 0, 5000},
      {OpKind::kLink, "/g", "/d/h", 0, 0},    {OpKind::kMkdir, "/d/s", "", 0, 0},
      {OpKind::kMkdir, "/x", "", 0, 0},       {OpKind::kSymlink, "/s", "", 0, 11},
      {OpKind::kSymlink, "/l", "", 0, 700},   {OpKind::kFifo, "/p", "", 0, 0},
  };
  History history(1);
  history[0].model = model;
  for (const Operation& op : kSteps) {
    if (!model_operation(history, op, 0, kSettings[0])) return Status(Errc::kInvalid, "the base tree's own steps fail");
    world.model_inode = history.back().model.find(op.path);
    PINDAX_TRY(do_operation(world, op, 0).with_context(op.text()));
  }
  model = history.back().model;
  return world.fs->unmount();
}

}  // namespace pindax::crash
