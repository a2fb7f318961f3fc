// SPDX-License-Identifier: BSD-3-Clause
//
// See file_data.h: looking blocks up, storing in place, zeroing, and remembering what fsync has to do.
#include "fs/file_data.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/bad_blocks.h"
#include "layout/client_port.h"

namespace pindax {

namespace {

constexpr std::size_t kMostUnsyncedRanges = 1024;

bool is_page_granular(FileSystemImpl& fs) { return fs.media().granularity() == Granularity::kPage; }
bool is_volatile(FileSystemImpl& fs) { return fs.media().granularity() == Granularity::kVolatile; }

bool is_zero(const std::byte* bytes, u64 length) {
  return length == 0 || (bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, length - 1) == 0);
}

bool is_unsynced(Inode& inode, u64 begin, u64 end) {
  MutexLock lock(inode.lazy_mutex);
  if (!inode.recent) return false;
  const auto& ranges = inode.unsynced();
  const auto after = ranges.lower_bound(end);
  return after != ranges.begin() && std::prev(after)->second > begin;
}

}  // namespace

bool commits_provisional(FileSystemImpl& fs) {
  return is_page_granular(fs) && fs.store().mode() == SyncMode::kPosix;
}

bool holds_data(const FileSystemImpl& fs, const ExtentInfo& e) {
  switch (e.state) {
    case ExtentState::kWritten:
      return true;
    case ExtentState::kUnwritten:
      return false;
    case ExtentState::kProvisional:
      return !fs.epoch_lost(e.epoch);
  }
  return false;
}

Result<std::vector<ExtentInfo>> visible_extents(ExtentReader reader, const format::Inode& slot,
                                                FileBlock begin, FileBlock end) {
  PINDAX_TRY(check_settled(slot));
  const u64 pending_begin = slot.pending_begin, pending_end = slot.pending_end;
  if (pending_end <= pending_begin) return reader.list(begin, end);
  const FileBlock gap_begin = end_block(pending_begin), gap_end = first_block(pending_end);
  std::vector<ExtentInfo> out;
  PINDAX_TRY(reader.scan(begin, end, [&](const ExtentInfo& whole) {
    const ExtentInfo e = clip_extent(whole, begin, end);
    if (e.file_block < gap_begin)
      out.push_back(clip_extent(e, e.file_block, std::min(e.file_end(), gap_begin)));
    if (e.file_end() > gap_end) out.push_back(clip_extent(e, std::max(e.file_block, gap_end), e.file_end()));
    return true;
  }));
  return out;
}

Status check_settled(const format::Inode& slot) {
  if (slot.pending_shift == static_cast<u32>(format::PendingShift::kNone)) return {};
  return Status(Errc::kIo, "a collapse or insert of this file was cut short: mount the pool again, writable, to finish it");
}

bool all_data(const FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, FileBlock begin,
              FileBlock end) {
  FileBlock at = begin;
  for (const ExtentInfo& e : extents) {
    if (e.file_block != at || !holds_data(fs, e)) return false;
    at = e.file_end();
  }
  return at >= end;
}

Status check_data_change(const format::Inode& slot, bool appends) {
  if (is_directory(slot)) return Status(Errc::kIsDirectory);
  if (!is_regular(slot)) return Status(Errc::kInvalid, "not a regular file");
  if ((slot.flags & format::kFlagImmutable) != 0) return Status(Errc::kPermission, "the file is immutable");
  if ((slot.flags & format::kFlagAppend) != 0 && !appends)
    return Status(Errc::kPermission, "the file is append-only");
  return {};
}

