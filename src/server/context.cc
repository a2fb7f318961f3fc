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

void ServerContext::announce(const KernelNews& news, std::function<void()> then) {
  KernelView* kernel = kernel_view.load();
  if (kernel == nullptr || (news.names.empty() && news.inodes.empty())) return then();
  // The last of them, whichever that is, goes on.
  auto left = std::make_shared<std::atomic<std::size_t>>(news.names.size() + news.inodes.size());
  auto done = [left, then = std::move(then)] {
    if (left->fetch_sub(1) == 1) then();
  };
  for (const auto& [dir, name] : news.names) kernel->forget_name(dir, name, done);
  for (const InodeNo ino : news.inodes) kernel->refresh(ino, true, done);
}

}  // namespace pindax
