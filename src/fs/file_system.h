// SPDX-License-Identifier: BSD-3-Clause
//
// The file system without FUSE: what the fuse room, the server (clients without a mount), the crash explorer and unit
// tests call. Works on any Media.
//
// Conventions
//  - All calls are thread-safe. Namespace calls are synchronous and never wait for a pin (B6).
//  - Data calls take a callback: it runs on the calling thread when the range is free, else later on the executor; it runs
//    exactly once. Callers keep InodeRefs alive until then.
//  - Permission checks: calls do none by themselves (the kernel does them under default_permissions); the server calls
//    access() first. Rules that the kernel leaves to the file system (set-id clearing, setgid directories, ACL
//    inheritance, sticky is the kernel's, append/immutable flags) are done here.
//  - Durability: strict mode: a call that returned is durable. Posix mode: after fsync and friends; but every
//    call's record is in the pool before it returns (D2).
#pragma once

#include <linux/falloc.h>
#include <sys/statvfs.h>

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/allocator.h"
#include "base/executor.h"
#include "base/result.h"
#include "fs/inode.h"
#include "journal/meta_store.h"
#include "layout/layout.h"
#include "pmem/media.h"

namespace pindax {

inline constexpr u32 kMaxNameBytes = 255;
inline constexpr u32 kMaxSymlinkBytes = 4095;
inline constexpr u32 kMaxXattrBytes = 65536;

struct Caller {
  u32 uid = 0;
  u32 gid = 0;
  u32 umask = 022;
  u32 tid = 0;  // thread, 0 if unknown
  std::vector<u32> groups;   // supplementary; filled by the edge where a rule needs them
  bool privileged = false;   // CAP_FSETID: set-id bits survive writes and chmod
};

struct Attributes {
  InodeNo ino;
  u32 generation = 0;
  u32 mode = 0;
  u32 links = 0;
  u32 uid = 0, gid = 0;
  u64 rdev = 0;
  u64 size_bytes = 0;
  u64 blocks_512 = 0;
  FileTime atime, mtime, ctime, crtime;
  u32 flags = 0;    // format::kFlag…
  u64 version = 0;  // change counter
};

struct SetAttributes {
  enum : u32 { kMode = 1, kUid = 2, kGid = 4, kAtime = 8, kMtime = 16, kCtime = 32, kKillSuidgid = 64, kTouch = 128 };
  u32 valid = 0;  // kTouch: atime and mtime are the present, and nobody chose them
  u32 mode = 0, uid = 0, gid = 0;
  FileTime atime, mtime, ctime;
};

struct MountOptions {
  SyncMode sync = SyncMode::kStrict;  // the default for the granularity is chosen by default_sync_mode()
  bool read_only = false;
  enum class AccessTimes { kRelative, kNever, kAlways } access_times = AccessTimes::kRelative;  // relatime, noatime, strictatime
  bool nodiratime = false;
  std::chrono::milliseconds commit_interval{5000};  // posix mode and lazy times
  LayoutOptions layout;
  std::string boot_id;  // 16 raw bytes; empty: read from the host
  // D2: a former client maps the pool, so what recovery frees goes to quarantine; as if set_former_clients(true) had been
  // called before. mount() finds out by itself for a PoolMedia.
  bool former_clients = false;
  // How long removed files without blocks may gather until they are freed together, in the background.
  std::chrono::milliseconds clean_up_delay{0};
  bool background = true;  // commit timer and orphan clean-up run by themselves; tests switch it off
};
SyncMode default_sync_mode(Granularity g);

struct MkfsOptions {
  std::string label;
  bool zeroed = false;  // the media is known to read as zeros
  u32 root_uid = 0, root_gid = 0;
  u32 root_mode = 0755;
};
// Makes an empty file system. Durable on return. kInvalid with advice if the pool is too small or large.
Status make_file_system(Media& media, const MkfsOptions& options);

// A piece of a file as a direct mapper sees it.
struct Translation {
  enum class Kind { kBlocks, kHole, kBeyondEnd, kBad };  // kBad: lost bytes, nobody may touch them
  Kind kind = Kind::kHole;
  u64 file_offset = 0;   // bytes, block aligned
  u64 length = 0;        // bytes, block aligned
  PoolOffset pool_offset;  // kBlocks
  bool writable = false;
};

class FileSystem {
 public:
  // Recovers if need be. kIncompatible, kCorrupt with a message that says what to do. The media outlives the file system.
  static Result<std::unique_ptr<FileSystem>> mount(Media& media, Executor& executor, const MountOptions& options);
  virtual ~FileSystem() = default;  // as after kill -9 unless unmount() was called

