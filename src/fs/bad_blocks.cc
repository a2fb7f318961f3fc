// SPDX-License-Identifier: BSD-3-Clause
//
// See bad_blocks.h: looking, finding the owners, telling them, and scrubbing.
#include "fs/bad_blocks.h"

#include <algorithm>

#include "base/steps.h"

namespace pindax {

namespace {

constexpr u64 kScrubBytes = u64{1} << 20;  // by one call of the media

}  // namespace

bool has_bad(FileSystemImpl& fs, const ExtentInfo& e) {
  return fs.allocator().first_bad({e.block, e.length}).has_value();
}

bool has_bad(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents) {
  return fs.allocator().bad_count() != 0 &&
         std::any_of(extents.begin(), extents.end(), [&](const ExtentInfo& e) { return has_bad(fs, e); });
}

Result<bool> has_bad(FileSystemImpl& fs, ExtentReader reader, FileBlock begin, FileBlock end) {
  bool found = false;
  if (begin < end && fs.allocator().bad_count() != 0)
    PINDAX_TRY(reader.scan(begin, end, [&](const ExtentInfo& e) { return !(found = has_bad(fs, clip_extent(e, begin, end))); }));
  return found;
}

std::vector<DataPart> split_lost(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents) {
  std::vector<DataPart> parts;
  for (const ExtentInfo& e : extents) {
    if (!holds_data(fs, e)) {
      parts.push_back({e, false});
      continue;
    }
    for (FileBlock at = e.file_block; at < e.file_end();) {
      const ExtentInfo rest = clip_extent(e, at, e.file_end());
      const auto bad = fs.allocator().first_bad({rest.block, rest.length});
      const FileBlock stop = bad ? at + (*bad - rest.block) : e.file_end();
      if (at < stop) parts.push_back({clip_extent(e, at, stop), false});
      if (bad) parts.push_back({clip_extent(e, stop, stop + 1), true});
      at = bad ? stop + 1 : stop;
    }
  }
  return parts;
}

u64 first_lost(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, u64 begin, u64 end) {
  if (fs.allocator().bad_count() == 0) return end;
  for (const DataPart& p : split_lost(fs, extents)) {
    const ByteRange r = intersect({begin, end}, {byte_of(p.extent.file_block), byte_of(p.extent.file_end())});
    if (p.lost && !r.empty()) return r.begin;
  }
  return end;
}

Status lost_bytes(BlockNo block) {
  return Status(Errc::kPoisoned, "block " + std::to_string(block.value) +
                                     " of the pool is bad: what it held is lost; writing all of it again repairs the file");
}

// ---- Owners ----------------------------------------------------------------------------------------------------------

Result<bool> FileSystemImpl::find_damaged(DamageScan& scan) {
  if (allocator_->bad_count() == 0) return false;
  for (u64 n = 0; n < kInodeBlocksAtOnce; ++n) {
    PINDAX_ASSIGN(const auto block, allocator_->next_inode_block(scan.next));
    if (!block) return false;
    scan.next = *block + 1;
    each_inode_in(*block, [&](Inode& inode) { find_damage_in(inode, scan); });
  }
  return true;
}

void FileSystemImpl::find_damage_in(Inode& inode, DamageScan& scan) {
  ReadLock lock(inode.mutex);
  const auto slot = read_slot(inode);
  if (!slot.ok() || !is_regular(**slot)) return;
  (void)ExtentReader(*store_, **slot).scan(FileBlock(0), end_block(format::kMaxFileBytes), [&](const ExtentInfo& e) {
    const bool lost = holds_data(*this, e);
    for (FileBlock at = e.file_block; at < e.file_end();) {
      const ExtentInfo rest = clip_extent(e, at, e.file_end());
      const auto bad = allocator_->first_bad({rest.block, rest.length});
      if (!bad) break;
      at = at + (*bad - rest.block);
      BlockOwner* last = scan.owners.empty() ? nullptr : &scan.owners.back();
      const bool joins = last != nullptr && last->ino == inode.ino && last->run.end() == *bad && last->lost == lost &&
                         last->file_offset + last->run.length * kBlockSize == byte_of(at) && last->shared == e.shared;
      if (joins) ++last->run.length;
      else scan.owners.push_back({inode.ino, byte_of(at), {*bad, 1}, e.shared, lost});
      at = at + 1;
    }
    return true;
  });
}

// Takes the block from clients and kernel; whoever touches it next asks again, and is told.
void FileSystemImpl::recall_bad(const BlockOwner& owner) {
  auto inode = get(owner.ino, 0);
  if (!inode.ok()) return;
  const ByteRange range{owner.file_offset, owner.file_offset + owner.run.length * kBlockSize};
  ChangeRequest request;
  request.operation = "bad block";
  request.lock_range = request.break_range = range;
  request.only_frees = false;
  request.recall_only = true;
  Inode& file = **inode;
  layout_->set_damaged(*file.layout());
  layout_->change(*file.layout(), request, [](const ChangeGrant&) { return Status(); },
                  [keep = *inode, token = count_task()](const Status&) {});
}

Result<std::set<u64>> FileSystemImpl::write_bad_list() {
  std::set<u64> fresh;
  if (options_.read_only || allocator_->bad_count() == 0) return fresh;
  MutexLock one_at_a_time(tend_mutex_);
  for (const auto& b : allocator_->bad_blocks())
    if (!tended_.contains(b.block.value)) fresh.insert(b.block.value);
  PINDAX_TRY(use_feature(format::kRoCompatBadBlocks));
  PINDAX_TRY(allocator_->settle_bad());
  tended_.insert(fresh.begin(), fresh.end());
  return fresh;
}

Status FileSystemImpl::tend_bad_blocks() {
  PINDAX_ASSIGN(const std::set<u64> fresh, write_bad_list());
  PINDAX_STEP("fs.bad_settled");
  if (fresh.empty()) return {};
  DamageScan scan;
  for (bool more = true; more && phase_ == Phase::kRunning;) {
    PINDAX_ASSIGN(more, find_damaged(scan));
  }
  if (phase_ != Phase::kRunning) return {};
  for (const BlockOwner& owner : scan.owners)
    if (owner.lost && std::any_of(fresh.begin(), fresh.end(), [&](u64 b) { return owner.run.start.value <= b && b < owner.run.end().value; }))
      recall_bad(owner);
  return {};
}

// ---- Looking ---------------------------------------------------------------------------------------------------------

void FileSystemImpl::examine(Inode& inode, u64 offset, u64 length) {
  std::vector<ExtentInfo> list;
  {
    ReadLock lock(inode.mutex);
    const auto slot = read_slot(inode);
    const u64 end = std::min(offset + std::min(length, format::kMaxFileBytes), format::kMaxFileBytes);
    if (!slot.ok() || !is_regular(**slot) || offset >= end) return;
    auto found = visible_extents(ExtentReader(*store_, **slot), **slot, first_block(offset), end_block(end));
    if (found.ok()) list = std::move(*found);
  }
  // Blocks that leave the file meanwhile are read all the same.
  for (const ExtentInfo& e : list)
    if (holds_data(*this, e)) (void)media_.probe(block_offset(e.block), u64{e.length} << kBlockShift);
}

Result<u64> FileSystemImpl::read_bad_list() {
  PINDAX_ASSIGN(const auto ranges, media_.bad_ranges());
  u64 found = 0;
  for (const ByteRange& r : ranges)
    for (u64 b = r.begin >> kBlockShift; b < blocks_for(r.end); ++b) found += allocator_->note_bad(BlockNo(b)) ? 1 : 0;
  return found;
}

Result<FileSystem::ScrubStep> FileSystemImpl::scrub(BlockNo from, u64 most) {
  const format::Geometry& g = store_->geometry();
  ScrubStep step;
  step.next = from;
  const u64 known = allocator_->bad_count();
  // To the end of the group, or until enough was read.
  if (from.value < g.pool_blocks) {
    const u32 ag = g.ag_of(from);
    const u64 end = g.ag_start(ag) + g.ag_length(ag);
    std::vector<BlockRun> free;
    if (auto runs = allocator_->free_runs(ag); runs.ok()) free = std::move(*runs);
    auto next_free = free.begin();
    u64 at = from.value;
    while (at < end && step.read_blocks < std::max<u64>(most, 1)) {
      while (next_free != free.end() && next_free->end().value <= at) ++next_free;
      if (next_free != free.end() && next_free->start.value <= at) {
        at = next_free->end().value;
        continue;
      }
      u64 stop = next_free != free.end() ? std::min(end, next_free->start.value) : end;
      stop = std::min(stop, at + (kScrubBytes >> kBlockShift));
      if (const auto bad = allocator_->first_bad({BlockNo(at), stop - at})) {
        if (bad->value == at) {
          ++at;
          continue;
        }
        stop = bad->value;
      }
      const Status status = media_.scrub(block_offset(BlockNo(at)), (stop - at) << kBlockShift);
      if (!status.ok() && status.code() != Errc::kPoisoned) return status;
      step.read_blocks += stop - at;
      at = stop;
    }
    step.next = BlockNo(at);
  }
  step.found_blocks = allocator_->bad_count() - known;
  step.done = step.next.value >= g.pool_blocks;
  return step;
}

}  // namespace pindax
