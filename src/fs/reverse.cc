// SPDX-License-Identifier: BSD-3-Clause
//
// From blocks to files. There is no reverse map on media (AgHeader::reverse_map_root stays a hook): it would
// cost every allocation, free and copy-on-write a second tree insertion and more journal, for a question that
// is asked when a block is bad or a person is curious. So the inodes are looked through, those of the block's
// own group first, where most blocks have their owner, until as many owners are found as the share counts say
// there are.
#include <algorithm>

#include "fs/file_data.h"

namespace pindax {

namespace {

u64 found_blocks(const FileSystem::OwnerScan& scan) {
  u64 sum = 0;
  for (const auto& o : scan.owners) sum += o.run.length;
  return sum;
}

}  // namespace

void FileSystemImpl::each_inode_in(BlockNo block, const std::function<void(Inode&)>& f) {
  for (u64 slot = 0; slot < format::kInodesPerBlock; ++slot) {
    const auto inode = get(InodeNo(block.value * format::kInodesPerBlock + slot), 0);
    if (inode.ok()) f(**inode);
  }
}

Result<bool> FileSystemImpl::find_owners(OwnerScan& scan) {
  const format::Geometry& g = store_->geometry();
  if (!scan.started) {
    if (scan.run.length == 0 || !g.is_data(scan.run.start, scan.run.length))
      return Status(Errc::kInvalid, "no run of data blocks of one allocation group");
    scan.started = true;
    scan.next = scan.stop = BlockNo(g.ag_start(g.ag_of(scan.run.start)));
    PINDAX_ASSIGN(const auto owned, allocator_->owners(scan.run, nullptr));
    for (const auto& o : owned) scan.counted += o.run.length * o.owners;
  }
  for (u64 n = 0; n < kInodeBlocksAtOnce; ++n) {
    PINDAX_ASSIGN(const auto block, allocator_->next_inode_block(scan.next));
    if (scan.wrapped && (!block || *block >= scan.stop)) return false;
    if (!block) {
      scan.wrapped = true;
      scan.next = BlockNo(0);
      continue;
    }
    scan.next = *block + 1;
    each_inode_in(*block, [&](Inode& inode) { find_in_file(inode, scan); });
    if (found_blocks(scan) >= scan.counted) return false;
  }
  return true;
}

// A damaged file has its own finder: it does not end the search.
void FileSystemImpl::find_in_file(Inode& inode, OwnerScan& scan) {
  ReadLock lock(inode.mutex);
  const auto slot = read_slot(inode);
  if (!slot.ok() || !is_regular(**slot)) return;
  (void)ExtentReader(*store_, **slot)
      .scan(FileBlock(0), end_block(format::kMaxFileBytes), [&](const ExtentInfo& e) {
        const BlockNo begin = std::max(e.block, scan.run.start),
                      end = std::min(e.block + e.length, scan.run.end());
        if (begin < end)
          scan.owners.push_back(
              {inode.ino, byte_of(e.file_block + (begin - e.block)), {begin, end - begin}, e.shared});
        return true;
      });
}

}  // namespace pindax