  // Ends background work, writes lazy state, checkpoints, marks the pool clean.
  virtual Status unmount() = 0;

  // Makes everything durable, then changes nothing any more: all changes fail with kIo, reads go on, and the pool is left as a crash
  // would leave it, for the next mount to recover. For tests of recovery, and to stop writers at once.
  virtual Status shut_down() = 0;

  virtual Media& media() = 0;
  virtual MetaStore& store() = 0;
  virtual Allocator& allocator() = 0;
  virtual Layout& layout() = 0;
  virtual Executor& executor() = 0;
  virtual const MountOptions& options() const = 0;
  virtual const format::Superblock& superblock() const = 0;
  // D2: while former clients map the pool, freed blocks go to quarantine. The daemon sets and clears it.
  virtual Status set_former_clients(bool present) = 0;

  // ---- Inodes (fs/inode_table.cc) ----
  virtual Result<InodeRef> root() = 0;
  // kStale if the number is no inode in use or (generation != 0) has another generation.
  virtual Result<InodeRef> get(InodeNo ino, u32 generation = 0) = 0;
  virtual Result<Attributes> attributes(Inode& inode) = 0;
  virtual Result<Attributes> set_attributes(Inode& inode, const SetAttributes& set, const Caller& caller) = 0;
  virtual Result<u32> flags(Inode& inode) = 0;
  virtual Status set_flags(Inode& inode, u32 flags) = 0;
  virtual Status access(Inode& inode, unsigned mask, const Caller& caller) = 0;  // R_OK|W_OK|X_OK, ACLs included
  virtual Result<struct statvfs> statfs() = 0;

  // ---- Names (fs/namespace.cc, fs/directory.cc) ----
  virtual Result<InodeRef> lookup(Inode& dir, std::string_view name) = 0;  // "." and ".." too
  struct NewInode {
    u32 mode = 0;  // type and permissions before umask and ACLs
    u64 rdev = 0;
    std::string_view symlink_target;  // for S_IFLNK
  };
  virtual Result<InodeRef> create(Inode& dir, std::string_view name, const NewInode& what, const Caller& caller) = 0;
  // An unnamed inode on the orphan list (O_TMPFILE); link() gives it a name.
  virtual Result<InodeRef> create_unnamed(Inode& dir, const NewInode& what, const Caller& caller) = 0;
  virtual Status link(Inode& target, Inode& dir, std::string_view name) = 0;
  virtual Status unlink(Inode& dir, std::string_view name) = 0;
  virtual Status rmdir(Inode& dir, std::string_view name) = 0;
  // flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
  virtual Status rename(Inode& from, std::string_view from_name, Inode& to, std::string_view to_name, unsigned flags,
                        const Caller& caller) = 0;
  virtual Result<std::string> read_link(Inode& inode) = 0;
  struct DirectoryEntry {
    std::string_view name;
    InodeNo ino;
    u8 type = 0;     // DT_*
    u64 cookie = 0;  // continue after this entry
  };
  // Entries after `cookie` (0: from the start, "." and ".." included) until `visit` returns false. `visit` runs under the
  // directory's lock and must not call back into the file system.
  virtual Status read_directory(Inode& dir, u64 cookie, const std::function<bool(const DirectoryEntry&)>& visit) = 0;
  // Every path of an inode, absolute within the file system; at most `most`. Empty for orphans.
  virtual std::vector<std::string> paths(InodeNo ino, unsigned most = 1) = 0;
  virtual Result<InodeRef> resolve(std::string_view path) = 0;  // no symlinks followed

  // ---- Extended attributes and ACLs (fs/xattr.cc, fs/acl.cc) ----
  // Names with their prefix. flags: XATTR_CREATE, XATTR_REPLACE. POSIX ACLs come as system.posix_acl_{access,default}.
  virtual Result<std::string> get_xattr(Inode& inode, std::string_view name) = 0;
  virtual Status set_xattr(Inode& inode, std::string_view name, std::string_view value, int flags, const Caller& caller) = 0;
  virtual Status remove_xattr(Inode& inode, std::string_view name) = 0;
  virtual Result<std::vector<std::string>> list_xattrs(Inode& inode) = 0;

