// SPDX-License-Identifier: BSD-3-Clause
//
// The inodes in memory: a hash table in shards that grow, and how InodeRefs come and go.
//
//  1. An inode is in its shard's set from the moment somebody asked for it until its last reference goes. There is no cache
//     of idle inodes: a slot is read as fast from the pool.
//  2. The count falls to zero only under the shard's lock, so whoever finds an inode under that lock may take a reference.
//  3. An orphan whose last reference goes is `dying`: get() refuses it, and the clean-up holds the only reference.
//     Its slot may be given to a new inode while the old object still waits to be deleted: adopt() then replaces it.
#include "fs/file_system_impl.h"

namespace pindax {
namespace {

constexpr unsigned kFirstBuckets = 16;  // of a shard

u64 mix(InodeNo ino) { return ino.value * 0x9e37'79b9'7f4a'7c15; }

struct NumberHash {
  std::size_t operator()(InodeNo ino) const { return mix(ino) >> 16; }
};
struct NumberEqual {
  bool operator()(InodeNo a, const Inode& b) const { return a == b.ino; }
  bool operator()(const Inode& a, InodeNo b) const { return a.ino == b; }
};

}  // namespace

// ---- InodeRef -----------------------------------------------------------------------------------------------------

void intrusive_ptr_add_ref(Inode* p) { p->refs.fetch_add(1, std::memory_order_relaxed); }

void intrusive_ptr_release(Inode* p) {
  u32 n = p->refs.load(std::memory_order_relaxed);
  while (n > 1) {
    if (p->refs.compare_exchange_weak(n, n - 1, std::memory_order_acq_rel)) return;
  }
  static_cast<FileSystemImpl&>(p->owner).last_reference_gone(*p);
}

Inode::~Inode() {
  if (InodeLayout* l = layout_.load(std::memory_order_acquire)) InodeLayoutDeleter{}(l);
}

InodeLayout* Inode::layout() {
  if (InodeLayout* l = layout_.load(std::memory_order_acquire)) return l;
  InodeLayoutPtr fresh = owner.layout().attach(ino);
  InodeLayout* expected = nullptr;
  if (layout_.compare_exchange_strong(expected, fresh.get(), std::memory_order_acq_rel)) return fresh.release();
  return expected;
}

// ---- Shards -------------------------------------------------------------------------------------------------------

std::size_t FileSystemImpl::InodeHash::operator()(const Inode& i) const { return NumberHash{}(i.ino); }

FileSystemImpl::Shard::Shard() : buckets(kFirstBuckets), set(InodeSet::bucket_traits(buckets.data(), kFirstBuckets)) {}

FileSystemImpl::Shard& FileSystemImpl::shard_of(InodeNo ino) { return shards_[mix(ino) >> 58]; }

Mutex& FileSystemImpl::lazy_mutex_of(InodeNo ino) { return lazy_mutexes_[mix(ino) >> 58].mutex; }

Mutex& FileSystemImpl::sync_mutex_of(const Inode& inode) { return sync_mutexes_[mix(inode.ino) >> 58].mutex; }

void FileSystemImpl::insert_into(Shard& shard, Inode& inode) {
  if (shard.set.size() >= 2 * shard.buckets.size()) {  // a bucket is eight bytes of each inode's two hundred
    std::vector<InodeSet::bucket_type> more(shard.buckets.size() * 2);
    shard.set.rehash(InodeSet::bucket_traits(more.data(), more.size()));
    shard.buckets.swap(more);
  }
  shard.set.insert(inode);
  inode.hashed = true;
}

Inode* FileSystemImpl::find_in(Shard& shard, InodeNo ino) {
  auto it = shard.set.find(ino, NumberHash{}, NumberEqual{});
  return it == shard.set.end() ? nullptr : &*it;
}

u64 FileSystemImpl::cached_inodes() {
  u64 n = 0;
  for (Shard& s : shards_) {
    MutexLock lock(s.mutex);
    n += s.set.size();
  }
  return n;
}

void FileSystemImpl::last_reference_gone(Inode& inode) {
  Shard& shard = shard_of(inode.ino);
  enum class Next { kDelete, kCleanUp, kLinger } next = Next::kDelete;
  {
    MutexLock lock(shard.mutex);
    u32 n = inode.refs.load(std::memory_order_acquire);
    while (n > 1) {
      if (inode.refs.compare_exchange_weak(n, n - 1, std::memory_order_acq_rel)) return;
    }
    // Nobody else can take a reference now: this thread's is the last, and finding the inode needs the shard's lock.
    const InodeLayout* l = inode.layout_if_any();
    const bool in_use = phase_.load() != Phase::kStopped && l != nullptr && layout_->in_use(*l);
    if (inode.orphan && inode.hashed && !inode.dying && options_.background && phase_.load() == Phase::kRunning) {
      inode.dying = true;
      next = Next::kCleanUp;  // whose break waits for pins
    } else if (in_use) {
      next = Next::kLinger;
    } else {
      inode.refs.store(0, std::memory_order_release);
      if (inode.hashed) shard.set.erase(shard.set.iterator_to(inode));
      inode.hashed = false;
    }
  }
  switch (next) {
    case Next::kDelete: delete &inode; break;
    case Next::kCleanUp: start_clean_up(InodeRef(&inode, false)); break;
    case Next::kLinger: linger(InodeRef(&inode, false)); break;
  }
}

// ---- Getting inodes -----------------------------------------------------------------------------------------------

Result<InodeRef> FileSystemImpl::root() { return get(InodeNo(superblock_.root_inode), 0); }

Result<InodeRef> FileSystemImpl::get(InodeNo ino, u32 generation) {
  Shard& shard = shard_of(ino);
  const auto in_memory = [&](Inode* i) -> Result<InodeRef> {
    if (i->dying || (generation != 0 && i->generation != generation)) return Errc::kStale;
    return InodeRef(i);
  };
  {
    MutexLock lock(shard.mutex);
    if (Inode* i = find_in(shard, ino)) return in_memory(i);
  }
  const BlockNo block(format::inode_block(ino));
  if (block.value >= store_->geometry().pool_blocks) return Errc::kStale;
  PINDAX_ASSIGN(const bool inodes, allocator_->is_inode_block(block));
  if (!inodes) return Errc::kStale;

  MutexLock lock(shard.mutex);
  if (Inode* i = find_in(shard, ino)) return in_memory(i);
  alignas(format::Inode) std::byte bytes[format::kInodeSize];  // a copy: its owner may be changing it
  PINDAX_TRY(store_->copy(format::inode_offset(ino), format::kInodeSize, bytes));
  const auto& slot = *reinterpret_cast<const format::Inode*>(bytes);
  PINDAX_TRY(format::check_inode(slot, ino));
  if (slot.mode == 0 || (generation != 0 && slot.generation != generation)) return Errc::kStale;
  auto* fresh = new Inode(*this, ino, slot.generation, lazy_mutex_of(ino));
  fresh->orphan = slot.links == 0;
  insert_into(shard, *fresh);
  return InodeRef(fresh);
}

Result<InodeRef> FileSystemImpl::adopt(const Born& born) {
  Shard& shard = shard_of(born.ino);
  auto fresh = std::make_unique<Inode>(*this, born.ino, born.generation, lazy_mutex_of(born.ino));
  MutexLock lock(shard.mutex);
  if (Inode* old = find_in(shard, born.ino)) {
    if (old->generation == born.generation) return InodeRef(old);
    shard.set.erase(shard.set.iterator_to(*old));
    old->hashed = false;
  }
  insert_into(shard, *fresh);
  return InodeRef(fresh.release());
}

void FileSystemImpl::forget(Inode& inode) {
  Shard& shard = shard_of(inode.ino);
  MutexLock lock(shard.mutex);
  if (inode.hashed) shard.set.erase(shard.set.iterator_to(inode));
  inode.hashed = false;
}

bool FileSystemImpl::claim_orphan(Inode& inode) {
  Shard& shard = shard_of(inode.ino);
  MutexLock lock(shard.mutex);
  if (inode.refs.load() != 1 || inode.dying || !inode.orphan) return false;
  inode.dying = true;
  return true;
}

// ---- Slots --------------------------------------------------------------------------------------------------------

Result<SlotView> FileSystemImpl::read_slot(const Inode& inode) {
  PINDAX_ASSIGN(MetaView view, store_->view(format::inode_offset(inode.ino), format::kInodeSize));
  const auto& slot = view.as<format::Inode>();
  PINDAX_TRY(format::check_inode(slot, inode.ino));
  if (slot.mode == 0 || slot.generation != inode.generation) return Errc::kStale;
  return SlotView(std::move(view));
}

Result<format::Inode*> FileSystemImpl::change_slot(Transaction& tx, Inode& inode) {
  const bool first = !tx.modified(format::inode_offset(inode.ino));
  PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, inode.ino));
  if (slot->mode == 0 || slot->generation != inode.generation) return Errc::kStale;
  if (first) fold_lazy_times(tx, inode, *slot);
  return slot;
}

// ---- Locks --------------------------------------------------------------------------------------------------------

InodeLocks::InodeLocks(std::initializer_list<Inode*> inodes) {
  for (Inode* i : inodes) {
    if (i != nullptr) inodes_[count_++] = i;
  }
  std::sort(inodes_.begin(), inodes_.begin() + count_, [](const Inode* a, const Inode* b) {
    return std::pair(a->ino, a) < std::pair(b->ino, b);
  });
  count_ = static_cast<unsigned>(std::unique(inodes_.begin(), inodes_.begin() + count_) - inodes_.begin());
  for (unsigned n = 0; n < count_; ++n) inodes_[n]->mutex.lock();
}

InodeLocks::~InodeLocks() {
  while (count_ > 0) inodes_[--count_]->mutex.unlock();
}

}  // namespace pindax
