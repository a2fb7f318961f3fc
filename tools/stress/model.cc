// SPDX-License-Identifier: BSD-3-Clause
#include "stress/model.h"

#include <fmt/format.h>
#include <linux/falloc.h>

#include <algorithm>

#include "stress/random.h"

namespace pindax::stress {

void FileModel::put(u64 offset, const u8* from, u64 length, u64 step) {
  if (length == 0) return;
  if (offset + length > size()) resize(offset + length, step);
  std::copy(from, from + length, bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  std::fill_n(writer_.begin() + static_cast<std::ptrdiff_t>(offset), length, static_cast<u32>(step));
  allocate({offset, offset + length});
}

void FileModel::put_pattern(u64 offset, u64 length, u64 seed, u64 seed_offset, u64 step) {
  std::vector<u8> bytes(length);
  fill_pattern(bytes.data(), seed, seed_offset, length);
  put(offset, bytes.data(), length, step);
}

void FileModel::clear(ByteRange range, u64 step) {
  for (u64 i = range.begin; i < std::min(range.end, size()); ++i) {
    bytes_[i] = 0;
    writer_[i] = static_cast<u32>(step);
  }
}

void FileModel::resize(u64 size, u64 step) {
  bytes_.resize(size, 0);
  writer_.resize(size, static_cast<u32>(step));
}

void FileModel::remove(ByteRange range, u64 step) {
  const auto begin = static_cast<std::ptrdiff_t>(range.begin), end = static_cast<std::ptrdiff_t>(range.end);
  bytes_.erase(bytes_.begin() + begin, bytes_.begin() + end);
  writer_.resize(bytes_.size());
  std::fill(writer_.begin() + begin, writer_.end(), static_cast<u32>(step));
  solid_.clear();
}

void FileModel::insert(u64 offset, u64 length, u64 step) {
  bytes_.insert(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), length, 0);
  writer_.resize(bytes_.size());
  std::fill(writer_.begin() + static_cast<std::ptrdiff_t>(offset), writer_.end(), static_cast<u32>(step));
  solid_.clear();
}

void FileModel::allocate(ByteRange range) {
  const ByteRange blocks = whole_blocks(range);
  if (solid_.size() < blocks.end / kBlockSize) solid_.resize(blocks.end / kBlockSize, false);
  for (u64 b = blocks.begin / kBlockSize; b < blocks.end / kBlockSize; ++b) solid_[b] = true;
}

void FileModel::free_inside(ByteRange range) {
  for (u64 b = blocks_for(range.begin); b < solid_.size() && (b + 1) * kBlockSize <= range.end; ++b) solid_[b] = false;
}

std::string FileModel::compare(u64 offset, const u8* got, u64 length) const {
  for (u64 i = 0; i < length; ++i) {
    const u64 at = offset + i;
    const u8 want = at < size() ? bytes_[at] : 0;
    if (got[i] == want) continue;
    u64 wrong = 0;
    for (u64 j = i; j < length; ++j) wrong += got[j] != (offset + j < size() ? bytes_[offset + j] : 0);
    return fmt::format("byte {} (block {}, {} in it) is 0x{:02x}, must be 0x{:02x}, last written by step {}; {} bytes of [{}, +{}) differ",
                       at, at / kBlockSize, at % kBlockSize, got[i], want, at < size() ? writer_[at] : 0, wrong, offset, length);
  }
  return {};
}

bool impossible_shift(const Step& s, const FileModel& file) {
  if ((s.mode & kShiftModes) == 0) return false;
  if ((s.offset | s.length) % kBlockSize != 0) return true;
  return (s.mode & FALLOC_FL_COLLAPSE_RANGE) != 0 ? s.offset + s.length >= file.size() : s.offset >= file.size();
}

ChangeReach reach_of(const Step& s, const FileModel& file) {
  if (s.op == Op::kTruncate) {
    if (s.offset == file.size()) {  // what fallocate put behind the end goes
      return {{round_down(file.size(), kBlockSize), kMaxOffset}, {}};
    }
    if (s.offset > file.size()) {  // the last block's rest is cleared
      return {{round_down(file.size(), kBlockSize), round_up(file.size(), kBlockSize)}, {}};
    }
    return {{round_down(s.offset, kBlockSize), kMaxOffset}, {s.offset, round_up(file.size(), kBlockSize)}};
  }
  const ByteRange range{s.offset, s.offset + s.length};
  if ((s.mode & kShiftModes) != 0)  // R27: everything from the offset on
    return impossible_shift(s, file) ? ChangeReach{} : ChangeReach{{s.offset, kMaxOffset}, {s.offset, round_up(file.size(), kBlockSize)}};
  ByteRange may = whole_blocks(range);
  if (range.end > file.size()) may.begin = std::min(may.begin, round_down(file.size(), kBlockSize));
  if ((s.mode & FALLOC_FL_PUNCH_HOLE) != 0) return {may, {range.begin, std::min(range.end, round_up(file.size(), kBlockSize))}};
  return {may, {}};
}

bool may_wait_for(const ChangeReach& reach, const PinModel& pin) { return pin.live && overlap(reach.may, whole_blocks(pin.range)); }

bool must_wait_for(const ChangeReach& reach, const PinModel& pin, const FileModel& file) {
  if (!pin.live || reach.frees.empty()) return false;
  for (u64 b = blocks_for(reach.frees.begin); (b + 1) * kBlockSize <= reach.frees.end; ++b)
    if (file.solid(b) && overlap(pin.range, {b * kBlockSize, (b + 1) * kBlockSize})) return true;
  return false;
}

void apply_change(const Step& s, FileModel& file, u64 number) {
  const ByteRange range{s.offset, s.offset + s.length};
  if (s.op == Op::kTruncate) {
    if (s.offset < file.size()) file.free_inside({s.offset, kMaxOffset});
    file.resize(s.offset, number);
  } else if ((s.mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    file.clear(range, number);
    file.free_inside(range);
  } else if ((s.mode & FALLOC_FL_COLLAPSE_RANGE) != 0) {
    file.remove(range, number);
  } else if ((s.mode & FALLOC_FL_INSERT_RANGE) != 0) {
    file.insert(s.offset, s.length, number);
  } else {
    if ((s.mode & FALLOC_FL_KEEP_SIZE) == 0 && range.end > file.size()) file.resize(range.end, number);
    if ((s.mode & FALLOC_FL_ZERO_RANGE) != 0) file.clear(range, number);
    else file.allocate(range);
  }
}

}  // namespace pindax::stress
