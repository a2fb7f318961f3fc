// SPDX-License-Identifier: BSD-3-Clause
//
// One inode in memory. Its truth is the 512-byte slot on media, read through the MetaStore at every use (it is at
// memory speed already); what lives here is only what has no place there: locks, lazy times, provisional ranges, the share in the
// layout protocol, and the counts that keep it alive.
//
// Invariants
//  1. `mutex` guards the media slot and every tree that hangs from it (I2 of meta_store.h). Several are taken in
//     ascending inode number. It is never held across a wait; data is copied under a shared range hold instead.
//  2. An inode with links == 0 on media is on the orphan list and is freed when the last InodeRef goes (B6: in the background,
//     through a break).
#pragma once

#include <boost/intrusive/unordered_set.hpp>
#include <boost/smart_ptr/intrusive_ptr.hpp>

#include <atomic>
#include <map>
#include <memory>

#include "base/mutex.h"
#include "format/format.h"
#include "layout/layout.h"

namespace pindax {

class FileSystem;

struct FileTime {
  i64 seconds = 0;
  u32 nanoseconds = 0;
  auto operator<=>(const FileTime&) const = default;
};
FileTime now();

class Inode : public boost::intrusive::unordered_set_base_hook<> {
 public:
  // `lazy` is shared with other inodes: 40 bytes of each would be for a lock that hardly anybody waits for.
  Inode(FileSystem& fs, InodeNo number, u32 gen, Mutex& lazy) : ino(number), generation(gen), owner(fs), lazy_mutex(lazy) {}

  const InodeNo ino;
  const u32 generation;
  std::atomic<u32> refs{0};  // InodeRef
  FileSystem& owner;

  SharedMutex mutex{LockRank::kInode};

  // Lazytime: times that are newer than the slot, written at fsync, commit interval, or with the next change of the slot.
  struct LazyTimes {
    bool has_atime = false, has_mtime = false;  // has_mtime covers mtime and ctime
    u32 changes = 0;                            // to be added to the version counter
    FileTime atime, mtime, ctime;
    bool dirty() const { return has_atime || has_mtime; }
  };
  // Posix mode: file ranges whose extents are provisional (written, but not yet known to be durable), begin -> end bytes,
  // and in every mode in-place writes since the last fsync.
  using Ranges = std::map<u64, u64>;
  struct Recent {
    LazyTimes times;
    Ranges unsynced;
  };

  // Grows whenever blocks leave the file or change their place: what was looked up before may be stale.
  u64 removals GUARDED_BY(mutex) = 0;
  // Grows whenever extents move inside the file: ranges that were remembered before mean other bytes.
  u64 shifts GUARDED_BY(mutex) = 0;

  Mutex& lazy_mutex;  // a leaf
  // Most cached inodes were never written here: allocated on first use.
  std::unique_ptr<Recent> recent GUARDED_BY(lazy_mutex);
  LazyTimes& lazy() REQUIRES(lazy_mutex) { return recent_ref().times; }
  Ranges& unsynced() REQUIRES(lazy_mutex) { return recent_ref().unsynced; }

  InodeLayout* layout();  // created on first use, thread-safe
  InodeLayout* layout_if_any() const { return layout_.load(std::memory_order_acquire); }

  std::atomic<bool> orphan{false};  // links == 0
  std::atomic<bool> holds_no_blocks{false};  // when its last name went: freeing it gives nobody any room
  std::atomic<bool> may_have_capability{true};  // false: no security.capability to drop at the next write
  std::atomic<bool> dying{false};   // the last InodeRef of an orphan went: get() says kStale from now on
  bool hashed = false;              // in the cache; guarded by its shard's lock
  std::atomic<bool> listed{false};  // in the list of dirty inodes; set and cleared under that list's lock

  friend void intrusive_ptr_add_ref(Inode* p);
  friend void intrusive_ptr_release(Inode* p);
  ~Inode();

 private:
  Recent& recent_ref() REQUIRES(lazy_mutex) {
    if (!recent) recent = std::make_unique<Recent>();
    return *recent;
  }

  std::atomic<InodeLayout*> layout_{nullptr};
};

using InodeRef = boost::intrusive_ptr<Inode>;

}  // namespace pindax
