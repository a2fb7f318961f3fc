// SPDX-License-Identifier: BSD-3-Clause
//
// The file system's inside: one class, its parts in one file a subject. Only files of this room and its tests include it.
//
// Locks, outermost first: rename_mutex_ (a directory gets another parent), Inode::mutex in ascending inode number, a
// shard of the inode cache, layout's locks, orphans_mutex_ (held by a transaction until its end), the allocator's, the
// journal's. lazy_mutex and dirty_mutex_ are leaves.
//
// A slot (format::Inode) is read under Inode::mutex through read_slot(), and changed under the exclusive lock through
// change_slot() in a transaction that commits before the lock is released.
#pragma once

#include <algorithm>
#include <array>
#include <set>
#include <thread>
#include <unordered_map>

#include "fs/file_system.h"
#include "fs/node_allocator.h"

namespace pindax {

// What slots may be stamped with.
enum Stamp : unsigned { kStampAtime = 1, kStampMtime = 2, kStampCtime = 4 };

// A checked slot that stays readable while the view lives (and unchanged while the inode's lock is held).
class SlotView {
 public:
  SlotView() = default;
  explicit SlotView(MetaView view) : view_(std::move(view)) {}
  const format::Inode* operator->() const { return &view_.as<format::Inode>(); }
  const format::Inode& operator*() const { return view_.as<format::Inode>(); }

 private:
  MetaView view_;
};

// Exclusive locks of several inodes, taken in ascending inode number. Null and repeated inodes are skipped.
class InodeLocks {
 public:
  InodeLocks(std::initializer_list<Inode*> inodes) NO_THREAD_SAFETY_ANALYSIS;
  ~InodeLocks() NO_THREAD_SAFETY_ANALYSIS;
  InodeLocks(const InodeLocks&) = delete;
  InodeLocks& operator=(const InodeLocks&) = delete;

 private:
  static constexpr unsigned kMost = 4;
  std::array<Inode*, kMost> inodes_{};
  unsigned count_ = 0;
};

FileTime slot_atime(const format::Inode& slot);
FileTime slot_mtime(const format::Inode& slot);
FileTime slot_ctime(const format::Inode& slot);
// Sets the chosen times to `t` and moves the version counter.
void stamp(format::Inode& slot, unsigned which, FileTime t);

// True if the inode must be on the orphan list.
inline bool belongs_to_orphans(const format::Inode& slot) {
  return slot.links == 0 || slot.pending_end > slot.pending_begin;
}
inline bool is_directory(const format::Inode& slot) { return (slot.mode & 0170000) == 0040000; }
inline bool is_regular(const format::Inode& slot) { return (slot.mode & 0170000) == 0100000; }

inline constexpr std::string_view kCapabilityXattr = "security.capability";

class FileSystemImpl final : public FileSystem, private QuarantineOwner {
 public:
  FileSystemImpl(Media& media, Executor& executor, const MountOptions& options);
  ~FileSystemImpl() override;

  // ---- FileSystem -------------------------------------------------------------------------------------------------
  Status unmount() override;
  Status shut_down() override;
  Media& media() override { return media_; }
  MetaStore& store() override { return *store_; }
  Allocator& allocator() override { return *allocator_; }
  Layout& layout() override { return *layout_; }
  Executor& executor() override { return executor_; }
  const MountOptions& options() const override { return options_; }
  const format::Superblock& superblock() const override { return superblock_; }
  Status set_former_clients(bool present) override;

  Result<InodeRef> root() override;
  Result<InodeRef> get(InodeNo ino, u32 generation) override;
  Result<Attributes> attributes(Inode& inode) override;
  Result<Attributes> set_attributes(Inode& inode, const SetAttributes& set, const Caller& caller) override;
  Result<u32> flags(Inode& inode) override;
  Status set_flags(Inode& inode, u32 flags) override;
  Status access(Inode& inode, unsigned mask, const Caller& caller) override;
  Result<struct statvfs> statfs() override;

  Result<InodeRef> lookup(Inode& dir, std::string_view name) override;
  Result<InodeRef> create(Inode& dir, std::string_view name, const NewInode& what, const Caller& caller) override;
  Result<InodeRef> create_unnamed(Inode& dir, const NewInode& what, const Caller& caller) override;
  Status link(Inode& target, Inode& dir, std::string_view name) override;
  Status unlink(Inode& dir, std::string_view name) override;
  Status rmdir(Inode& dir, std::string_view name) override;
  Status rename(Inode& from, std::string_view from_name, Inode& to, std::string_view to_name, unsigned flags,
                const Caller& caller) override;
  Result<std::string> read_link(Inode& inode) override;
  Status read_directory(Inode& dir, u64 cookie, const std::function<bool(const DirectoryEntry&)>& visit) override;
  std::vector<std::string> paths(InodeNo ino, unsigned most) override;
  Result<InodeRef> resolve(std::string_view path) override;

