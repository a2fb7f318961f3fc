// SPDX-License-Identifier: BSD-3-Clause
//
// Inodes without a name that are still in use, and files with a range that is still being freed: a tree by inode number
// whose root lies in the StateRecord.
//
// What takes an inode off the list again is in clean_up.cc. A crash leaves it on the list, and the next mount goes on.
//
// Locking: orphans_mutex_ is held by a transaction from its first change of the tree until its end; it comes before the
// quarantine's lock, so a transaction that may free blocks as well takes it first (lock_orphans).
#include <cstring>

#include "fs/shift.h"

namespace pindax {
namespace {

constexpr unsigned kOrphansPerTask = 64;

TreeRef orphan_tree(BlockNo root) { return {root, format::TreeKind::kOrphans, 0}; }

}  // namespace

// ---- The list ---------------------------------------------------------------------------------------------------------

Status FileSystemImpl::load_orphan_root() {
  const BlockNo at(store_->geometry().state_block);
  PINDAX_ASSIGN(const MetaView view, store_->view(block_offset(at), sizeof(format::StateRecord)));
  const auto& state = view.as<format::StateRecord>();
  PINDAX_TRY(format::check_state(state, at));
  MutexLock lock(orphans_mutex_);
  orphan_root_ = BlockNo(state.orphan_root);
  orphan_count_ = state.orphan_count;
  return {};
}

void FileSystemImpl::lock_orphans(Transaction& tx) NO_THREAD_SAFETY_ANALYSIS {
  if (orphans_holder_.load() == &tx) return;
  orphans_mutex_.lock();
  orphans_holder_.store(&tx);
  tx.on_abort([this, root = orphan_root_, count = orphan_count_]() NO_THREAD_SAFETY_ANALYSIS {
    orphan_root_ = root;
    orphan_count_ = count;
  });
  tx.at_end([this]() NO_THREAD_SAFETY_ANALYSIS {
    orphans_holder_.store(nullptr);
    orphans_changed_ = false;
    orphans_mutex_.unlock();
  });
}

Status FileSystemImpl::change_orphans(Transaction& tx, InodeNo ino, bool add,
                                      format::PendingShift shift) NO_THREAD_SAFETY_ANALYSIS {
  const bool first = orphans_holder_.load() != &tx || !orphans_changed_;
  lock_orphans(tx);
  if (first) {
    orphans_changed_ = true;
    tx.at_commit([this](Transaction& t) NO_THREAD_SAFETY_ANALYSIS -> Status {
      PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
      state->orphan_root = orphan_root_.value;
      state->orphan_count = orphan_count_;
      return {};
    });
  }
  TreeRef ref = orphan_tree(orphan_root_);
  GlobalNodes nodes(*allocator_);
  TreeWriter tree(tx, ref, nodes);
  if (add) {
    const FileTime t = now();
    format::OrphanValue v{};
    v.since_ns = static_cast<u64>(t.seconds) * 1'000'000'000 + t.nanoseconds;
    v.pending_shift = static_cast<u32>(shift);
    PINDAX_TRY(tree.insert(ino.value, std::as_bytes(std::span(&v, 1))));
    ++orphan_count_;
  } else {
    PINDAX_TRY(tree.erase(ino.value));
    --orphan_count_;
  }
  orphan_root_ = ref.root;
  return {};
}

Status FileSystemImpl::add_orphan(Transaction& tx, InodeNo ino, format::PendingShift shift) {
  return change_orphans(tx, ino, true, shift);
}
Status FileSystemImpl::remove_orphan(Transaction& tx, InodeNo ino) {
  return change_orphans(tx, ino, false, format::PendingShift::kNone);
}

u64 FileSystemImpl::orphan_count() {
  MutexLock lock(orphans_mutex_);
  return orphan_count_;
}

Result<std::vector<InodeNo>> FileSystemImpl::list_orphans(InodeNo first, std::size_t most) {
  std::vector<InodeNo> out;
  MutexLock lock(orphans_mutex_);
  PINDAX_TRY(TreeReader(*store_, orphan_tree(orphan_root_)).scan(first.value, [&](u64 key, TreeBytes) {
    out.push_back(InodeNo(key));
    return out.size() < most;
  }));
  return out;
}

Result<std::vector<InodeNo>> FileSystemImpl::list_shifting() {
  std::vector<InodeNo> out;
  MutexLock lock(orphans_mutex_);
  PINDAX_TRY(TreeReader(*store_, orphan_tree(orphan_root_)).scan(0, [&](u64 key, TreeBytes value) {
    format::OrphanValue v;
    std::memcpy(&v, value.data(), std::min(sizeof v, value.size()));
    if (v.pending_shift != static_cast<u32>(format::PendingShift::kNone)) out.push_back(InodeNo(key));
    return true;
  }));
  return out;
}

// ---- Ranges that are still being freed ------------------------------------------------------------------------------------

void FileSystemImpl::finish_pending_later(InodeRef inode, bool was_mapped) {
  post([this, inode = std::move(inode), was_mapped] {
    ChangeGrant grant;
    grant.was_mapped = was_mapped;
    if (some_steps([&] { return finish_pending_step(*inode, grant); })) finish_pending_later(inode, was_mapped);
  });
}

Result<bool> FileSystemImpl::finish_pending_step(Inode& inode, const ChangeGrant& grant) {
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(inode));
    if (seen->pending_end <= seen->pending_begin) return false;
  }
  Transaction tx(*store_);
  lock_orphans(tx);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  bool more = false;
  if (slot->pending_shift != static_cast<u32>(format::PendingShift::kNone)) {
    PINDAX_ASSIGN(more, shift_step(*this, tx, inode, *slot, grant));
  } else {
    PINDAX_ASSIGN(more, free_file_range_step(tx, inode, slot->pending_begin, slot->pending_end, grant));
    if (!more) {
      slot->pending_begin = 0;
      slot->pending_end = 0;
      if (!belongs_to_orphans(*slot)) PINDAX_TRY(remove_orphan(tx, inode.ino));
    }
  }
  PINDAX_TRY(tx.commit());
  return more;
}

