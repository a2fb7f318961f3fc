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
  // A private copy to be changed in place, `length` bytes (I3: always the same extent of an object). Stays valid until
  // the transaction ends. `seal` runs once at commit, before the record is built: it fills in the checksum.
  using Seal = void (*)(std::byte* object);
  Result<std::byte*> modify(PoolOffset at, u32 length, Seal seal);
  // As modify for a whole block that is being given a new life: starts as zeros, nothing is read.
  std::byte* modify_new(PoolOffset block, Seal seal);
  // True if this transaction has its own, not yet sealed copy of the object at `at`.
  bool modified(PoolOffset at) const { return objects_.contains(at); }
  // Forgets a block that was freed in this transaction: its changes need not be logged.
  void forget(PoolOffset block);

  // Runs under the commit mutex before the record is built, in order of registration; may modify() bitmaps, AG headers
  // and the StateRecord, the objects that the commit mutex owns. An error aborts the commit.
  void at_commit(std::function<Status(Transaction&)> action);
  // Runs after the commit with its Lsn, or on abort. No commit lock held; the owners' locks still are.
  void on_commit(std::function<void(Lsn)> action);
  void on_abort(std::function<void()> action);

  // Runs last, committed or not: for locks that the transaction holds until its end.
  void at_end(std::function<void()> action);

  // Bytes that the record would take at worst now; compare with store().max_record_bytes() to cut long work.
  u64 record_bytes_estimate() const;
  bool empty() const { return objects_.empty() && at_commit_.empty(); }

  // Appends the record. In strict mode it is durable on return. On error nothing happened and the transaction is
  // aborted. Returns the Lsn of the record's end.
  Result<Lsn> commit();

 private:
  friend class MetaStore;
  friend class MetaStoreImpl;
  struct Object {
    u32 length = 0;
    bool fresh = false;  // modify_new: log the whole block
    Seal seal = nullptr;
    std::unique_ptr<std::byte[]> bytes;
  };
  void finish(bool committed, Lsn lsn);

  MetaStore& store_;
  std::map<PoolOffset, Object> objects_;
  std::vector<MetaView> views_;  // keeps what read() handed out
  std::vector<std::function<Status(Transaction&)>> at_commit_;
  std::vector<std::function<void(Lsn)>> on_commit_;
  std::vector<std::function<void()>> on_abort_;
  std::vector<std::function<void()>> at_end_;
  bool finished_ = false;
};

// The usual objects, checked when first taken up.
Result<format::Inode*> modify_inode(Transaction& tx, InodeNo ino);
Result<const format::Inode*> read_inode(Transaction& tx, InodeNo ino);
Result<format::StateRecord*> modify_state(Transaction& tx);  // only inside at_commit

}  // namespace pindax
