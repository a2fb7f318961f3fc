// SPDX-License-Identifier: BSD-3-Clause
//
// What the data half of the room shares: which blocks hold data, how stores become durable, and the one
// routine that fills blocks of a file.
//
// How contents reach the media
//   new blocks   volatile, cache-line and byte pools: stored past the cache and drained before the commit:
//   kWritten.
//                page pools, strict: synced before the commit: kWritten.
//                page pools, posix: stored only, committed as kProvisional with the mount epoch; fsync
//                settles them.
//   overwrites   stored past the cache and drained; page pools: remembered in Inode::unsynced until fsync.
//
// Locking: Inode::mutex guards the extents; a hold of the range (shared for stores, exclusive where bytes
// change their meaning) keeps blocks from leaving the file while their bytes are copied. A crash in the
// middle of a store leaves new blocks unreachable, and overwritten bytes old or new.
#pragma once

#include <vector>

#include "fs/extent_map.h"
#include "fs/file_system_impl.h"

namespace pindax {

constexpr FileBlock first_block(u64 offset) { return FileBlock(offset >> kBlockShift); }
constexpr FileBlock end_block(u64 offset) { return FileBlock(blocks_for(offset)); }
constexpr u64 byte_of(FileBlock b) { return b.value << kBlockShift; }

// True if new blocks are committed before their contents are durable.
bool commits_provisional(FileSystemImpl& fs);
// True if the extent's bytes are the file's; else they read as zeros.
bool holds_data(const FileSystemImpl& fs, const ExtentInfo& e);
// The extents of [begin, end), cut to it, without blocks that are only waiting to be freed
// (Inode::pending_begin).
Result<std::vector<ExtentInfo>> visible_extents(ExtentReader reader, const format::Inode& slot,
                                                FileBlock begin, FileBlock end);
// True if every block of [begin, end) is in `extents` and holds data.
bool all_data(const FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, FileBlock begin,
              FileBlock end);

// kIo if a collapse or an insert was cut short and could not be finished: extents are not where they belong.
Status check_settled(const format::Inode& slot);

// kIsDirectory, kInvalid for what is no regular file; kPermission for immutable, and unless `appends` for
// append-only files.
Status check_data_change(const format::Inode& slot, bool appends);
// True if a change of contents by an unprivileged caller who is of the file's group has a bit to clear.
bool has_set_id(const format::Inode& slot);
// What a change of contents by an unprivileged caller does to the mode. The set-group-id bit goes where the group may execute and, with
// a caller whose groups are known, where the file's group is none of his (setattr_should_drop_sgid() in the kernel).
void clear_set_id(format::Inode& slot, const Caller* caller = nullptr);

// Overwrites bytes in place. The caller calls finish_overwrite() after the last one.
Status overwrite(FileSystemImpl& fs, PoolOffset at, const std::byte* data, u64 length);
Status finish_overwrite(FileSystemImpl& fs, Inode& inode, u64 offset, u64 length);
// Zeros those bytes of [begin, end) that lie in blocks with data. As durable as the mode wants. The range is
// held exclusively, or the bytes are behind the end of the file. kPoisoned at a bad block.
Status zero_in_place(FileSystemImpl& fs, Inode& inode, const std::vector<ExtentInfo>& extents, u64 begin,
                     u64 end);
// Before the size grows from `size`: zeros [size, min(to, end of its block)), in such a way that no crash can
// show what was there. The tail is held exclusively; `slot` is the transaction's.
Status zero_tail(FileSystemImpl& fs, Inode& inode, ExtentReader reader, const format::Inode& slot, u64 to);

// Before the size grows: what the kernel's page of the file's last block has behind the end must not show afterwards. True: the
// kernel may hold that page. And: from where on translations, and that page, are recalled.
bool cached_tail(FileSystemImpl& fs, Inode& inode, u64 size);
u64 grow_begin(FileSystemImpl& fs, Inode& inode, u64 size);

// Tells the file's mappings its new size (Gate::size_bytes). Inode::mutex or the file's end held exclusively.
void publish_size(FileSystemImpl& fs, Inode& inode, u64 size);

// Remembers bytes that fsync must make durable, and that the inode has such. No lock of rank kLeaf held.
void note_unsynced(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end);
void add_range(Inode::Ranges& ranges, u64 begin, u64 end);

// Whether one more change of `blocks` blocks still fits into the transaction's record.
class RecordBudget {
 public:
  explicit RecordBudget(Transaction& tx) : tx_(tx) {}
  bool has_room() const;
  void count(u64 blocks) { bitmap_bytes_ += blocks / 8 + 64; }

 private:
  Transaction& tx_;
  u64 bitmap_bytes_ = 0;  // they join the record only at commit
};

// Where a new extent at `at` would best lie: behind what precedes it in the file.
AllocateRequest allocation_near(ExtentReader reader, FileBlock at, u64 wanted);

struct StoreJob {
  u64 offset = 0;
  u64 end = 0;                      // bytes
  const std::byte* data = nullptr;  // null: new blocks get zeros, others stay as they are
  bool extends = false;             // the size grows to what was stored
  bool keep_set_id = true;
  bool write_back = false;  // no range is held: what is behind the size or being freed is dropped
  const ChangeGrant* grant = nullptr;  // how to treat shared blocks that it replaces; null: it replaces none that anybody translates
  bool only_shared = false;  // copies what the file shares, and leaves everything else alone (unshare_range)
};
// Gives every block of the job contents (shared ones are copied first: fs/share.h) and, if asked, the file a new size; one transaction for each part
// that fits into a record. Returns how many bytes are done: fewer than asked only if space ran out, or at a part of a lost block;
// kNoSpace, kPoisoned if that is none. Without data lost blocks stay as they are. No locks held; the range held, exclusively
// beyond the size.
Result<u64> store_range(FileSystemImpl& fs, Inode& inode, const StoreJob& job);

// What layout changes have in common: who asks, and the policy of call, file or mount.
ChangeRequest make_change_request(FileSystemImpl& fs, const format::Inode& slot, const char* operation,
                                  const FileSystem::ChangeContext& context);

// Frees what a former mount left in [pending_begin, pending_end), if it meets [begin, end). The range is
// held.
Status finish_pending(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end);

// Takes the whole blocks of [begin, end) out of the file, in as many transactions as it needs. `first` adds
// to the first one, which also commits that the range reads as zeros. Inode::mutex not held, the range held
// exclusively.
Status remove_range(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant,
                    const std::function<Status(Transaction&, format::Inode&)>& first);

}  // namespace pindax
