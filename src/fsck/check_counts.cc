// SPDX-License-Identifier: BSD-3-Clause
//
// Bitmaps and counts against what the walk claimed.
#include <bit>

#include "alloc/media_counts.h"
#include "fmt/format.h"
#include "fsck/checker.h"
#include "fsck/expected.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;

namespace {

u64 word_of(const u8* bits, u64 bit) {
  le64 word;
  std::memcpy(&word, bits + bit / 8, sizeof word);
  return word;
}

}  // namespace

void Checker::check_bitmap_block(u32 ag, u32 index, u64& free_blocks) {
  const std::string where = fmt::format("allocation group {}", ag);
  u8 expected[sizeof(format::BitmapBlock::bits)];
  expected_blocks(geometry_, used_, ag, index, expected);
  for (u64 bit = 0; bit < format::kBitmapBits; bit += 64)
    free_blocks += 64 - static_cast<u64>(std::popcount(word_of(expected, bit)));
  const auto view = media_counts::read_bitmap(store_, ag, index, media_counts::kBlockBitmap);
  if (!view.ok()) {
    find(kError, "bitmap", where, fmt::format("{}; it is built anew", view.status().message()));
    return;
  }
  u64 leaked = 0, unmarked = 0, first_leaked = 0, first_unmarked = 0;
  const u64 base = geometry_.ag_start(ag) + u64{index} * format::kBitmapBits;
  for (u64 bit = 0; bit < format::kBitmapBits; bit += 64) {
    const u64 want = word_of(expected, bit), has = word_of(view->as<format::BitmapBlock>().bits, bit);
    if (want == has) continue;
    if ((has & ~want) != 0 && leaked == 0) first_leaked = base + bit + static_cast<u64>(std::countr_zero(has & ~want));
    if ((want & ~has) != 0 && unmarked == 0) first_unmarked = base + bit + static_cast<u64>(std::countr_zero(want & ~has));
    leaked += static_cast<u64>(std::popcount(has & ~want));
    unmarked += static_cast<u64>(std::popcount(want & ~has));
  }
  if (leaked != 0)
    find(kWarning, "bitmap", where, fmt::format("{} blocks are marked used, but nobody has them (first: {})", leaked, first_leaked));
  if (unmarked != 0)
    find(kError, "bitmap", where, fmt::format("{} blocks in use are marked free (first: {})", unmarked, first_unmarked));
}

void Checker::check_bitmaps() {
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    progress("bitmaps", ag, geometry_.ag_count);
    u64 free_blocks = 0;
    for (u32 index = 0; index < geometry_.bitmap_blocks(ag); ++index) {
      check_bitmap_block(ag, index, free_blocks);
      if (bad_inode_bitmaps_.contains({ag, index})) continue;
      u8 expected[sizeof(format::BitmapBlock::bits)];
      expected_inode_blocks(geometry_, inode_blocks_, ag, index, expected);
      const auto view = media_counts::read_bitmap(store_, ag, index, media_counts::kInodeBitmap);
      if (view.ok() && std::memcmp(expected, view->as<format::BitmapBlock>().bits, sizeof expected) != 0)
        find(kError, "bitmap", fmt::format("allocation group {}", ag), "inode blocks are not marked as they are");
    }
    group_free_ += free_blocks;
    if (!headers_[ag]) continue;
    const GroupCounts c = expected_counts(*this, ag);
    const format::AgHeader& h = *headers_[ag];
    if (h.free_blocks != free_blocks || h.inode_blocks != c.inode_blocks || h.free_inodes != c.free_inodes)
      find(kWarning, "counts", fmt::format("allocation group {}", ag),
           fmt::format("says {} free blocks, {} inode blocks, {} free inodes; has {}, {}, {}", h.free_blocks.get(),
                       h.inode_blocks.get(), h.free_inodes.get(), free_blocks, c.inode_blocks, c.free_inodes));
  }
}

void Checker::check_totals() {
  u64 data = 0, in_use = 0;
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag)
    data += geometry_.ag_start(ag) + geometry_.ag_length(ag) - geometry_.first_data(ag).value;
  for (const InodeFacts& f : facts_) in_use += f.mode != 0 ? 1 : 0;
  report_.total_blocks = data;
  report_.used_blocks = data - group_free_;
  if (plan_.rewrite_state) return;
  const auto compare = [&](const char* what, u64 says, u64 has) {
    if (says != has) find(kWarning, "counts", "state record", fmt::format("says {} {}, has {}", says, what, has));
  };
  compare("free blocks", state_.free_blocks, group_free_);
  compare("inodes in use", state_.inodes_used, in_use);
  compare("inode slots", state_.inodes_allocated, facts_.size());
  if (!plan_.trees.contains({0, TreeKind::kQuarantine})) compare("quarantined blocks", state_.quarantine_blocks, quarantined_);
  if (!plan_.trees.contains({0, TreeKind::kBadBlocks})) {
    compare("bad blocks", state_.bad_blocks, bad_records_.size());
    compare("retired blocks", state_.retired_blocks, retired_);
  }
  if (state_.next_generation <= max_generation_)
    find(kWarning, "counts", "state record",
         fmt::format("would give out generation {} again", state_.next_generation.get()));
}

}  // namespace pindax::fsck_detail
