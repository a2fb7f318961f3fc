// SPDX-License-Identifier: BSD-3-Clause
//
// One atomic change of metadata. Bound to one thread. The owners' locks of all objects it touches are held from the
// first read until commit() or destruction (which drops the change as if it had never been).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "journal/meta_store.h"

namespace pindax {

class Transaction {
 public:
  explicit Transaction(MetaStore& store) : store_(store) {}
  ~Transaction();  // aborts if not committed
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  MetaStore& store() { return store_; }

  // The object's bytes as this transaction sees them: its own copy if it has one, else the committed state.
  // The pointer is valid until the next modify() of the same object by this transaction, or its end.
  Result<const std::byte*> read(PoolOffset at, u32 length);
  // A private copy to be changed in place, `length` bytes (I3: always the same extent of an object; place and length are
  // multiples of a cache line). Stays valid until the transaction ends. `seal` runs at commit, before the record is
  // built: it fills in the checksum. An object inside a block taken by modify_new() is a part of that copy; its seal
  // runs before the block's. Objects are sealed and compared before the at_commit actions run: an action that changes
  // an object which the transaction had before calls modify() for it again.
  using Seal = void (*)(std::byte* object);
  Result<std::byte*> modify(PoolOffset at, u32 length, Seal seal);
  // As modify for a whole block that is being given a new life: starts as zeros, nothing is read.
  std::byte* modify_new(PoolOffset block, Seal seal);
  // True if this transaction has its own, not yet sealed copy of the object at `at`.
  bool modified(PoolOffset at) const { return objects_.contains(at); }
  // Forgets a block that was freed in this transaction: its changes need not be logged.
  void forget(PoolOffset block);

  // Runs under the commit mutex before the record is built, in order of registration; may modify() bitmaps, AG headers
  // and the StateRecord, the objects that the commit mutex owns. An error aborts the commit. An action runs once and
  // takes no lock that ranks before kCommit.
  void at_commit(std::function<Status(Transaction&)> action);
  // Runs after the commit with its Lsn, or on abort. No commit lock held; the owners' locks still are.
  void on_commit(std::function<void(Lsn)> action);
  void on_abort(std::function<void()> action);

  // Runs last, committed or not: for locks that the transaction holds until its end.
  void at_end(std::function<void()> action);

  // Bytes that the record would take at worst now; compare with store().max_record_bytes() to cut long work.
  u64 record_bytes_estimate() const;
  bool empty() const { return objects_.empty() && at_commit_.empty() && forgotten_.empty(); }
  // True if the transaction has its own copy of the object, which needs no check.
  bool has(PoolOffset at, u32 length) { return covering(at, length) != objects_.end(); }

  // Appends the record. In strict mode it is durable on return. On error nothing happened and the transaction is
  // aborted; but if the media failed while the record was being made durable, on_commit ran, and whether the change
  // survives is unknown: the store's health() is bad from then on. Returns the Lsn of the record's end.
  Result<Lsn> commit();

 private:
  friend class MetaStore;
  friend class MetaStoreImpl;
  struct Object {
    u32 length = 0;
    bool fresh = false;    // modify_new: log the whole block
    bool encoded = false;  // in the record as it is now
    Seal seal = nullptr;
    std::vector<std::pair<u32, Seal>> inner;  // objects inside this block that were taken up by themselves
    u64 dirty = 0;                            // changed lines of the block, known once encoded
    std::unique_ptr<std::byte[]> bytes;
  };
  // The object that holds [at, at + length), or end.
  std::map<PoolOffset, Object>::iterator covering(PoolOffset at, u32 length);
  void drop_objects_in(PoolOffset block);
  void finish(bool committed, Lsn lsn);

  MetaStore& store_;
  std::map<PoolOffset, Object> objects_;
  std::vector<BlockNo> forgotten_;
  std::vector<MetaView> views_;                        // keeps what read() handed out
  std::vector<std::unique_ptr<std::byte[]>> retired_;  // likewise, of forgotten objects
  std::vector<std::function<Status(Transaction&)>> at_commit_;
  std::vector<std::function<void(Lsn)>> on_commit_;
  std::vector<std::function<void()>> on_abort_;
  std::vector<std::function<void()>> at_end_;
  Status durability_;  // of a record that was appended but could not be made durable
  bool finished_ = false;
};

// The usual objects, checked when first taken up. An inode number beyond the pool is kStale.
Result<format::Inode*> modify_inode(Transaction& tx, InodeNo ino);
Result<const format::Inode*> read_inode(Transaction& tx, InodeNo ino);
Result<format::StateRecord*> modify_state(Transaction& tx);  // only inside at_commit

}  // namespace pindax
