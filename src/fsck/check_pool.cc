// SPDX-License-Identifier: BSD-3-Clause
//
// State record, AG headers, which blocks hold inodes, and the trees that belong to no inode.
#include <algorithm>
#include <cstring>

#include "alloc/media_counts.h"
#include "fmt/format.h"
#include "fsck/checker.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;

namespace {

std::string group_name(u32 ag) { return fmt::format("allocation group {}", ag); }

// What every slot of an inode block has, whatever its checksum says.
bool is_slot(const format::Inode& slot, InodeNo ino) {
  return slot.magic == format::kInodeMagic && slot.self == ino.value;
}

}  // namespace

void Checker::check_state() {
  const BlockNo self(geometry_.state_block);
  const auto view = store_.view(block_offset(self), sizeof(format::StateRecord));
  const Status s = view.ok() ? format::check_state(view->as<format::StateRecord>(), self) : view.status();
  if (s.ok()) {
    state_ = view->as<format::StateRecord>();
    return;
  }
  find(kError, "state", fmt::format("block {}", self.value), std::string(s.message()));
  plan_.rewrite_state = true;
  plan_.rebuild_orphans = true;
  plan_.trees.insert({0, TreeKind::kQuarantine});
}

void Checker::check_groups() {
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    progress("allocation groups", ag, geometry_.ag_count);
    check_group(ag);
  }
  std::sort(inode_blocks_.begin(), inode_blocks_.end());
  inode_blocks_.erase(std::unique(inode_blocks_.begin(), inode_blocks_.end()), inode_blocks_.end());
  facts_.assign(inode_blocks_.size() * format::kInodesPerBlock, {});
  for (const u64 block : inode_blocks_) claim_metadata(block);
}

void Checker::check_group(u32 ag) {
  const auto header = media_counts::read_header(store_, ag);
  if (header.ok()) {
    const auto& h = header->as<format::AgHeader>();
    headers_[ag] = h;
    if (h.blocks != geometry_.ag_length(ag) || h.first_data_block != geometry_.first_data(ag).value ||
        h.bitmap_blocks != geometry_.bitmap_blocks(ag)) {
      find(kError, "allocation group", group_name(ag), "header does not fit the pool's geometry");
      plan_.bad_headers.insert(ag);
    }
  } else {
    find(kError, "allocation group", group_name(ag), std::string(header.status().message()));
    plan_.bad_headers.insert(ag);
  }
  for (u32 index = 0; index < geometry_.bitmap_blocks(ag); ++index) load_inode_bitmap(ag, index);
  const u64 root_block = sb_.root_inode / format::kInodesPerBlock;
  if (geometry_.ag_of(BlockNo(root_block)) == ag) consider_inode_block(root_block);
}

void Checker::load_inode_bitmap(u32 ag, u32 index) {
  const auto view = media_counts::read_bitmap(store_, ag, index, media_counts::kInodeBitmap);
  if (!view.ok()) {
    find(kError, "bitmap", group_name(ag),
         fmt::format("{}; inode blocks are looked for in the group", view.status().message()));
    bad_inode_bitmaps_.insert({ag, index});
    return search_inode_blocks(ag, index);
  }
  SparseBits bits;
  bits.load(0, view->as<format::BitmapBlock>().bits);
  for (u64 bit = bits.next_set(0); bit != ~u64{0}; bit = bits.next_set(bit + 1)) {
    const u64 in_group = u64{index} * format::kBitmapBits + bit;
    const u64 block = geometry_.ag_start(ag) + in_group;
    if (in_group < geometry_.ag_length(ag) && geometry_.is_data(BlockNo(block), 1)) {
      consider_inode_block(block);
    } else {
      find(kError, "bitmap", group_name(ag), fmt::format("block {} cannot hold inodes", block));
      bad_inode_bitmaps_.insert({ag, index});
    }
  }
}

