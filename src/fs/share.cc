// SPDX-License-Identifier: BSD-3-Clause
//
// See share.h. Copying itself is store_range()'s work (file_store.cc).
#include "fs/share.h"

#include <algorithm>

#include "fs/bad_blocks.h"

namespace pindax {

bool may_share(const std::vector<ExtentInfo>& extents) {
  return std::any_of(extents.begin(), extents.end(), [](const ExtentInfo& e) { return e.shared; });
}

Result<bool> may_share(ExtentReader reader, FileBlock begin, FileBlock end) {
  bool found = false;
  if (begin < end)
    PINDAX_TRY(reader.scan(begin, end, [&](const ExtentInfo& e) { return !(found = found || e.shared); }));
  return found;
}

bool all_private_data(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, FileBlock begin, FileBlock end) {
  return !may_share(extents) && all_data(fs, extents, begin, end) && !has_bad(fs, extents);
}

Result<u64> unshare_range(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant) {
  StoreJob job;
  job.grant = &grant;
  job.offset = round_down(begin, kBlockSize);
  job.end = round_up(std::min(end, format::kMaxFileBytes), kBlockSize);
  job.only_shared = true;
  if (job.offset >= job.end) return job.end;
  {
    ReadLock lock(inode.mutex);
    PINDAX_ASSIGN(const SlotView slot, fs.read_slot(inode));
    PINDAX_ASSIGN(const bool shares,
                  may_share(ExtentReader(fs.store(), *slot), first_block(job.offset), end_block(job.end)));
    if (!shares) return job.end;
  }
  PINDAX_ASSIGN(const u64 done, store_range(fs, inode, job));
  return job.offset + done;
}

Status unshare_blocks(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant) {
  PINDAX_ASSIGN(const u64 done, unshare_range(fs, inode, begin, end, grant));
  return done >= end ? Status() : Status(Errc::kNoSpace);
}

void publish_private(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end) {
  if (InodeLayout* layout = inode.layout_if_any()) fs.layout().set_shared(*layout, {begin, end}, false);
}

// ---- RunReleaser
// ----------------------------------------------------------------------------------------------------

Status RunReleaser::release(const ExtentInfo& e) {
  if (!e.shared) return release_owned(e, grant_.was_mapped);
  std::vector<BlockRun> last;
  PINDAX_TRY(fs_.allocator().drop_owner(tx_, {e.block, e.length}, &last));
  FileBlock at = e.file_block;
  for (const BlockRun& run : last) {
    const FileBlock begin = e.file_block + (run.start - e.block), end = begin + run.length;
    PINDAX_TRY(give_up_share(e, at, begin));
    // Clients may have mapped it through any of its owners.
    PINDAX_TRY(release_owned(clip_extent(e, begin, end), true));
    at = end;
  }
  return give_up_share(e, at, e.file_end());
}

// Calls f(part, held_back) for the parts of the extent that the grant tells apart.
template <class F>
Status RunReleaser::each_part(const ExtentInfo& e, F&& f) {
  u64 at = byte_of(e.file_block);
  const u64 end = byte_of(e.file_end());
  while (at < end) {
    u64 stop = end;
    bool held_back = false;
    for (const ByteRange& wide : grant_.to_quarantine) {
      const ByteRange r = block_aligned(wide);
      if (r.begin <= at && at < r.end) {
        held_back = true;
        stop = std::min(stop, r.end);
      }
    }
    if (!held_back) {
      for (const ByteRange& wide : grant_.to_quarantine) {
        const u64 from = round_down(wide.begin, kBlockSize);
        if (from > at) stop = std::min(stop, from);
      }
    }
    PINDAX_TRY(f(clip_extent(e, first_block(at), first_block(stop)), held_back));
    at = stop;
  }
  return {};
}

// Others own it as well. Where somebody may still read it as this file's, it stays as it is until he does not (F4).
Status RunReleaser::give_up_share(const ExtentInfo& e, FileBlock begin, FileBlock end) {
  if (begin == end) return {};
  return each_part(clip_extent(e, begin, end), [&](const ExtentInfo& part, bool held_back) {
    if (held_back) hold(part);
    return Status();
  });
}

Status RunReleaser::release_owned(const ExtentInfo& e, bool punch) {
  return each_part(e, [&](const ExtentInfo& part, bool held_back) {
    if (held_back) return quarantine(part);
    if (part.shared) return release_last(part);
    free(part, punch);
    return Status();
  });
}

// What another file gave up before, and somebody may still read as that file's, is his hold's to free.
Status RunReleaser::release_last(const ExtentInfo& e) {
  FileBlock at = e.file_block;
  for (const BlockRun& run : fs_.allocator().held(tx_, {e.block, e.length})) {
    const FileBlock begin = e.file_block + (run.start - e.block);
    if (at < begin) free(clip_extent(e, at, begin), true);
    PINDAX_TRY(fs_.allocator().quarantine(tx_, run, format::QuarantineReason::kPinned));
    at = begin + run.length;
  }
  if (at < e.file_end()) free(clip_extent(e, at, e.file_end()), true);
  return {};
}

// In pieces where the layout room claims some of it.
void RunReleaser::free(const ExtentInfo& part, bool punch) {
  const ByteRange whole{byte_of(part.file_block), byte_of(part.file_end())};
  auto plain = [&](u64 begin, u64 end) {
    if (begin >= end) return;
    const ExtentInfo piece = clip_extent(part, first_block(begin), first_block(end));
    fs_.allocator().free(tx_, BlockRun{piece.block, piece.length}, punch);
  };
  u64 at = whole.begin;
  auto claim = std::upper_bound(grant_.claimed.begin(), grant_.claimed.end(), at,
                                [](u64 byte, const ByteRange& r) { return byte < r.end; });
  for (; claim != grant_.claimed.end() && claim->begin < whole.end; ++claim) {
    const ByteRange r = intersect(*claim, whole);
    plain(at, r.begin);
    const ExtentInfo piece = clip_extent(part, first_block(r.begin), first_block(r.end));
    const BlockRun run{piece.block, piece.length};
    fs_.allocator().free_claimed(tx_, run);
    tx_.on_commit([tell = grant_.freed, r, run](Lsn) { tell(r, run.start.value, run.length); });
    at = r.end;
  }
  plain(at, whole.end);
}

Status RunReleaser::quarantine(const ExtentInfo& part) {
  PINDAX_TRY(
      fs_.allocator().quarantine(tx_, BlockRun{part.block, part.length}, format::QuarantineReason::kPinned));
  hold(part);
  return {};
}

void RunReleaser::hold(const ExtentInfo& part) {
  if (!grant_.quarantined) return;  // nobody would release it: the next mount does
  fs_.allocator().hold(tx_, BlockRun{part.block, part.length});
  tx_.on_commit([tell = grant_.quarantined, part](Lsn) {
    tell({byte_of(part.file_block), byte_of(part.file_end())}, part.block.value, part.length);
  });
}

Result<FileBlock> releasable_end(FileSystemImpl& fs, Transaction& tx, const format::Inode& slot,
                                 FileBlock begin, FileBlock end) {
  constexpr unsigned kExtents = 16;
  FileBlock stop = end;
  unsigned seen = 0;
  ExtentInfo shared;
  PINDAX_TRY(ExtentReader(tx, slot).scan(begin, end, [&](const ExtentInfo& e) {
    if (e.shared)
      shared = clip_extent(e, begin, end);
    else if (seen + 1 == kExtents)
      stop = std::min(end, e.file_end());
    return !e.shared && ++seen < kExtents;
  }));
  if (shared.length == 0) return stop;
  // One shared extent a step, as far as its counts can be changed at once.
  PINDAX_ASSIGN(const u64 blocks, fs.allocator().countable(tx, {shared.block, shared.length}));
  return shared.file_block + blocks;
}

}  // namespace pindax
