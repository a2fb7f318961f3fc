// SPDX-License-Identifier: BSD-3-Clause
//
// Inodes without a name that are still in use, and files with a range that is still being freed: a tree by inode number
// whose root lies in the StateRecord.
//
// Clean-up of an orphan: the last InodeRef goes -> the inode is `dying` -> on the executor, a break of the whole file if
// it has a layout (policy wait: pins hold it up, nothing else does) -> its blocks are freed, a transaction at a time ->
// the last one frees trees and slot and takes it off the list.
// A crash leaves it on the list, and the next mount goes on.
//
// Locking: orphans_mutex_ is held by a transaction from its first change of the tree until its end; it comes before the
// quarantine's lock, so a transaction that may free blocks as well takes it first (lock_orphans).

#include <cstring>

#include "base/steps.h"
#include "fs/shift.h"

namespace pindax {
namespace {

constexpr unsigned kStepsPerTask = 8;      // transactions before others get the executor's thread
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

// ---- Clean-up in the background -----------------------------------------------------------------------------------------

void FileSystemImpl::start_clean_up(InodeRef inode) {
  if (inode->layout_if_any() == nullptr) {
    clean_up_later(std::move(inode), false);
    return;
  }
  // Not here: the caller may hold any lock.
  post([this, inode] { break_orphan(inode); });
}

void FileSystemImpl::break_orphan(InodeRef inode) {
  if (phase_.load() != Phase::kRunning) return;
  struct State {
    bool was_mapped = false;
    bool freed = false;
    bool done = false;  // guarded by changes_mutex_
  };
  auto state = std::make_shared<State>();
  ChangeRequest request;
  request.operation = "orphan clean-up";
  request.lock_range = request.break_range = {0, kMaxOffset};
  request.policy = BusyPolicy::kWait;
  Inode* const i = inode.get();
  std::shared_ptr<void> token = count_task();
  auto change = layout_->change(
      *i->layout(), request,
      [this, i, state](const ChangeGrant& grant) -> Status {
        state->was_mapped = grant.was_mapped;
        if (grant.to_quarantine.empty()) return {};
        state->freed = true;  // the grant says where, so all of it happens under it
        return clean_up_all(*i, grant);
      },
      [this, inode = std::move(inode), token = std::move(token), state](const Status& status) mutable {
        {
          std::shared_ptr<Change> ended;
          MutexLock lock(changes_mutex_);
          state->done = true;
          auto it = changes_.find(inode.get());
          if (it != changes_.end()) {
            ended = std::move(it->second);
            changes_.erase(it);
          }
        }
        // Interrupted, or the media failed: the list keeps it for the next mount.
        InodeRef last = std::move(inode);
        if (status.ok() && !state->freed) clean_up(last, state->was_mapped);
        last.reset();
        token.reset();
      });
  MutexLock lock(changes_mutex_);
  if (!state->done) changes_.emplace(i, std::move(change));
}

void FileSystemImpl::clean_up_later(InodeRef inode, bool was_mapped) {
  post([this, inode = std::move(inode), was_mapped] { clean_up(inode, was_mapped); });
}

// Some steps, and the rest later.
void FileSystemImpl::clean_up(const InodeRef& inode, bool was_mapped) {
  ChangeGrant grant;
  grant.was_mapped = was_mapped;
  if (some_steps([&] { return clean_up_step(*inode, grant); })) clean_up_later(inode, was_mapped);
}

bool FileSystemImpl::some_steps(const std::function<Result<bool>()>& step) {
  for (unsigned done = 0; done < kStepsPerTask; ++done) {
    if (phase_.load() == Phase::kStopped || !check_writable().ok()) return false;
    auto more = step();
    if (!more.ok() || !*more) return false;
  }
  return true;
}

Status FileSystemImpl::clean_up_all(Inode& inode, const ChangeGrant& grant) {
  for (;;) {
    PINDAX_ASSIGN(const bool more, clean_up_step(inode, grant));
    if (!more) return {};
  }
}

// One transaction. True: something remains.
Result<bool> FileSystemImpl::clean_up_step(Inode& inode, const ChangeGrant& grant) {
  WriteLock lock(inode.mutex);
  PINDAX_STEP("orphan.step");
  {
    // A long file first, in transactions that leave the list alone.
    PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
    if (slot->links != 0) return Status(Errc::kCorrupt, "an inode with a name was to be cleaned up");
    if (is_regular(*slot) && slot->data_kind == static_cast<u16>(format::DataKind::kTree)) {
      Transaction tx(*store_);
      PINDAX_TRY(change_slot(tx, inode));
      PINDAX_ASSIGN(const bool more, free_file_range_step(tx, inode, 0, kMaxOffset, grant));
      PINDAX_TRY(tx.commit());
      if (more) return true;
    }
  }
  Transaction tx(*store_);
  lock_orphans(tx);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  if (is_regular(*slot)) {
    PINDAX_ASSIGN(const bool more, free_file_range_step(tx, inode, 0, kMaxOffset, grant));
    if (more) {
      PINDAX_TRY(tx.commit());
      return true;
    }
  }
  PINDAX_TRY(free_metadata(tx, *slot));
  PINDAX_TRY(remove_orphan(tx, inode.ino));
  const u32 generation = slot->generation;
  *slot = format::Inode{};
  slot->magic = format::kInodeMagic;
  slot->version = static_cast<u16>(format::kVersion);
  slot->self = inode.ino.value;
  slot->generation = generation;
  allocator_->free_inode(tx, inode.ino);
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("orphan.freed");
  forget(inode);
  return false;
}

// What hangs from the slot besides data: entries, a long symbolic link, xattrs, parent records.
Status FileSystemImpl::free_metadata(Transaction& tx, format::Inode& slot) {
  InodeNodes nodes(*allocator_, slot);
  if (is_directory(slot) && slot.body.root != 0) {
    TreeRef ref{BlockNo(slot.body.root), format::TreeKind::kDirectory, slot.self};
    PINDAX_TRY(TreeWriter(tx, ref, nodes).clear());
  }
  if (slot.data_kind == static_cast<u16>(format::DataKind::kBlobSymlink)) free_blob(tx, slot, slot.body.blob);
  PINDAX_TRY(free_xattrs(tx, slot));
  if (slot.parents_root != 0) {
    TreeRef ref{BlockNo(slot.parents_root), format::TreeKind::kParents, slot.self};
    PINDAX_TRY(TreeWriter(tx, ref, nodes).clear());
  }
  return {};
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