  Result<std::string> get_xattr(Inode& inode, std::string_view name) override;
  Status set_xattr(Inode& inode, std::string_view name, std::string_view value, int flags, const Caller& caller) override;
  Status remove_xattr(Inode& inode, std::string_view name) override;
  // File capabilities end with the first change of contents: under HANDLE_KILLPRIV_V2 the kernel leaves that to us.
  // Cheap when there are none. No inode lock held.
  Status drop_capability(Inode& inode);
  Result<std::vector<std::string>> list_xattrs(Inode& inode) override;

  void read(InodeRef inode, u64 offset, u64 length, ReadDone done, Reader reader) override;
  std::shared_ptr<Change> fill(InodeRef inode, u64 offset, u64 length, bool writable, ReadDone done) override;
  void write(InodeRef inode, const WriteRequest& request, std::function<void(Result<u64>)> done) override;
  Status write_back(Inode& inode, u64 offset, std::span<const std::byte> data) override;
  std::shared_ptr<Change> truncate(InodeRef inode, u64 size, const ChangeContext& context, DoneStatus done) override;
  std::shared_ptr<Change> fallocate(InodeRef inode, int mode, u64 offset, u64 length, const ChangeContext& context,
                                    DoneStatus done) override;
  std::shared_ptr<Change> defragment(InodeRef inode, u64 offset, const ChangeContext& context,
                                     std::function<void(Result<DefragmentStep>)> done) override;
  std::shared_ptr<Change> clone_range(const CloneRequest& request, const ChangeContext& context,
                                      std::function<void(Result<u64>)> done) override;
  Result<u64> seek(Inode& inode, u64 offset, bool data) override;
  Result<u64> size(Inode& inode) override;
  Status fsync(Inode& inode, bool datasync) override;
  Status sync_all() override;
  Result<std::vector<Translation>> translate(Inode& inode, ByteRange range, bool for_write,
                                              const ChangeGrant* copy = nullptr) override;
  Result<bool> shares_blocks(Inode& inode, ByteRange range) override;
  Status unshare(Inode& inode, ByteRange range, const ChangeGrant& grant) override;
  Status publish_for_gates(Inode& inode, ByteRange range) override;
  void note_direct_stores(Inode& inode, ByteRange range) override;
  Result<bool> find_owners(OwnerScan& scan) override;
  Result<bool> find_damaged(DamageScan& scan) override;
  Status tend_bad_blocks() override;
  void examine(Inode& inode, u64 offset, u64 length) override;
  Result<ScrubStep> scrub(BlockNo from, u64 most) override;
  Result<u64> read_bad_list() override;
  Result<std::vector<format::ExtentInfo>> extents(Inode& inode, ByteRange range) override;

  // ---- Mount state (mount.cc) -------------------------------------------------------------------------------------
  Status start();  // the body of mount(): recovers, opens, starts background work
  // Stamps the provisional extents of this mount.
  u32 mount_epoch() const { return superblock_.mount_epoch; }
  // A provisional extent of `epoch` lost its contents with a crash of the host: it reads as zeros.
  bool epoch_lost(u32 epoch) const;
  // kReadOnly if nothing may be changed (read-only mount, unmounted), else the journal's health.
  Status check_writable() const;
  // Before the first block is shared, or called bad: the superblock says what a writer must know (kRoCompat…). Durable on return.
  Status use_feature(u64 ro_compat);
  Status check_room() const;  // kNoSpace for operations that only add: the rest of the pool is for taking away

  // ---- Slots (inode_table.cc) -------------------------------------------------------------------------------------
  // The committed slot, checked; kStale if it is free or has another generation. Lock held, shared or exclusive.
  Result<SlotView> read_slot(const Inode& inode);
  // The transaction's copy, to be changed in place, with lazy times folded in (they return on abort). Exclusive lock held.
  Result<format::Inode*> change_slot(Transaction& tx, Inode& inode);

  // ---- Lazy state (lazy_times.cc) ---------------------------------------------------------------------------------
  // A read happened: atime, as noatime and relatime say. A store in place happened: mtime, ctime and version counter.
  // No lock of rank kLeaf held.
  void note_access(Inode& inode);
  void note_modified(Inode& inode);
  // Keeps the inode in memory until the next write-out: it has lazy times or unsynced ranges. No kLeaf lock held.
  void mark_dirty(Inode& inode);
  // Everything that was marked since the last call. The caller writes it out, and marks again what fails.
  std::vector<InodeRef> take_dirty();
  // Commits the inode's lazy times, if there are any.
  Status write_lazy_times(Inode& inode);

