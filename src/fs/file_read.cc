// SPDX-License-Identifier: BSD-3-Clause
//
// read() and fill(): replies point straight into the pool. The shared hold keeps the blocks in the file until
// the callback returns; Inode::mutex is held for the lookup only. Nothing here changes the media, but for a
// fill by a writable handle, which gives holes their blocks and copies shared ones (store_range).
#include <algorithm>

#include "base/steps.h"
#include "fs/bad_blocks.h"
#include "fs/file_data.h"
#include "fs/share.h"

namespace pindax {

namespace {

constexpr u64 kZeroBytes = u64{1} << 20;
constexpr u64 kMostBytes = (u64{1} << 31) - kBlockSize;  // of one call, as read(2)
alignas(kBlockSize) const std::byte zero_area[kZeroBytes]{};

class PieceList {
 public:
  explicit PieceList(Media& media) : media_(media) {}

  void add_zeros(u64 length) {
    while (length > 0) {
      const u64 n = std::min(length, kZeroBytes);
      pieces.emplace_back(zero_area, n);
      length -= n;
    }
  }
  Status add_bytes(PoolOffset at, u64 length) {
    const std::byte* bytes = media_.view(at, length);
    // Extents lie in the pool (ExtentReader), so it is the pool that has lost its end.
    if (bytes == nullptr) return Status(Errc::kIo, "bytes of the pool cannot be mapped: was it truncated?");
    if (!pieces.empty() && pieces.back().data() + pieces.back().size() == bytes) {
      pieces.back() = {pieces.back().data(), pieces.back().size() + length};
    } else {
      pieces.emplace_back(bytes, length);
    }
    return {};
  }

  FileSystem::ReadPieces pieces;

 private:
  Media& media_;
};

// The bytes of [begin, end) as pieces, by the file's extents.
Status add_pieces(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, u64 begin, u64 end,
                  PieceList& out) {
  u64 at = begin;
  for (const ExtentInfo& e : extents) {
    if (!holds_data(fs, e)) continue;
    const u64 from = std::max(at, byte_of(e.file_block)), to = std::min(end, byte_of(e.file_end()));
    if (from >= to) continue;
    out.add_zeros(from - at);
    PINDAX_TRY(out.add_bytes(block_offset(e.block) + (from - byte_of(e.file_block)), to - from));
    at = to;
  }
  out.add_zeros(end - at);
  return {};
}

// `whole`: all or an error. Else what is before the first lost byte, if there is any.
Status collect(FileSystemImpl& fs, Inode& inode, u64 offset, u64 end, bool whole, PieceList& out) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
  if (is_directory(*slot)) return Status(Errc::kIsDirectory);
  if (!is_regular(*slot)) return Status(Errc::kInvalid, "not a regular file");
  end = std::min<u64>(end, slot->size_bytes);
  if (offset >= end) return {};
  PINDAX_ASSIGN(const auto extents,
                visible_extents(ExtentReader(fs.store(), *slot), *slot, first_block(offset), end_block(end)));
  const u64 lost = first_lost(fs, extents, offset, end);
  if (lost < end && (whole || lost == offset)) return Status(Errc::kPoisoned, "a bad block under the file");
  return add_pieces(fs, extents, offset, lost, out);
}

// Every block of [offset, end) below the size gets its place, filled with zeros.
Status give_blocks(FileSystemImpl& fs, Inode& inode, u64 offset, u64 end) {
  {
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
    end = std::min(end, round_up(slot->size_bytes, kBlockSize));
    if (offset >= end) return {};
    PINDAX_ASSIGN(const auto extents, visible_extents(ExtentReader(fs.store(), *slot), *slot,
                                                      first_block(offset), end_block(end)));
    if (all_private_data(fs, extents, first_block(offset), end_block(end))) return {};
  }
  PINDAX_TRY(fs.check_writable());
  StoreJob job;
  job.offset = round_down(offset, kBlockSize);
  job.end = round_up(end, kBlockSize);
  PINDAX_ASSIGN(const u64 done, store_range(fs, inode, job));
  return done == job.end - job.offset ? Status() : Status(Errc::kNoSpace);
}

}  // namespace

void FileSystemImpl::read(InodeRef inode, u64 offset, u64 length, ReadDone done, Reader reader) {
  const u64 begin = std::min(offset, format::kMaxFileBytes);
  const u64 end = std::min(begin + std::min(length, kMostBytes), format::kMaxFileBytes);
  Inode& file = *inode;
  const ByteRange pages = block_aligned({begin, end});
  auto go = [this, inode = std::move(inode), begin, end, done](SharedHold hold) {
    PieceList list(media_);
    const Status status = collect(*this, *inode, begin, end, false, list);
    PINDAX_STEP("fs.read_collected");
    if (!status.ok()) {
      hold.release();
      done(status);
      return;
    }
    if (!list.pieces.empty()) note_access(*inode);
    done(&list.pieces);
  };
  if (reader == Reader::kKernel) return layout_->with_shared(*file.layout(), pages, std::move(go));
  layout_->with_cache_dropped(*file.layout(), pages, Layout::CachedPages::kMaybeDirty,
                              [go = std::move(go), done = std::move(done)](Result<SharedHold> held) {
                                if (!held.ok()) return done(held.status());
                                go(std::move(held).value());
                              });
}

std::shared_ptr<Change> FileSystemImpl::fill(InodeRef inode, u64 offset, u64 length, bool writable, ReadDone done) {
  const u64 begin = std::min(offset, format::kMaxFileBytes);
  const u64 end = std::min(begin + std::min(length, kMostBytes), format::kMaxFileBytes);
  Inode& file = *inode;
  auto go = [this, inode = std::move(inode), begin, end, writable, done = std::move(done)](Result<SharedHold> held) {
    if (!held.ok()) return done(held.status());
    SharedHold hold = std::move(held).value();
    Status status;
    if (writable) status = give_blocks(*this, *inode, begin, end);
    PieceList list(media_);
    // A short answer would be zeros to the kernel.
    if (status.ok()) status = collect(*this, *inode, begin, end, true, list);
    PINDAX_STEP("fs.fill_collected");
    if (!status.ok()) {
      hold.release();
      done(status);
      return;
    }
    done(&list.pieces);
  };
  return layout_->with_fill(*file.layout(), block_aligned({begin, end}), writable, std::move(go));
}

}  // namespace pindax
