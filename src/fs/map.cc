// SPDX-License-Identifier: BSD-3-Clause
//
// What direct mappers need: translations, and a note of their stores. The caller holds the range shared, so
// that what is looked up here stays true until the grant is on its way (F1).
#include <algorithm>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/share.h"

namespace pindax {

namespace {

using Kind = Translation::Kind;

void add_piece(std::vector<Translation>& out, Kind kind, u64 begin, u64 end, PoolOffset at, bool writable) {
  if (begin >= end) return;
  Translation t;
  t.kind = kind;
  t.file_offset = begin;
  t.length = end - begin;
  if (kind == Kind::kBlocks) {
    t.pool_offset = at;
    t.writable = writable;
  }
  out.push_back(t);
}

// Every block has a place of the file's own; lost ones stay as they are.
bool can_be_stored_into(const FileSystemImpl& fs, const std::vector<DataPart>& parts, FileBlock begin, FileBlock end) {
  FileBlock at = begin;
  for (const auto& [e, lost] : parts) {
    if (e.file_block != at || (!lost && (e.shared || !holds_data(fs, e)))) return false;
    at = e.file_end();
  }
  return at >= end;
}

}  // namespace

Result<std::vector<Translation>> FileSystemImpl::translate(Inode& inode, ByteRange range, bool for_write,
                                                           const ChangeGrant* copy) {
  range = block_aligned(range);
  if (for_write) PINDAX_TRY(check_writable());
  for (unsigned attempt = 0;; ++attempt) {
    StoreJob missing;
    {
      ReadLock lock(inode.mutex);
      PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
      if (for_write) PINDAX_TRY(check_data_change(*slot, false));
      const u64 file_end = round_up(std::min<u64>(slot->size_bytes, format::kMaxFileBytes), kBlockSize);
      const u64 end = std::max(range.begin, std::min(range.end, file_end));
      PINDAX_ASSIGN(const auto extents, visible_extents(ExtentReader(*store_, *slot), *slot,
                                                        first_block(range.begin), end_block(end)));
      const auto parts = split_lost(*this, extents);
      if (!for_write || can_be_stored_into(*this, parts, first_block(range.begin), end_block(end))) {
        std::vector<Translation> out;
        u64 at = range.begin;
        for (const auto& [e, lost] : parts) {
          if (!holds_data(*this, e)) continue;
          add_piece(out, Kind::kHole, at, byte_of(e.file_block), {}, false);
          add_piece(out, lost ? Kind::kBad : Kind::kBlocks, byte_of(e.file_block), byte_of(e.file_end()), block_offset(e.block),
                    !e.shared);
          at = byte_of(e.file_end());
        }
        add_piece(out, Kind::kHole, at, end, {}, false);
        add_piece(out, Kind::kBeyondEnd, end, range.end, {}, false);
        return out;
      }
      const bool shares = std::any_of(parts.begin(), parts.end(), [](const DataPart& p) { return p.extent.shared && !p.lost; });
      if (copy == nullptr && shares) return Status(Errc::kTryAgain, "the range shares blocks");
      missing.offset = range.begin;
      missing.end = end;
      missing.grant = copy;
    }
    // Under a hold of the range the blocks cannot vanish again: the second look finds them.
    if (attempt > 0) return Status(Errc::kTryAgain, "the range is not held");
    PINDAX_STEP("fs.translate_missing");
    PINDAX_ASSIGN(const u64 done, store_range(*this, inode, missing));
    if (done < missing.end - missing.offset) return Errc::kNoSpace;
  }
}

Result<bool> FileSystemImpl::shares_blocks(Inode& inode, ByteRange range) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  if (!is_regular(*slot)) return false;
  range = intersect(block_aligned(range), {0, u64{1} << 63});
  if (range.empty()) return false;
  return may_share(ExtentReader(*store_, *slot), first_block(range.begin), end_block(range.end));
}

Status FileSystemImpl::unshare(Inode& inode, ByteRange range, const ChangeGrant& grant) {
  PINDAX_TRY(check_writable());
  return unshare_blocks(*this, inode, range.begin, range.end, grant);
}

Status FileSystemImpl::publish_for_gates(Inode& inode, ByteRange range) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  if (!is_regular(*slot)) return {};
  range = intersect(block_aligned(range), {0, u64{1} << 62});
  if (range.empty()) return {};
  InodeLayout& layout = *inode.layout();
  return ExtentReader(*store_, *slot).scan(first_block(range.begin), end_block(range.end), [&](const ExtentInfo& e) {
    if (e.shared) layout_->set_shared(layout, {byte_of(e.file_block), byte_of(e.file_end())}, true);
    if (has_bad(*this, e)) layout_->set_damaged(layout);
    return true;
  });
}

void FileSystemImpl::note_direct_stores(Inode& inode, ByteRange range) {
  if (!check_writable().ok() || range.empty()) return;
  note_modified(inode);
  if (media_.granularity() != Granularity::kVolatile) note_unsynced(*this, inode, range.begin, range.end);
}

Result<std::vector<format::ExtentInfo>> FileSystemImpl::extents(Inode& inode, ByteRange range) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  if (!is_regular(*slot)) return Status(Errc::kInvalid, "not a regular file");
  const u64 end = std::min(range.end, u64{1} << 63);
  if (range.begin >= end) return std::vector<format::ExtentInfo>{};
  return visible_extents(ExtentReader(*store_, *slot), *slot, first_block(range.begin), end_block(end));
}

}  // namespace pindax