  // One fsync of an inode at a time: a second one must not return before the first has made its data durable. Held across
  // waits for the media, never for anything else. Shared by inodes of one hash.
  Mutex& sync_mutex_of(const Inode& inode);

  // ---- Orphans (orphans.cc) ---------------------------------------------------------------------------------------
  // For a transaction that may free blocks before it calls one of the next two: their lock precedes the quarantine's.
  void lock_orphans(Transaction& tx);
  // Puts the inode on the orphan list, or takes it off, in the transaction, which holds orphans_mutex_ from the first
  // call until its end. Call it when belongs_to_orphans(slot) changes.
  // `shift`: what recovery must finish before anybody looks at the file.
  Status add_orphan(Transaction& tx, InodeNo ino, format::PendingShift shift = format::PendingShift::kNone);
  Status remove_orphan(Transaction& tx, InodeNo ino);
  // Frees what [pending_begin, pending_end) still holds, on the executor, then takes the inode off the list. For changes
  // that were too long for one transaction; the grant's was_mapped is all that is needed of it.
  void finish_pending_later(InodeRef inode, bool was_mapped);
  // Frees every orphan that nobody refers to, on this thread: what background work does by itself. No locks held.
  Status clean_orphans();
  u64 orphan_count();

  // ---- Written by the data half (truncate.cc, extent_map.cc) --------------------------------------------------------
  // Frees blocks of [begin, end) bytes, in the transaction, as far as one record allows; true: something remains.
  // Exclusive lock held, the range idle. Counts Inode::blocks; leaves size and pending range alone.
  Result<bool> free_file_range_step(Transaction& tx, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant);
  // Rewrites provisional extents from `*from` (bytes) on as what they are: unwritten if their epoch is lost, else
  // written. True: something remains, and `*from` says where. Exclusive lock held. Run at mount, before anybody else.
  Result<bool> settle_provisional_step(Transaction& tx, Inode& inode, u64* from);

  // ---- Cache (inode_table.cc); called by InodeRef -------------------------------------------------------------------
  void last_reference_gone(Inode& inode);

  // For tests: how many inodes are in memory.
  u64 cached_inodes();

 private:

  // ---- A name's place in a directory (directory.cc); the directory's lock is held ----
  struct Entry {
    u64 key = 0;
    InodeNo ino;
    u8 type = 0;
  };
  u64 name_hash(std::string_view name) const;  // 48 bits, already shifted into key position
  Result<Entry> find_entry(const format::Inode& dir, std::string_view name, Transaction* tx = nullptr);  // kNotFound
  Result<u64> insert_entry(Transaction& tx, format::Inode& dir, std::string_view name, InodeNo ino, u8 type);
  Status erase_entry(Transaction& tx, format::Inode& dir, u64 key);
  Status replace_entry(Transaction& tx, format::Inode& dir, u64 key, std::string_view name, InodeNo ino, u8 type);
  Result<std::string> entry_name(const format::Inode& dir, u64 key, InodeNo ino);  // kNotFound if it is another's

  // ---- Parent records (parents.cc); the inode's lock is held exclusively ----
  struct Parent {
    InodeNo dir;
    u64 key = 0;
  };
  Status add_parent(Transaction& tx, format::Inode& slot, Parent parent);
  Status remove_parent(Transaction& tx, format::Inode& slot, Parent parent);
  Result<std::vector<Parent>> parents_of(const format::Inode& slot, unsigned most);
  Result<std::string> path_of(InodeNo ino, Parent parent);

  // ---- Namespace helpers (namespace.cc, rename.cc) ----
  struct Born {
    InodeNo ino;
    u32 generation = 0;
    format::Inode* slot = nullptr;
  };
  Result<Born> make_inode(Transaction& tx, const format::Inode& dir, const NewInode& what, const Caller& caller,
                          u32 links);
  Result<InodeRef> adopt(const Born& born);  // into the cache, after the commit
  Status remove_name(Inode& dir, std::string_view name, bool directory);
  // Takes one link away; at zero the inode becomes an orphan when the transaction commits.
  Status drop_link(Transaction& tx, Inode& inode, format::Inode& slot, Parent parent, FileTime t);
  struct Rename;
  Status rename_once(Rename& r, bool* again);
  Status rename_locked(Rename& r, bool* again);
  Status check_rename(const Rename& r, const format::Inode& from, const format::Inode& to);
  Status exchange_entries(Transaction& tx, Rename& r);
  Status move_entry(Transaction& tx, Rename& r);
  Result<bool> is_directory_inode(Inode& inode);
  Result<bool> is_ancestor(InodeNo ancestor, InodeNo dir);

