// SPDX-License-Identifier: BSD-3-Clause
#include "journal/record.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"

namespace pindax {
namespace {

using format::RecordHeader;
using format::RecordRange;

// Changes nearer than this are logged as one: a range's header is as long.
constexpr u32 kJoinGap = sizeof(RecordRange);
constexpr u32 kWord = 8;

bool word_differs(const std::byte* a, const std::byte* b) {
  u64 x, y;
  std::memcpy(&x, a, kWord);
  std::memcpy(&y, b, kWord);
  return x != y;
}

u32 epoch_seed(u64 epoch) {
  const le64 bytes = epoch;
  return crc32c(&bytes, sizeof bytes);
}

// crc32c of the words times an odd number. A struct that ends with its own crc32c is a codeword of that code: a plain sum
// would not see it replaced by another valid struct, which is what a torn record over an older one of equal shape may do.
u32 record_sum(const std::byte* record, std::size_t length, u64 epoch) {
  u32 sum = epoch_seed(epoch);
  le64 words[64];
  while (length != 0) {
    const std::size_t n = std::min(length, sizeof words);
    std::memcpy(words, record, n);
    for (std::size_t i = 0; i < n / kWord; ++i) words[i] = words[i] * format::kRecordSumFactor;
    sum = crc32c(words, n, sum);
    record += n;
    length -= n;
  }
  return sum;
}

}  // namespace

u64 changed_lines(PoolOffset at, u32 length) {
  const u64 first = (at.value & kBlockMask) / kCacheLineSize;
  const u64 last = ((at.value & kBlockMask) + length - 1) / kCacheLineSize;
  const u64 n = last - first + 1;
  return (n == 64 ? ~u64{0} : (u64{1} << n) - 1) << first;
}

RecordBuilder::RecordBuilder() {
  bytes_.reserve(1024);
  bytes_.resize(sizeof(RecordHeader));
}

void RecordBuilder::add_range(PoolOffset at, const std::byte* bytes, u32 length, u32 flags) {
  RecordRange range{};
  range.offset = at.value;
  range.length_bytes = length;
  range.flags = flags;
  const std::size_t start = bytes_.size();
  bytes_.resize(start + sizeof range + round_up(length, kWord));
  std::memcpy(bytes_.data() + start, &range, sizeof range);
  if (length != 0) std::memcpy(bytes_.data() + start + sizeof range, bytes, length);
  ++range_count_;
}

u64 RecordBuilder::add_whole(PoolOffset at, const std::byte* bytes, u32 length) {
  add_range(at, bytes, length, 0);
  return changed_lines(at, length);
}

void RecordBuilder::add_revoke(BlockNo block) { add_range(block_offset(block), nullptr, 0, format::kRangeRevoke); }

u64 RecordBuilder::add_changes(PoolOffset at, const std::byte* before, const std::byte* after, u32 length) {
  const std::size_t start = bytes_.size();
  const u32 ranges_before = range_count_;
  u64 lines = 0;
  u32 i = 0;
  while (i < length) {
    if (!word_differs(before + i, after + i)) {
      i += kWord;
      continue;
    }
    const u32 begin = i;
    u32 end = i + kWord;
    for (i = end; i < length && i - end < kJoinGap; i += kWord)
      if (word_differs(before + i, after + i)) end = i + kWord;
    add_range(at + begin, after + begin, end - begin, 0);
    lines |= changed_lines(at + begin, end - begin);
    i = end;
  }
  if (bytes_.size() - start > max_encoded_bytes(length)) {
    bytes_.resize(start);
    range_count_ = ranges_before;
    return add_whole(at, after, length);
  }
  return lines;
}

void RecordBuilder::finish(Lsn lsn, u64 epoch) {
  RecordHeader h{};
  h.magic = format::kRecordMagic;
  h.lsn = lsn.value;
  h.epoch = epoch;
  h.length_bytes = static_cast<u32>(bytes_.size());
  h.range_count = range_count_;
  std::memcpy(bytes_.data(), &h, sizeof h);
  seal_record(bytes_, epoch);
}

void seal_record(std::vector<std::byte>& record, u64 epoch) {
  auto* header = reinterpret_cast<RecordHeader*>(record.data());
  header->crc = 0;
  header->crc = record_sum(record.data(), record.size(), epoch);
}

bool plausible_record(const RecordHeader& header, Lsn lsn, u64 epoch, u64 bytes_max) {
  return header.magic == format::kRecordMagic && header.lsn == lsn.value && header.epoch == epoch &&
         header.length_bytes >= sizeof header && header.length_bytes % kWord == 0 && header.length_bytes <= bytes_max;
}

bool valid_record(std::vector<std::byte>& record, u64 epoch) {
  auto* header = reinterpret_cast<RecordHeader*>(record.data());
  const u32 crc = header->crc;
  header->crc = 0;
  return record_sum(record.data(), record.size(), epoch) == crc;
}

Status for_each_range(const std::vector<std::byte>& record, const format::Geometry& geometry,
                      const std::function<Status(const RangeView&)>& visit) {
  const Status bad(Errc::kCorrupt, "journal record with a range that leaves its bounds: run fsck");
  const u32 count = reinterpret_cast<const RecordHeader*>(record.data())->range_count;
  u64 at = sizeof(RecordHeader);
  for (u32 i = 0; i < count; ++i) {
    RecordRange range;
    if (record.size() - at < sizeof range) return bad;
    std::memcpy(&range, record.data() + at, sizeof range);
    at += sizeof range;
    const u64 offset = range.offset, block = offset >> kBlockShift;
    const u32 length = range.length_bytes;
    const bool revoke = range.flags == format::kRangeRevoke;
    if (range.flags != 0 && !revoke) return bad;
    if (revoke ? length != 0 || offset % kBlockSize != 0 : length == 0 || length > kBlockSize - offset % kBlockSize)
      return bad;
    if (block >= geometry.pool_blocks) return bad;
    if (block >= geometry.journal_block && block < geometry.journal_block + geometry.journal_blocks) return bad;
    if (record.size() - at < round_up(length, kWord)) return bad;
    PINDAX_TRY(visit({PoolOffset(offset), record.data() + at, length, revoke}));
    at += round_up(length, kWord);
  }
  return at == record.size() ? Status() : bad;
}

}  // namespace pindax
