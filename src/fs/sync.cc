// SPDX-License-Identifier: BSD-3-Clause
//
// fsync(), sync_all(), and what turns provisional extents into lasting ones.
//
// fsync takes the unsynced ranges, makes their bytes durable without Inode::mutex, then commits the
// provisional extents that it saw as written, and makes the journal durable. In between, blocks may leave the
// file and come back with other contents: Inode::removals tells, and the second look is made with the lock
// held. A crash on the way leaves extents provisional, that is lost if the host went down, and good if the
// daemon did.
#include <algorithm>

#include "base/steps.h"
#include "fs/file_data.h"

namespace pindax {

namespace {

constexpr unsigned kExtentsAtOnce = 16;

// The extents under the ranges, in order.
Result<std::vector<ExtentInfo>> extents_under(FileSystemImpl& fs, const format::Inode& slot,
                                              const Inode::Ranges& ranges) {
  std::vector<ExtentInfo> out;
  FileBlock done{0};  // ranges may meet inside a block
  for (const auto& [begin, end] : ranges) {
    const FileBlock from = std::max(done, first_block(begin)), to = end_block(end);
    if (from >= to) continue;
    PINDAX_ASSIGN(const auto part, visible_extents(ExtentReader(fs.store(), slot), slot, from, to));
    for (const ExtentInfo& e : part)
      if (holds_data(fs, e)) out.push_back(e);
    done = to;
  }
  return out;
}

Status make_durable(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents) {
  for (const ExtentInfo& e : extents)
    PINDAX_TRY(fs.media().flush(block_offset(e.block), u64{e.length} << kBlockShift));
  return extents.empty() ? Status() : fs.media().drain();
}

// Commits those of the extents that are provisional as written.
Status settle(FileSystemImpl& fs, Inode& inode, const std::vector<ExtentInfo>& extents)
    REQUIRES(inode.mutex) {
  auto it = extents.begin();
  const auto skip = [&] {
    while (it != extents.end() && it->state != ExtentState::kProvisional) ++it;
  };
  for (skip(); it != extents.end();) {
    Transaction tx(fs.store());
    PINDAX_ASSIGN(format::Inode * slot, fs.change_slot(tx, inode));
    InodeNodes nodes(fs.allocator(), *slot);
    ExtentEditor editor(tx, *slot, nodes);
    RecordBudget budget(tx);
    do {
      PINDAX_TRY(editor.set_state(it->file_block, it->file_end(), ExtentState::kWritten, 0, ~0u));
      ++it;
      skip();
    } while (it != extents.end() && budget.has_room());
    PINDAX_STEP("fs.settle");
    PINDAX_TRY(tx.commit());
  }
  return {};
}

// What fsync took out of Inode::unsynced, and when: ranges from before a shift mean other bytes after it.
struct Taken {
  Inode::Ranges ranges;
  u64 shifts = 0;
};

Taken take_unsynced(Inode& inode) {
  Taken taken;
  ReadLock lock(inode.mutex);
  taken.shifts = inode.shifts;
  MutexLock lazy(inode.lazy_mutex);
  if (inode.recent) taken.ranges.swap(inode.unsynced());
  return taken;
}

// One attempt of the data part of fsync. True: the layout stood still, all is settled.
Result<bool> sync_unlocked(FileSystemImpl& fs, Inode& inode, const Taken& taken) {
  std::vector<ExtentInfo> extents;
  u64 removals = 0;
  {
    ReadLock lock(inode.mutex);
    if (inode.shifts != taken.shifts) return false;
    PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
    PINDAX_ASSIGN(extents, extents_under(fs, *slot, taken.ranges));
    removals = inode.removals;
  }
  PINDAX_STEP("fs.fsync_looked");
  PINDAX_TRY(make_durable(fs, extents));
  PINDAX_STEP("fs.fsync_flushed");
  WriteLock lock(inode.mutex);
  if (inode.removals != removals) return false;
  PINDAX_TRY(settle(fs, inode, extents));
  return true;
}

// The whole file, if what was taken has moved.
void widen_if_shifted(Inode& inode, Taken& taken) REQUIRES_SHARED(inode.mutex) {
  if (inode.shifts == taken.shifts) return;
  taken.ranges = {{0, kMaxOffset}};
  taken.shifts = inode.shifts;
}

Status sync_locked(FileSystemImpl& fs, Inode& inode, Taken& taken) {
  WriteLock lock(inode.mutex);
  widen_if_shifted(inode, taken);
  PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
  PINDAX_ASSIGN(const auto extents, extents_under(fs, *slot, taken.ranges));
  PINDAX_TRY(make_durable(fs, extents));
  return settle(fs, inode, extents);
}

// Contents durable, extents settled; the journal is the caller's.
Status sync_data(FileSystemImpl& fs, Inode& inode) {
  MutexLock one_at_a_time(fs.sync_mutex_of(inode));
  Taken taken = take_unsynced(inode);
  if (taken.ranges.empty()) return {};
  PINDAX_STEP("fs.fsync_taken");
  const Result<bool> settled = sync_unlocked(fs, inode, taken);
  Status status = settled.status();
  if (settled.ok() && !*settled) status = sync_locked(fs, inode, taken);
  if (!status.ok() && status.code() != Errc::kStale) {
    ReadLock lock(inode.mutex);
    widen_if_shifted(inode, taken);
    for (const auto& [begin, end] : taken.ranges) note_unsynced(fs, inode, begin, end);
  }
  return status;
}

Status sync_inode(FileSystemImpl& fs, Inode& inode, bool with_times) {
  PINDAX_TRY(sync_data(fs, inode));
  return with_times ? fs.write_lazy_times(inode) : Status();
}

}  // namespace

Status FileSystemImpl::fsync(Inode& inode, bool datasync) {
  if (options_.read_only) return {};
  PINDAX_TRY(sync_inode(*this, inode, !datasync));
  PINDAX_TRY(store_->sync(store_->last_lsn()));
  return store_->health();  // the host tells a lost store once; we keep saying it
}

Status FileSystemImpl::sync_all() {
  if (options_.read_only) return {};
  Status first;
  for (const InodeRef& inode : take_dirty()) {
    const Status status = sync_inode(*this, *inode, true);
    if (status.ok() || status.code() == Errc::kStale) continue;
    mark_dirty(*inode);
    if (first.ok()) first = status;
  }
  const Status journal = store_->sync(store_->last_lsn());
  if (!first.ok() || !journal.ok()) return first.ok() ? journal : first;
  return store_->health();
}

Result<bool> FileSystemImpl::settle_provisional_step(Transaction& tx, Inode& inode, u64* from) {
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  if (!is_regular(*slot)) return false;
  InodeNodes nodes(*allocator_, *slot);
  ExtentEditor editor(tx, *slot, nodes);
  RecordBudget budget(tx);
  for (unsigned looked = 0;; ++looked) {
    PINDAX_ASSIGN(const auto e, ExtentReader(tx, *slot).at_or_after(first_block(*from)));
    if (!e) return false;
    if (looked % kExtentsAtOnce == 0 && looked > 0 && !budget.has_room()) return true;
    *from = byte_of(e->file_end());
    if (e->state != ExtentState::kProvisional) continue;
    const ExtentState state = epoch_lost(e->epoch) ? ExtentState::kUnwritten : ExtentState::kWritten;
    PINDAX_TRY(editor.set_state(e->file_block, e->file_end(), state, 0, ~0u));
  }
}

}  // namespace pindax