  // ---- Data (fs/file_read.cc, file_write.cc, truncate.cc, fallocate.cc, sync.cc) ----
  // The pieces of [offset, offset + length) clipped to the size; holes and unwritten extents point to zeros. The bytes
  // stay valid inside the callback only. Ends before the first byte of a bad block; kPoisoned if that is the first one of all.
  using ReadPieces = std::vector<std::span<const std::byte>>;
  using ReadDone = std::function<void(Result<const ReadPieces*>)>;
  // `reader`: the kernel has written its dirty pages back before it asks; for a client that is done here.
  enum class Reader { kKernel, kClient };
  virtual void read(InodeRef inode, u64 offset, u64 length, ReadDone done, Reader reader = Reader::kKernel) = 0;
  // A page-cache fill by the kernel (Layout::with_fill). Where the page may be stored into, a hole gets its block here (C5,
  // R44). Returns a handle for interrupt().
  virtual std::shared_ptr<Change> fill(InodeRef inode, u64 offset, u64 length, bool writable, ReadDone done) = 0;

  struct WriteRequest {
    u64 offset = 0;
    std::span<const std::byte> data;  // read before write() returns if the range was free, else copied
    bool append = false;     // offset is ignored: at the end of file, atomically
    bool sync = false;       // O_SYNC / O_DSYNC: durable on completion
    Caller caller;           // set-id rules
  };
  // Completes with the count of bytes written (short only when space runs out) and for appends the offset is the file's end.
  virtual void write(InodeRef inode, const WriteRequest& request, std::function<void(Result<u64>)> done) = 0;
  // Dirty pages from the kernel (C3): at once, clipped to the size, never extends, never waits.
  virtual Status write_back(Inode& inode, u64 offset, std::span<const std::byte> data) = 0;

  struct ChangeContext {
    Requester requester;
    bool kernel_setattr = false;
    Caller caller;
    std::optional<BusyPolicy> policy;  // per call; else per file, else per mount
    std::optional<std::chrono::milliseconds> deadline;
  };
  using DoneStatus = std::function<void(Status)>;
  // Both return a handle for interrupt(). Sizes up to kMaxFileBytes, else kTooBig.
  virtual std::shared_ptr<Change> truncate(InodeRef inode, u64 size, const ChangeContext& context, DoneStatus done) = 0;
  // mode: as fallocate(2), all of them: 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE[|KEEP_SIZE], UNSHARE_RANGE[|KEEP_SIZE],
  // COLLAPSE_RANGE, INSERT_RANGE; with Linux's errors.
  virtual std::shared_ptr<Change> fallocate(InodeRef inode, int mode, u64 offset, u64 length, const ChangeContext& context,
                                            DoneStatus done) = 0;
  static bool may_resize(u32 mode) { return (mode & FALLOC_FL_KEEP_SIZE) == 0; }  // of fallocate()
  // Moves the next chunk of the file at or behind `offset` that is in fragments, or not aligned to 2 MiB where it could be, to
  // one new run of blocks. Call it again with `next` until that is kMaxOffset. A pin that the context's policy does not
  // wait for is no error: `busy`.
  struct DefragmentStep {
    u64 next = 0;           // bytes
    u64 moved_bytes = 0;
    u64 no_room_bytes = 0;  // left as they are for want of a free run
    bool busy = false;
  };
  virtual std::shared_ptr<Change> defragment(InodeRef inode, u64 offset, const ChangeContext& context,
                                             std::function<void(Result<DefragmentStep>)> done) = 0;
  // Shares blocks of the source with the destination. Offsets: multiples of a block; length: too, or the source ends there and
  // the destination not behind it. 0: to the source's end. Waits for pins of either file by its policy.
  struct CloneRequest {
    InodeRef source, destination;
    u64 source_offset = 0, destination_offset = 0;
    u64 length = 0;
    bool dedupe = false;       // only if both ranges hold the same bytes; at most 16 MiB a call; times stay
    bool may_shorten = false;  // as much as can be done, instead of kInvalid
    bool never_wait = false;   // kTextBusy at once where either file is pinned
  };
  // Completes with the bytes shared; 0 for a dedupe of different contents.
  virtual std::shared_ptr<Change> clone_range(const CloneRequest& request, const ChangeContext& context,
                                              std::function<void(Result<u64>)> done) = 0;
  virtual Result<u64> seek(Inode& inode, u64 offset, bool data) = 0;  // SEEK_DATA / SEEK_HOLE; kNoDevice
  virtual Result<u64> size(Inode& inode) = 0;
  // Data, size and layout durable. Also covers direct clients' stores (their pages are synced). datasync skips lazy times.
  virtual Status fsync(Inode& inode, bool datasync) = 0;
  virtual Status sync_all() = 0;

