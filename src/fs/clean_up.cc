// SPDX-License-Identifier: BSD-3-Clause
//
// Clean-up of an orphan: the last InodeRef goes -> the inode is `dying` -> on the executor, a break of the whole file if
// it has a layout (policy wait: pins hold it up, nothing else does) -> its blocks are freed, a transaction at a time ->
// the last one frees trees and slot and takes it off the list.
//
// An orphan without a layout waits for nobody, and most are short. They are collected and freed many in a transaction: the list, the
// counts and the journal are touched once for all of them, and whoever removes file after file does not meet this work at every
// step. Those without blocks may gather for MountOptions::clean_up_delay; the first one with blocks sends all of them on their way.
#include <sys/stat.h>

#include "base/steps.h"
#include "fs/file_data.h"

namespace pindax {
namespace {

constexpr unsigned kStepsPerTask = 8;     // transactions before others get the executor's thread
constexpr unsigned kOrphansAtOnce = 16;   // in one transaction, which holds the locks of all

// Exclusive locks of inodes that are sorted by number.
class AllLocks {
 public:
  explicit AllLocks(std::span<const InodeRef> inodes) NO_THREAD_SAFETY_ANALYSIS : inodes_(inodes) {
    for (const InodeRef& i : inodes_) i->mutex.lock();
  }
  ~AllLocks() NO_THREAD_SAFETY_ANALYSIS {
    for (auto i = inodes_.rbegin(); i != inodes_.rend(); ++i) (*i)->mutex.unlock();
  }
  AllLocks(const AllLocks&) = delete;
  AllLocks& operator=(const AllLocks&) = delete;

 private:
  const std::span<const InodeRef> inodes_;
};

}  // namespace

void FileSystemImpl::start_clean_up(InodeRef inode) {
  if (inode->layout_if_any() != nullptr) {
    // Not here: the caller may hold any lock.
    post([this, inode = std::move(inode)] { break_orphan(inode); });
    return;
  }
  const bool can_wait = inode->holds_no_blocks.load() && options_.clean_up_delay.count() != 0;
  bool sent;
  {
    MutexLock lock(collected_mutex_);
    collected_.push_back(std::move(inode));
    sent = std::exchange(can_wait ? collector_waits_ : collector_sent_, true);
  }
  if (sent) return;
  const auto collect = [this, can_wait, token = count_task()] { clean_up_collected(can_wait); };
  if (can_wait) collector_timer_ = executor_.post_at(Executor::Clock::now() + options_.clean_up_delay, collect);
  else executor_.post(collect);
}

void FileSystemImpl::clean_up_collected(bool waited) {
  std::vector<InodeRef> orphans;
  {
    MutexLock lock(collected_mutex_);
    (waited ? collector_waits_ : collector_sent_) = false;
    orphans.swap(collected_);
  }
  const auto by_number = [](const InodeRef& a, const InodeRef& b) { return a->ino < b->ino; };
  std::sort(orphans.begin(), orphans.end(), by_number);
  for (std::span<const InodeRef> rest = orphans; !rest.empty();) {
    if (phase_.load() == Phase::kStopped || !check_writable().ok()) return;
    const auto together = rest.first(std::min<std::size_t>(rest.size(), kOrphansAtOnce));
    const auto done = clean_up_together(together);
    const std::size_t gone = done.ok() ? *done : 0;
    // A first one that is long goes by itself; so does one after the other if one is bad, which keeps nobody else.
    if (gone == 0) clean_up_later(rest.front(), false);
    rest = rest.subspan(std::max<std::size_t>(gone, 1));
  }
}

// One transaction. How many of them, from the first on, are no more.
Result<std::size_t> FileSystemImpl::clean_up_together(std::span<const InodeRef> orphans) {
  std::size_t done = 0;
  const AllLocks locks(orphans);
  PINDAX_STEP("orphan.step");
  Transaction tx(*store_);
  lock_orphans(tx);
  const RecordBudget budget(tx);
  for (; done < orphans.size() && (done == 0 || budget.has_room()); ++done) {
    {
      PINDAX_ASSIGN(const SlotView slot, read_slot(*orphans[done]));
      if (is_regular(*slot) && slot->data_kind == static_cast<u16>(format::DataKind::kTree)) break;
    }
    PINDAX_ASSIGN(const bool more, free_orphan(tx, *orphans[done], {}));
    if (more) break;
  }
  PINDAX_TRY(tx.commit());
  PINDAX_STEP("orphan.freed");
  for (const InodeRef& gone : orphans.first(done)) forget(*gone);
  return done;
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
  PINDAX_ASSIGN(const bool more, free_orphan(tx, inode, grant));
  PINDAX_TRY(tx.commit());
  if (more) return true;
  PINDAX_STEP("orphan.freed");
  forget(inode);
  return false;
}

// Everything of an inode with inline extents or none, and the inode. True: something remains, and it is still on the list.
Result<bool> FileSystemImpl::free_orphan(Transaction& tx, Inode& inode, const ChangeGrant& grant) {
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  if (slot->links != 0) return Status(Errc::kCorrupt, "an inode with a name was to be cleaned up");
  if (is_regular(*slot)) {
    PINDAX_ASSIGN(const bool more, free_file_range_step(tx, inode, 0, kMaxOffset, grant));
    if (more) return true;
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

}  // namespace pindax
