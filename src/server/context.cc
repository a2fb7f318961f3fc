// SPDX-License-Identifier: BSD-3-Clause
#include "server/context.h"

namespace pindax {

Result<u32> WitnessTable::allocate(const PoolMedia& pool) {
  MutexLock lock(mutex_);
  for (u32 index = 0; index < kMaxWitnesses; ++index) {
    if (used_.contains(index)) continue;
    PINDAX_ASSIGN(const bool held, pool.witness_held(index));
    if (held) continue;  // a client of an earlier daemon
    used_.insert(index);
    return index;
  }
  return Status(Errc::kNoSpace, "all witness bytes of the pool are taken");
}

void WitnessTable::reserve(u32 index) {
  MutexLock lock(mutex_);
  used_.insert(index);
}

void WitnessTable::release(u32 index) {
  MutexLock lock(mutex_);
  used_.erase(index);
}

void UncommittedTable::granted(Inode& inode) {
  if (fs_.options().sync == SyncMode::kStrict) return;
  MutexLock lock(mutex_);
  grants_[inode.ino] = next_++;
  client_layout(fs_.layout()).set_uncommitted(*inode.layout(), true);
}

u64 UncommittedTable::begin_sync(const Inode& inode) {
  MutexLock lock(mutex_);
  auto it = grants_.find(inode.ino);
  return it == grants_.end() ? 0 : it->second;
}

void UncommittedTable::end_sync(Inode& inode, u64 begun) {
  MutexLock lock(mutex_);
  auto it = grants_.find(inode.ino);
  if (it == grants_.end() || it->second != begun) return;
  grants_.erase(it);
  client_layout(fs_.layout()).set_uncommitted(*inode.layout(), false);
}

}  // namespace pindax