bool has_set_id(const format::Inode& slot) {
  return (slot.mode & S_ISUID) != 0 || (slot.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
}

void clear_set_id(format::Inode& slot, const Caller* caller) {
  u32 mode = slot.mode & ~u32{S_ISUID};
  const bool stranger = caller != nullptr && caller->gid != slot.gid &&
                        std::find(caller->groups.begin(), caller->groups.end(), u32{slot.gid}) == caller->groups.end();
  if ((mode & S_IXGRP) != 0 || stranger) mode &= ~u32{S_ISGID};
  slot.mode = mode;
}

Status overwrite(FileSystemImpl& fs, PoolOffset at, const std::byte* data, u64 length) {
  if (is_page_granular(fs) || is_volatile(fs)) return fs.media().write(at, data, length);
  return fs.media().write_nt(at, data, length);
}

Status finish_overwrite(FileSystemImpl& fs, Inode& inode, u64 offset, u64 length) {
  if (is_volatile(fs)) return {};
  if (!is_page_granular(fs)) return fs.media().drain();
  note_unsynced(fs, inode, offset, offset + length);
  return {};
}

Status zero_in_place(FileSystemImpl& fs, Inode& inode, const std::vector<ExtentInfo>& extents, u64 begin,
                     u64 end) {
  bool stored = false;
  for (const ExtentInfo& e : extents) {
    const u64 from = std::max(begin, byte_of(e.file_block)), to = std::min(end, byte_of(e.file_end()));
    if (from >= to || !holds_data(fs, e)) continue;
    const ExtentInfo part = clip_extent(e, first_block(from), end_block(to));
    if (const auto bad = fs.allocator().first_bad({part.block, part.length})) return lost_bytes(*bad);
    const PoolOffset at = block_offset(e.block) + (from - byte_of(e.file_block));
    PINDAX_TRY(fs.media().zero(at, to - from));
    if (!commits_provisional(fs)) PINDAX_TRY(fs.media().flush(at, to - from));
    stored = true;
  }
  if (!stored) return {};
  if (!commits_provisional(fs)) return fs.media().drain();
  note_unsynced(fs, inode, begin, end);
  return {};
}

Status zero_tail(FileSystemImpl& fs, Inode& inode, ExtentReader reader, const format::Inode& slot, u64 to) {
  const u64 size = slot.size_bytes;
  const u64 end = std::min(to, round_up(size, kBlockSize));
  if (size >= end) return {};
  const FileBlock block = first_block(size);
  PINDAX_ASSIGN(const auto extents, visible_extents(reader, slot, block, block + 1));
  // Nobody reads a bad block's tail.
  if (extents.empty() || !holds_data(fs, extents[0]) || has_bad(fs, extents[0])) return {};
  const PoolOffset at = block_offset(extents[0].block) + size % kBlockSize;
  std::byte bytes[kBlockSize];
  const Status read = fs.media().read(at, bytes, end - size);
  if (read.code() == Errc::kPoisoned && has_bad(fs, extents[0])) return {};
  PINDAX_TRY(read);
  // In posix mode the new size may reach the media before these zeros do: where the block would survive a
  // crash, they have to go first. They are there already unless somebody stored lately.
  const bool survives = extents[0].state == ExtentState::kWritten;
  const bool zeros = is_zero(bytes, end - size);
  if (zeros && !(commits_provisional(fs) && survives && is_unsynced(inode, size, end))) return {};
  if (!zeros) PINDAX_TRY(fs.media().zero(at, end - size));
  PINDAX_TRY(fs.media().flush(at, end - size));
  return fs.media().drain();
}

bool cached_tail(FileSystemImpl& fs, Inode& inode, u64 size) {
  const ByteRange tail{round_down(size, kBlockSize), round_up(size, kBlockSize)};
  return !tail.empty() && fs.layout().first_cached(*inode.layout(), tail) < tail.end;
}

u64 grow_begin(FileSystemImpl& fs, Inode& inode, u64 size) {
  return cached_tail(fs, inode, size) ? round_down(size, kBlockSize) : round_up(size, kBlockSize);
}

void publish_size(FileSystemImpl& fs, Inode& inode, u64 size) {
  if (InodeLayout* layout = inode.layout_if_any()) client_layout(fs.layout()).set_size(*layout, size);
}

void add_range(Inode::Ranges& ranges, u64 begin, u64 end) {
  if (begin >= end) return;
  auto it = ranges.upper_bound(begin);
  if (it != ranges.begin() && std::prev(it)->second >= begin) {
    --it;
    begin = it->first;
    end = std::max(end, it->second);
    it = ranges.erase(it);
  }
  while (it != ranges.end() && it->first <= end) {
    end = std::max(end, it->second);
    it = ranges.erase(it);
  }
  ranges.emplace(begin, end);
  if (ranges.size() <= kMostUnsyncedRanges) return;
  const u64 first = ranges.begin()->first, last = ranges.rbegin()->second;
  ranges.clear();
  ranges.emplace(first, last);
}

void note_unsynced(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end) {
  {
    MutexLock lock(inode.lazy_mutex);
    add_range(inode.unsynced(), begin, end);
  }
  fs.mark_dirty(inode);
}

bool RecordBudget::has_room() const {
  const u64 most = tx_.store().max_record_bytes();
  return tx_.record_bytes_estimate() + bitmap_bytes_ < most / 2;
}

AllocateRequest allocation_near(ExtentReader reader, FileBlock at, u64 wanted) {
  constexpr u64 kHugeBlocks = kHugePageSize / kBlockSize;
  static std::atomic<unsigned> next_worker{0};
  thread_local const unsigned worker = next_worker.fetch_add(1, std::memory_order_relaxed);
  AllocateRequest request;
  request.worker = worker;
  request.wanted = wanted;
  bool grows = false;  // behind what is there
  if (const auto left = reader.before(at); left.ok() && left.value()) {
    const ExtentInfo& e = *left.value();
    grows = e.file_end() == at;
    const u64 gap = at - e.file_end();  // a small hole may be filled later: leave its place free
    request.near = e.block + e.length + (gap <= kHugeBlocks ? gap : 0);
  }
  // A file that grows past 2 MiB, in pieces of any size, goes on where 2 MiB pages can map it.
  request.huge_align = at.value % kHugeBlocks == 0 && (grows || wanted >= kHugeBlocks / 8);
  return request;
}

}  // namespace pindax