  // ---- Direct mappers (fs/map.cc); call under a shared hold of `range` ----
  // What lies behind the block-aligned range. for_write: holes and unwritten blocks become written zeros first, and a
  // strict-mode commit has happened before this returns. kNoSpace. What lies in bad blocks stays lost: kBad.
  // Shared blocks are copied for a write if the hold came with a break that moves blocks, whose grant is `copy`; null: kTryAgain.
  virtual Result<std::vector<Translation>> translate(Inode& inode, ByteRange range, bool for_write,
                                                      const ChangeGrant* copy = nullptr) = 0;
  // True if the file may share blocks of the range with others (fs/share.h): stores and pins must make them its own first.
  virtual Result<bool> shares_blocks(Inode& inode, ByteRange range) = 0;
  // Makes them the file's own. Call under a hold that came with a break that moves blocks, and with its grant. kNoSpace.
  virtual Status unshare(Inode& inode, ByteRange range, const ChangeGrant& grant) = 0;
  // Before a client's mapping of the range is made known to the layout room: gates over shared blocks (P4) and of files that
  // have lost bytes are slow.
  virtual Status publish_for_gates(Inode& inode, ByteRange range) = 0;
  // A direct mapper may have stored: stamps mtime lazily, remembers the range for fsync.
  virtual void note_direct_stores(Inode& inode, ByteRange range) = 0;
  // ---- Reverse map (fs/reverse.cc) ----
  // Which files have blocks of the run, and where. A look through the inodes of the live file system, a step of some
  // thousand inodes at a time, beginning near the run: yield between steps. Ends early when every owner that is counted was found.
  // True: call again. Files that change meanwhile are shown as they were, or not at all.
  struct BlockOwner {
    InodeNo ino;
    u64 file_offset = 0;  // bytes
    BlockRun run;         // the part of the run that lies there
    bool shared = false;
    bool lost = false;  // find_damaged(): the blocks hold data. Else nobody misses anything
  };
  struct OwnerScan {
    BlockRun run;  // in
    std::vector<BlockOwner> owners;
    u64 counted = 0;  // owners of all blocks of the run together, by the share counts; 0 until the first step
    BlockNo next;     // the rest is the scan's own
    BlockNo stop;
    bool started = false, wrapped = false;
  };
  virtual Result<bool> find_owners(OwnerScan& scan) = 0;
  // ---- Bad blocks (fs/bad_blocks.cc) ----
  // Every file range whose blocks are bad: a look through the inodes as find_owners(), in steps. True: call again.
  struct DamageScan {
    std::vector<BlockOwner> owners;
    BlockNo next;  // the scan's own
  };
  virtual Result<bool> find_damaged(DamageScan& scan) = 0;
  // Takes bad blocks that were met since the last call down in the list on media, and what clients and the kernel have of them
  // away, so that the next touch finds out. Background work does this by itself as soon as a block is met. No locks held.
  virtual Status tend_bad_blocks() = 0;
  // Somebody who reads past this room met bad bytes in [offset, offset + length): finds out which blocks are bad.
  virtual void examine(Inode& inode, u64 offset, u64 length) = 0;
  // Reads what is allocated in the pool from block `from` on, about `most` blocks. Bad blocks are noted.
  struct ScrubStep {
    BlockNo next;  // where to go on
    bool done = false;
    u64 read_blocks = 0;
    u64 found_blocks = 0;  // bad ones that are news
  };
  virtual Result<ScrubStep> scrub(BlockNo from, u64 most) = 0;
  // Notes what the host's own list of bad blocks has. How many are news; kNotSupported where there is no list.
  virtual Result<u64> read_bad_list() = 0;
  // The extents over a range, for listings: as translate without holes beyond the end, nothing allocated.
  virtual Result<std::vector<format::ExtentInfo>> extents(Inode& inode, ByteRange range) = 0;
};

}  // namespace pindax
