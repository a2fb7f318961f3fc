// SPDX-License-Identifier: BSD-3-Clause
//
// The list of bad blocks. A bad block is never free: somebody has it (then the list says "in use", and what it held is named), or
// it is retired and its bit stays set. One that was freed and not retired yet is what a crash leaves.
#include <cstring>

#include "alloc/media_counts.h"
#include "fmt/format.h"
#include "fsck/checker.h"
#include "tree/tree.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;
using format::BadBlockState;
using format::BadBlockValue;

void Checker::note_bad_record(u64 key, TreeBytes value) {
  BadBlockValue v{};
  const bool good = format::check_value(TreeKind::kBadBlocks, value).ok() && key < geometry_.pool_blocks;
  if (good) {
    std::memcpy(&v, value.data(), sizeof v);
    bad_records_[key] = v;
    return;
  }
  find(kError, "bad blocks", fmt::format("block {}", key), "record makes no sense; it is dropped");
  plan_.trees.insert({0, TreeKind::kBadBlocks});
}

// The extent is claimed.
void Checker::note_damage(u64 ino, const format::ExtentInfo& e) {
  if (e.state == format::ExtentState::kUnwritten) return;
  for (auto it = bad_records_.lower_bound(e.block.value); it != bad_records_.end() && it->first < e.block.value + e.length; ++it) {
    const u64 offset = (e.file_block.value + (it->first - e.block.value)) << kBlockShift;
    FsckReport::Damage* last = damage_.empty() ? nullptr : &damage_.back();
    if (last != nullptr && last->inode == ino && last->offset_bytes + last->length_bytes == offset &&
        last->block + (last->length_bytes >> kBlockShift) == it->first)
      last->length_bytes += kBlockSize;
    else
      damage_.push_back({{}, ino, offset, kBlockSize, it->first});
  }
}

namespace {

bool bit_of(const MetaView& bitmap, u64 bit) {
  return (bitmap.as<format::BitmapBlock>().bits[bit / 8] >> (bit % 8) & 1) != 0;
}

}  // namespace

// All claims are made. What is retired counts as claimed from here on.
void Checker::check_bad_blocks() {
  retired_ = 0;
  for (auto& [block, record] : bad_records_) {
    const std::string where = fmt::format("block {}", block);
    const bool retired = record.state == static_cast<u32>(BadBlockState::kRetired);
    const bool claimed = !geometry_.is_data(BlockNo(block), 1) || used_.test(block);
    if (claimed && retired) {
      find(kWarning, "bad blocks", where, "is called retired, but somebody has it");
      record.state = static_cast<u32>(BadBlockState::kInUse);
      plan_.trees.insert({0, TreeKind::kBadBlocks});
    } else if (!claimed) {
      const u32 ag = geometry_.ag_of(BlockNo(block));
      const u64 bit = block - geometry_.ag_start(ag);
      const auto bitmap =
          media_counts::read_bitmap(store_, ag, static_cast<u32>(bit / format::kBitmapBits), media_counts::kBlockBitmap);
      if (!retired && bitmap.ok() && !bit_of(*bitmap, bit % format::kBitmapBits)) {
        find(kNote, "bad blocks", where, "was given up; the next mount retires it");
        continue;
      }
      if (!retired) {
        find(kWarning, "bad blocks", where, "is called used, but nobody has it; it is retired");
        record.state = static_cast<u32>(BadBlockState::kRetired);
        plan_.trees.insert({0, TreeKind::kBadBlocks});
      }
      used_.set(block);
      ++retired_;
    }
  }
  report_.bad_blocks = bad_records_.size();
  report_.retired_blocks = retired_;
}

// Names are known by now. Lost bytes are no damage of the file system: it goes on as it is, and only the files' owners can help.
void Checker::tell_damage() {
  std::set<u64> owned;
  for (FsckReport::Damage& d : damage_) {
    d.path = path_of(d.inode);
    for (u64 b = 0; b < d.length_bytes >> kBlockShift; ++b) owned.insert(d.block + b);
    find(kNote, "bad blocks", d.path.empty() ? name_of(d.inode) : d.path,
         fmt::format("{} bytes at offset {} are lost (block {} of the pool is bad): write them again, or remove the file", d.length_bytes,
                     d.offset_bytes, d.block));
  }
  for (const auto& [block, record] : bad_records_)
    if (record.state == static_cast<u32>(BadBlockState::kInUse) && !owned.contains(block) && block_used(block))
      find(kNote, "bad blocks", fmt::format("block {}", block), "is bad and in use, but holds no bytes of a file: metadata, or blocks that were never written");
  report_.damage = damage_;
}

std::map<u64, std::vector<std::byte>> Checker::expected_bad_blocks() const {
  std::map<u64, std::vector<std::byte>> items;
  for (const auto& [block, record] : bad_records_) {
    const auto bytes = std::as_bytes(std::span(&record, 1));
    items.emplace(block, std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  return items;
}

// By the records of parents; empty if they lead nowhere.
std::string Checker::path_of(u64 ino) {
  constexpr unsigned kMostLevels = 4096;
  std::string path;
  for (unsigned level = 0; level < kMostLevels; ++level) {
    if (ino == sb_.root_inode) return path.empty() ? "/" : path;
    const auto child = slot(ino);
    if (!child.ok() || index_of(ino) == kNoIndex) return {};
    const u64 dir = child->as<format::Inode>().parent, key = child->as<format::Inode>().parent_key;
    if (index_of(dir) == kNoIndex) return {};
    const auto parent = slot(dir);
    if (!parent.ok() || (parent->as<format::Inode>().mode & 0170000) != 0040000) return {};
    TreeReader reader(store_, {BlockNo(parent->as<format::Inode>().body.root), TreeKind::kDirectory, dir});
    const auto entry = reader.find(key);
    if (!entry.ok() || !format::check_value(TreeKind::kDirectory, *entry).ok()) return {};
    format::DirectoryValue v;
    std::memcpy(&v, entry->data(), sizeof v);
    if (v.inode != ino) return {};
    path = "/" + std::string(reinterpret_cast<const char*>(entry->data()) + sizeof v, v.name_length) + path;
    ino = dir;
  }
  return {};
}

}  // namespace pindax::fsck_detail