// ---- After mount ------------------------------------------------------------------------------------------------------------

Status FileSystemImpl::recover_orphans() {
  if (options_.background) recover_orphans_later(InodeNo(0));
  return {};
}

void FileSystemImpl::recover_orphans_later(InodeNo first) {
  post([this, first] {
    if (phase_.load() != Phase::kRunning) return;
    auto batch = list_orphans(first, kOrphansPerTask);
    if (!batch.ok()) return;  // reported by fsck; nothing else rests on the list
    for (const InodeNo ino : *batch) {
      if (phase_.load() != Phase::kRunning) return;
      static_cast<void>(clean_orphan(ino).ok());  // one bad inode does not keep the others
    }
    if (batch->size() == kOrphansPerTask) recover_orphans_later(batch->back() + 1);
  });
}

Status FileSystemImpl::clean_orphan(InodeNo ino) {
  auto inode = get(ino, 0);
  if (inode.code() == Errc::kStale) return {};  // dying already
  PINDAX_TRY(inode);
  if (!(*inode)->orphan) {
    for (bool more = true; more;) {
      PINDAX_ASSIGN(more, finish_pending_step(**inode, {}));
    }
    return {};
  }
  // In use again, or a client still maps it: its last reference will see to it.
  if ((*inode)->layout_if_any() != nullptr || !claim_orphan(**inode)) return {};
  return clean_up_all(**inode, {});
}

Status FileSystemImpl::clean_orphans() {
  PINDAX_TRY(check_writable());
  Status worst;
  for (InodeNo first(0);;) {
    PINDAX_ASSIGN(const auto batch, list_orphans(first, kOrphansPerTask));
    for (const InodeNo ino : batch) {
      Status s = clean_orphan(ino);
      if (!s.ok()) worst = std::move(s);
    }
    if (batch.size() < kOrphansPerTask) return worst;
    first = batch.back() + 1;
  }
}

}  // namespace pindax
