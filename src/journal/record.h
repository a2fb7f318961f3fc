// SPDX-License-Identifier: BSD-3-Clause
//
// Records of the journal: building one from objects and their committed bytes, and walking one that was read back.
// A record is RecordHeader, then ranges. Ranges are applied in order; later ones win.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"
#include "format/decode.h"

namespace pindax {

class RecordBuilder {
 public:
  RecordBuilder();

  // Adds what differs between the object's old and new bytes. Returns the changed lines of its block, a bit per 64 bytes.
  u64 add_changes(PoolOffset at, const std::byte* before, const std::byte* after, u32 length);
  // Adds the bytes as they are.
  u64 add_whole(PoolOffset at, const std::byte* bytes, u32 length);
  void add_revoke(BlockNo block);

  bool empty() const { return range_count_ == 0; }
  u64 size() const { return bytes_.size(); }
  // Fills in the header. The bytes are then ready for the ring.
  void finish(Lsn lsn, u64 epoch);
  const std::byte* data() const { return bytes_.data(); }

 private:
  void add_range(PoolOffset at, const std::byte* bytes, u32 length, u32 flags);

  std::vector<std::byte> bytes_;
  u32 range_count_ = 0;
};

// The lines of its block that [at, at + length) touches, a bit per 64 bytes. length > 0.
u64 changed_lines(PoolOffset at, u32 length);

// The most that add_changes or add_whole takes for an object.
constexpr u64 max_encoded_bytes(u64 length) { return sizeof(format::RecordRange) + round_up(length, 8); }

// Fills in the sum of a record whose other bytes are complete; a multiple of 8 of them.
void seal_record(std::vector<std::byte>& record, u64 epoch);

// True if `header` can begin the record at `lsn`: the rest of it may be read.
bool plausible_record(const format::RecordHeader& header, Lsn lsn, u64 epoch, u64 bytes_max);
// True if the whole record is as it was written. Changes the crc field of `record` to zero.
bool valid_record(std::vector<std::byte>& record, u64 epoch);

struct RangeView {
  PoolOffset at;
  const std::byte* bytes;
  u32 length;
  bool revoke;
};
// Visits the ranges of a valid record. kCorrupt if one leaves the record, its block, the pool or touches the journal.
Status for_each_range(const std::vector<std::byte>& record, const format::Geometry& geometry,
                      const std::function<Status(const RangeView&)>& visit);

}  // namespace pindax