  Attributes describe(Inode& inode, const format::Inode& slot);  // the inode's lock is held

  // ---- Xattrs (xattr.cc, acl.cc, blob.cc); the inode's lock is held ----
  Result<std::string> find_xattr(const format::Inode& slot, std::string_view name, Transaction* tx = nullptr);
  Status put_xattr(Transaction& tx, format::Inode& slot, std::string_view name, std::string_view value, int flags);
  Status erase_xattr(Transaction& tx, format::Inode& slot, std::string_view name);  // kNoData
  Status free_xattrs(Transaction& tx, format::Inode& slot);
  Status set_acl(Transaction& tx, format::Inode& slot, std::string_view name, std::string_view value, int flags,
                 const Caller& caller);
  Status inherit_acl(Transaction& tx, const format::Inode& dir, format::Inode& slot, u32 umask);
  Status acl_chmod(Transaction& tx, format::Inode& slot);
  Result<format::BlobRef> write_blob(Transaction& tx, format::Inode& slot, std::string_view bytes);
  Result<std::string> read_blob(const format::BlobRef& ref, u64 owner, Transaction* tx);
  void free_blob(Transaction& tx, format::Inode& slot, const format::BlobRef& ref);

  // reverse.cc: looks through all inodes, of which a step takes so many blocks: well under a millisecond without extent trees.
  static constexpr u64 kInodeBlocksAtOnce = 256;
  void each_inode_in(BlockNo block, const std::function<void(Inode&)>& f);  // of those that are in use
  void find_in_file(Inode& inode, OwnerScan& scan);
  void find_damage_in(Inode& inode, DamageScan& scan);  // bad_blocks.cc
  void recall_bad(const BlockOwner& owner);
  Result<std::set<u64>> write_bad_list();  // the blocks that are new in it

  // ---- Orphans ----
  Status change_orphans(Transaction& tx, InodeNo ino, bool add, format::PendingShift shift);
  Result<std::vector<InodeNo>> list_orphans(InodeNo first, std::size_t most);
  Result<std::vector<InodeNo>> list_shifting();  // with a collapse or an insert to be finished
  void start_clean_up(InodeRef inode);  // any lock may be held
  void clean_up_collected(bool waited);
  Result<std::size_t> clean_up_together(std::span<const InodeRef> orphans);
  Result<bool> free_orphan(Transaction& tx, Inode& inode, const ChangeGrant& grant);
  void break_orphan(InodeRef inode);
  void clean_up_later(InodeRef inode, bool was_mapped);
  void clean_up(const InodeRef& inode, bool was_mapped);
  // Steps of one task, each of which says whether something remains. True: something does.
  bool some_steps(const std::function<Result<bool>()>& step);
  Status clean_up_all(Inode& inode, const ChangeGrant& grant);  // many transactions
  Result<bool> clean_up_step(Inode& inode, const ChangeGrant& grant);
  Result<bool> finish_pending_step(Inode& inode, const ChangeGrant& grant);
  Status free_metadata(Transaction& tx, format::Inode& slot);
  Status clean_orphan(InodeNo ino);
  Status recover_shifts();  // shift.cc
  Status recover_orphans();
  void recover_orphans_later(InodeNo first);

  // ---- Mount, unmount (mount.cc) ----
  Status load_superblock();
  Status settle_epochs();
  Status settle_all_files();
  Status settle_file(InodeNo ino);
  Status load_orphan_root();
  Status store_superblock();
  Status find_former_clients();
  Status watch_former_clients();
  Status release_former_quarantine();
  void release(u64 block, u64 length_blocks) override;  // QuarantineOwner
  bool punch_freed(u64 block, u64 length_blocks) override {
    return allocator_->punch_claimed(BlockRun{BlockNo(block), length_blocks});
  }

  // ---- Background (background.cc) ----
  enum class Phase { kRunning, kDraining, kStopped };  // draining: unmount; no clean-up is begun any more
  struct TaskCount;
  static std::shared_ptr<TaskCount> make_task_count();
  std::shared_ptr<void> count_task();  // the file system outlives the token
  void post(std::function<void()> task);
  void stop_timer();
  // Interrupts what waits for pins and waits for every task to end.
  void end_tasks(Phase phase);
  void stop_background();
  void wait_for_tasks();
  void start_commit_timer();
  void run_commit_timer();
  void give_back_memory();

