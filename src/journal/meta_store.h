// SPDX-License-Identifier: BSD-3-Clause
//
// Metadata as transactions see it: the committed state of every metadata block, wherever it lies just now, and the
// redo journal that makes changes atomic and durable.
//
// How a change travels
//   1. A Transaction works on private copies of *objects* (a whole block, or a struct inside a block whose
//      neighbours are other objects: inode slots of 512 bytes, the StateRecord and AgHeader of 256).
//   2. commit() seals the objects, appends one record with the bytes that differ to the journal (visible to a
//      successor daemon at once: D2), and installs them in the *overlay*, the table of staged blocks.
//   3. A checkpoint makes the journal durable up to some Lsn, stores the staged blocks in place, makes those durable,
//      and only then moves the journal's head. It runs when the ring is half full, at sync points and at unmount.
//
// Invariants
//   I1. In-place metadata is only ever overwritten with bytes whose record is durable.
//   I2. The committed bytes of an object change only under its owner's lock (inode lock; commit mutex for
//       bitmaps, AG headers and the StateRecord; quarantine lock). So a reader under that lock may use a view without copying.
//   I3. Objects of one block never overlap partially.
//   I4. A record is complete before it is visible: replay ignores one whose crc, seeded with the epoch, fails.
// What a crash leaves: the in-place blocks, partly overwritten by a checkpoint, and the ring, whose replay from
// the head covers every byte that checkpoint could touch.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "format/decode.h"
#include "pmem/media.h"

namespace pindax {

class StagedBlock;  // 4 KiB buffer, journal/overlay.h
class Transaction;

// Bytes that stay readable while the view lives (and unchanged while the owner's lock is held: I2).
class MetaView {
 public:
  MetaView() = default;
  MetaView(const std::byte* data, std::shared_ptr<const StagedBlock> keep, bool known = false)
      : data_(data), known_(known), keep_(std::move(keep)) {}
  const std::byte* data() const { return data_; }
  template <class T>
  const T& as() const { return *reinterpret_cast<const T*>(data_); }
  explicit operator bool() const { return data_ != nullptr; }
  // All of the block is as a transaction of this mount left it, which had checked what it changed: the media has not been asked
  // since, and no checksum can tell anything. Which kind of block it is remains to be looked at.
  bool known() const { return known_; }

 private:
  const std::byte* data_ = nullptr;
  bool known_ = false;
  std::shared_ptr<const StagedBlock> keep_;
};

enum class SyncMode {
  kStrict,  // a commit is durable when it returns
  kPosix,   // durable at sync(): fsync, commit interval, unmount
};

struct ReplayReport {
  u64 records = 0;
  u64 bytes = 0;
  u64 old_epoch = 0;
  bool was_clean = false;  // the ring was empty
};

class MetaStore {
 public:
  // Writes an empty journal (mkfs). Durable on return.
  static Status format_journal(Media& media, const format::Geometry& geometry);
  // Replays the ring, makes the result and a new epoch durable, and is ready to append. Reads only the journal before
  // replay is complete. With read_only: replays into the overlay alone and writes nothing.
  // Errors: kCorrupt if both journal headers are damaged.
  static Result<std::unique_ptr<MetaStore>> open(Media& media, const format::Geometry& geometry, SyncMode mode,
                                                 bool read_only = false);
  virtual ~MetaStore() = default;

  virtual Media& media() = 0;
  virtual const format::Geometry& geometry() const = 0;
  virtual SyncMode mode() const = 0;
  virtual bool read_only() const = 0;
  virtual const ReplayReport& replay_report() const = 0;

  // Committed bytes; they must not cross a block. kCorrupt-free: no check is made here. Outside the pool: kCorrupt.
  virtual Result<MetaView> view(PoolOffset at, u32 length) = 0;
  // For readers without the owner's lock: the committed bytes of one moment. Inside one block.
  virtual Status copy(PoolOffset at, u32 length, std::byte* out) = 0;

  virtual Lsn last_lsn() const = 0;     // end of the last record appended
  virtual Lsn durable_lsn() const = 0;  // everything before it survives what the pool can survive
  // Makes all records before `upto` durable; joins a flush that is under way (group commit). No ranked lock held.
  virtual Status sync(Lsn upto) = 0;
  // Moves everything staged to its place and empties the ring. No ranked lock held.
  virtual Status checkpoint() = 0;
  // Called after durable_lsn grew. One listener (the allocator: frees wait for it). No lock of the store is held, but the
  // thread may be a committer that holds ranks before kAllocGroup. Calls may overlap and come out of order; on_commit
  // actions of a record may run after the call that covers it.
  virtual void set_durable_listener(std::function<void(Lsn)> listener) = 0;
  // The largest record that commit() accepts, in bytes; longer operations are cut into several transactions.
  virtual u64 max_record_bytes() const = 0;
  // After a failed append or a lost store: the reason; every commit fails with it, reads go on.
  virtual Status health() const = 0;

 protected:
  friend class Transaction;
  virtual Result<Lsn> commit(Transaction& tx) = 0;
  // The transaction is over and its locks are released: tells the listener, checkpoints if it is time.
  virtual void after_commit() = 0;
};

}  // namespace pindax