// The inode bitmap is lost: a block that says of itself that it holds these very inodes is believed if all its slots do.
void Checker::search_inode_blocks(u32 ag, u32 index) {
  const u64 begin = u64{index} * format::kBitmapBits;
  const u64 end = std::min(begin + format::kBitmapBits, geometry_.ag_length(ag));
  const auto allocated = media_counts::read_bitmap(store_, ag, index, media_counts::kBlockBitmap);
  for (u64 bit = begin; bit < end; ++bit) {
    const u64 block = geometry_.ag_start(ag) + bit;
    if (!geometry_.is_data(BlockNo(block), 1)) continue;
    if (allocated.ok() &&
        (allocated->as<format::BitmapBlock>().bits[(bit - begin) / 8] >> ((bit - begin) % 8) & 1) == 0)
      continue;
    const auto view = store_.view(block_offset(BlockNo(block)), kBlockSize);
    if (!view.ok()) continue;
    unsigned good = 0;
    for (u32 i = 0; i < format::kInodesPerBlock; ++i) {
      const InodeNo ino(block * format::kInodesPerBlock + i);
      if (format::check_inode(*reinterpret_cast<const format::Inode*>(view->data() + i * format::kInodeSize), ino).ok()) ++good;
    }
    if (good == format::kInodesPerBlock) inode_blocks_.push_back(block);
  }
}

// A marked block of which no slot looks like one is no inode block: the mark is wrong, or nothing in it can be saved.
void Checker::consider_inode_block(u64 block) {
  const auto view = store_.view(block_offset(BlockNo(block)), kBlockSize);
  bool any = block == sb_.root_inode / format::kInodesPerBlock;
  for (u32 i = 0; view.ok() && i < format::kInodesPerBlock; ++i)
    any = any || is_slot(*reinterpret_cast<const format::Inode*>(view->data() + i * format::kInodeSize),
                         InodeNo(block * format::kInodesPerBlock + i));
  if (any) {
    inode_blocks_.push_back(block);
    return;
  }
  find(kError, "inode", fmt::format("block {}", block), "is marked as inode block, but none of its slots can be recognized");
}

void Checker::check_global_trees() {
  check_tree({BlockNo(state_.orphan_root), TreeKind::kOrphans, 0}, "orphans", [&](u64 key, TreeBytes value) {
    InodeFacts* f = facts(key);
    ++orphans_listed_;
    if (format::check_value(TreeKind::kOrphans, value).ok() && f != nullptr && f->mode != 0) {
      f->listed = 1;
      return;
    }
    find(kError, "orphans", name_of(key), "is on the orphan list but is no inode in use");
    plan_.rebuild_orphans = true;
  }, nullptr);
  if (plan_.trees.erase({0, TreeKind::kOrphans}) != 0) plan_.rebuild_orphans = true;
  check_tree({BlockNo(state_.bad_root), TreeKind::kBadBlocks, 0}, "bad blocks",
             [&](u64 key, TreeBytes value) { note_bad_record(key, value); }, nullptr);
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    check_tree({BlockNo(refcount_root(ag)), TreeKind::kRefcount, ag}, "share counts",
               [&](u64 key, TreeBytes value) { note_share_record(ag, key, value); }, nullptr);
    check_tree({BlockNo(reverse_root(ag)), TreeKind::kReverse, ag}, "allocation group", [](u64, TreeBytes) {}, nullptr);
  }
}

// After all files: what a file has is not in quarantine.
void Checker::check_quarantine() {
  const auto bad = [&](u64 key, const char* why) {
    find(kError, "quarantine", fmt::format("block {}", key), why);
    plan_.trees.insert({0, TreeKind::kQuarantine});
  };
  check_tree({BlockNo(state_.quarantine_root), TreeKind::kQuarantine, 0}, "quarantine", [&](u64 key, TreeBytes value) {
    if (!format::check_value(TreeKind::kQuarantine, value).ok()) return bad(key, "record makes no sense");
    format::QuarantineValue v;
    std::memcpy(&v, value.data(), sizeof v);
    if (!geometry_.is_data(BlockNo(key), v.length_blocks)) return bad(key, "run is not in the data blocks of one group");
    for (u64 b = key; b < key + v.length_blocks; ++b)
      if (used_.test(b)) return bad(key, "run belongs to somebody else as well");
    for (u64 b = key; b < key + v.length_blocks; ++b) used_.set(b);
    quarantined_ += v.length_blocks;
    quarantine_runs_[key] = v.length_blocks;
  }, nullptr);
}

}  // namespace pindax::fsck_detail