  // ---- Inode cache ----
  static constexpr unsigned kShards = 64;
  struct InodeHash {
    std::size_t operator()(const Inode& i) const;
  };
  struct InodeEqual {
    bool operator()(const Inode& a, const Inode& b) const { return a.ino == b.ino; }
  };
  using InodeSet = boost::intrusive::unordered_set<Inode, boost::intrusive::hash<InodeHash>,
                                                   boost::intrusive::equal<InodeEqual>,
                                                   boost::intrusive::power_2_buckets<true>>;
  struct Shard {
    Shard();
    Mutex mutex{LockRank::kInodeCache};
    std::vector<InodeSet::bucket_type> buckets GUARDED_BY(mutex);
    InodeSet set GUARDED_BY(mutex);
  };
  Shard& shard_of(InodeNo ino);
  Mutex& lazy_mutex_of(InodeNo ino);
  static void insert_into(Shard& shard, Inode& inode) REQUIRES(shard.mutex);
  static Inode* find_in(Shard& shard, InodeNo ino) REQUIRES(shard.mutex);
  void forget(Inode& inode);  // its slot was freed
  bool claim_orphan(Inode& inode);  // the caller's reference is the only one: get() refuses the inode from now on
  void linger(InodeRef inode);      // a client still uses what nobody refers to: looked at again at the next write-out
  void fold_lazy_times(Transaction& tx, Inode& inode, format::Inode& slot);
  void drop_from_dirty(Inode& inode);

  Media& media_;
  Executor& executor_;
  MountOptions options_;
  format::Superblock superblock_{};
  Mutex superblock_mutex_{LockRank::kSync};  // of changes while mounted
  unsigned next_copy_ = 0;  // of the superblock, to be written first: the older one
  std::vector<std::pair<u32, u32>> lost_epochs_;  // sorted, disjoint
  std::atomic<Phase> phase_{Phase::kRunning};
  std::atomic<bool> unmounted_{false};
  std::atomic<bool> shut_down_{false};

  // What earlier mounts left in quarantine, and the witness bytes that were held at mount.
  Mutex former_mutex_{LockRank::kLeaf};
  std::vector<Allocator::QuarantinedRun> former_quarantine_ GUARDED_BY(former_mutex_);
  std::vector<u32> former_witnesses_ GUARDED_BY(former_mutex_);

  std::unique_ptr<Layout> layout_;
  std::unique_ptr<MetaStore> store_;
  std::unique_ptr<Allocator> allocator_;

  std::array<Shard, kShards> shards_;
  struct SyncMutex {
    Mutex mutex{LockRank::kSync};
  };
  std::array<SyncMutex, kShards> sync_mutexes_;
  struct LazyMutex {
    Mutex mutex{LockRank::kLeaf};
  };
  std::array<LazyMutex, kShards> lazy_mutexes_;
  Mutex rename_mutex_{LockRank::kRename};

  Mutex dirty_mutex_{LockRank::kLeaf};
  std::unordered_map<Inode*, InodeRef> dirty_ GUARDED_BY(dirty_mutex_);

  // Orphans: the root in memory is the committed one, or that of the transaction that holds the lock.
  Mutex orphans_mutex_{LockRank::kOrphans};
  std::atomic<Transaction*> orphans_holder_{nullptr};
  BlockNo orphan_root_;
  u64 orphan_count_ = 0;
  bool orphans_changed_ = false;  // by the transaction that holds the lock

  Mutex collected_mutex_{LockRank::kLeaf};
  std::vector<InodeRef> collected_ GUARDED_BY(collected_mutex_);  // orphans to be freed together
  bool collector_waits_ GUARDED_BY(collected_mutex_) = false;     // with a timer
  bool collector_sent_ GUARDED_BY(collected_mutex_) = false;      // is queued
  std::atomic<Executor::TimerId> collector_timer_{0};

  std::shared_ptr<TaskCount> tasks_;
  Mutex changes_mutex_{LockRank::kLeaf};
  std::map<Inode*, std::shared_ptr<Change>> changes_ GUARDED_BY(changes_mutex_);

  Mutex timer_mutex_{LockRank::kLeaf};
  CondVar timer_wake_;
  bool timer_stop_ GUARDED_BY(timer_mutex_) = false;
  bool bad_news_ GUARDED_BY(timer_mutex_) = false;  // tend_bad_blocks() has something to do

  Mutex tend_mutex_{LockRank::kDaemon};  // one tend_bad_blocks() at a time
  std::set<u64> tended_ GUARDED_BY(tend_mutex_);  // bad blocks that were taken from everybody
  std::thread timer_;
  u64 most_cached_ = 0;  // inodes, since memory was given back; the timer's
};

}  // namespace pindax
