// SPDX-License-Identifier: BSD-3-Clause
#include "journal/record.h"

#include <cstring>

#include "base/crc32c.h"
#include "catch.h"
#include "journal_util.h"

using namespace pindax;
using namespace pindax::test;

namespace {

std::vector<std::byte> bytes_of(const RecordBuilder& b) { return {b.data(), b.data() + b.size()}; }

Status walk(const std::vector<std::byte>& record) {
  return for_each_range(record, small_geometry(), [](const RangeView&) { return Status(); });
}

// A record whose only range has these fields.
std::vector<std::byte> with_range(u64 offset, u32 length, u32 flags) {
  RecordBuilder b;
  std::byte content[16]{};
  b.add_whole(data_block(0), content, 16);
  b.finish(Lsn(0), 1);
  auto record = bytes_of(b);
  format::RecordRange range{offset, length, flags};
  std::memcpy(record.data() + sizeof(format::RecordHeader), &range, sizeof range);
  return record;
}

}  // namespace

TEST_CASE("record: applying what differs gives the new bytes, and never costs more than the whole object") {
  std::mt19937_64 rng(seed());
  for (int round = 0; round < 3000; ++round) {
    const u32 length = rng() % 2 == 0 ? 512 : 4096;
    std::vector<std::byte> before(length), after;
    for (auto& b : before) b = static_cast<std::byte>(rng());
    after = before;
    for (u64 n = rng() % (round % 3 == 0 ? 600 : 8); n-- > 0;) after[rng() % length] = static_cast<std::byte>(rng());
    RecordBuilder b;
    const u64 lines = b.add_changes(data_block(3), before.data(), after.data(), length);
    REQUIRE(b.size() <= sizeof(format::RecordHeader) + max_encoded_bytes(length));
    b.finish(Lsn(64), 7);
    auto record = bytes_of(b);
    REQUIRE(valid_record(record, 7));
    auto applied = before;
    u64 touched = 0;
    REQUIRE(for_each_range(record, small_geometry(), [&](const RangeView& r) {
              std::memcpy(applied.data() + (r.at - data_block(3)), r.bytes, r.length);
              touched |= changed_lines(r.at, r.length);
              return Status();
            }).ok());
    REQUIRE(applied == after);
    REQUIRE(touched == lines);
  }
}

TEST_CASE("record: a struct with its own crc32c cannot be exchanged for another valid one") {
  const auto sealed = [](std::byte fill) {
    std::vector<std::byte> bytes(kBlockSize, fill);
    const le32 crc = crc32c(bytes.data(), kBlockSize - 4);
    std::memcpy(bytes.data() + kBlockSize - 4, &crc, 4);
    return bytes;
  };
  const auto record_of = [](const std::vector<std::byte>& content) {
    RecordBuilder b;
    b.add_whole(data_block(0), content.data(), kBlockSize);
    b.finish(Lsn(4096), 7);
    return bytes_of(b);
  };
  const auto before = record_of(sealed(std::byte{'b'}));
  auto torn = record_of(sealed(std::byte{'c'}));
  constexpr u64 kContent = sizeof(format::RecordHeader) + sizeof(format::RecordRange);
  std::memcpy(torn.data() + kContent, before.data() + kContent, kBlockSize);
  CHECK_FALSE(valid_record(torn, 7));
}

TEST_CASE("record: any damage, another epoch or another place make it invalid") {
  RecordBuilder b;
  std::byte content[40]{};
  b.add_whole(data_block(0), content, 40);
  b.add_revoke(offset_block(data_block(1)));
  b.finish(Lsn(4096), 7);
  auto good = bytes_of(b);
  CHECK(valid_record(good, 7));
  for (std::size_t at = 0; at < good.size(); ++at) {
    auto bad = bytes_of(b);
    bad[at] ^= std::byte{1};
    CHECK_FALSE(valid_record(bad, 7));
  }
  auto other = bytes_of(b);
  CHECK_FALSE(valid_record(other, 8));
  auto again = bytes_of(b);
  const auto& header = *reinterpret_cast<const format::RecordHeader*>(again.data());
  CHECK(plausible_record(header, Lsn(4096), 7, again.size()));
  CHECK_FALSE(plausible_record(header, Lsn(4096), 7, again.size() - 8));
  CHECK_FALSE(plausible_record(header, Lsn(4104), 7, again.size()));
  CHECK_FALSE(plausible_record(header, Lsn(4096), 8, again.size()));
}

TEST_CASE("record: ranges that leave the record, their block or the pool, or touch the journal, are refused") {
  const auto g = small_geometry();
  CHECK(walk(with_range(data_block(0).value, 16, 0)).ok());
  CHECK(walk(with_range(data_block(0).value, 9, 0)).ok());
  CHECK(walk(with_range(data_block(0).value, 8, 0)).code() == Errc::kCorrupt);   // 8 bytes too many
  CHECK(walk(with_range(data_block(0).value, 17, 0)).code() == Errc::kCorrupt);  // too few
  CHECK(walk(with_range(data_block(0).value, ~u32{0}, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(data_block(0).value, 0, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(data_block(1).value - 8, 16, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(g.pool_blocks << kBlockShift, 16, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(~u64{0} - 15, 16, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(g.journal_block << kBlockShift, 16, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range((g.journal_block + g.journal_blocks - 1) << kBlockShift, 16, 0)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(g.state_block << kBlockShift, 16, 0)).ok());
  CHECK(walk(with_range(data_block(0).value, 16, 1)).code() == Errc::kCorrupt);
  CHECK(walk(with_range(data_block(0).value, 16, 2)).code() == Errc::kCorrupt);
}
