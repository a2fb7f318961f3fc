// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <vector>

#include "catch.h"
#include "format/decode.h"

using namespace pindax;
using namespace pindax::format;

namespace {

std::vector<u64> sizes() {
  std::vector<u64> out;
  for (u64 shift = 23; shift <= 48; ++shift)
    for (i64 delta : {i64{0}, i64{1}, i64{4096}, i64{4096 * 200}, i64{4096 * 256}, i64{4096 * 257}, i64{1} << 22}) {
      const u64 size = (u64{1} << shift) + static_cast<u64>(delta);
      if (size <= kMaxPoolBytes) out.push_back(size);
      if (delta != 0 && (u64{1} << shift) - static_cast<u64>(delta) >= kMinPoolBytes)
        out.push_back((u64{1} << shift) - static_cast<u64>(delta));
    }
  return out;
}

}  // namespace

TEST_CASE("geometry: in a pool of any size everything lies inside its group, in order") {
  for (u64 size : sizes()) {
    CAPTURE(size);
    auto planned = plan_geometry(size);
    REQUIRE(planned.ok());
    const Geometry g = *planned;
    CHECK(g.pool_blocks * kBlockSize <= size);
    CHECK(size - g.pool_blocks * kBlockSize < kMinLastAgBlocks * kBlockSize + kBlockSize);
    CHECK(g.ag_blocks >= kMinAgBlocks);
    CHECK(g.ag_blocks <= kMaxAgBlocks);
    CHECK(g.ag_blocks % (kHugePageSize / kBlockSize) == 0);
    CHECK(g.ag_length(0) == g.ag_blocks);
    CHECK(g.journal_block + g.journal_blocks == g.state_block);
    CHECK(g.state_block < g.ag_length(0));
    CHECK(g.ag_start(g.ag_count - 1) + g.ag_length(g.ag_count - 1) == g.pool_blocks);
    for (u32 ag : {u32{0}, g.ag_count / 2, g.ag_count - 1}) {
      CHECK(g.ag_length(ag) >= kMinLastAgBlocks);
      CHECK(u64{g.bitmap_blocks(ag)} * kBitmapBits >= g.ag_length(ag));
      CHECK(g.ag_header(ag).value == g.ag_start(ag) + kAgReservedBlocks);
      CHECK(g.bitmap(ag, 0) == g.ag_header(ag) + 1);
      CHECK(g.inode_bitmap(ag, 0) == g.bitmap(ag, g.bitmap_blocks(ag)));
      CHECK(g.first_data(ag) >= g.inode_bitmap(ag, g.bitmap_blocks(ag)));
      CHECK(g.first_data(ag).value < g.ag_start(ag) + g.ag_length(ag));
      CHECK(g.ag_of(g.first_data(ag)) == ag);
      const u64 end = g.ag_start(ag) + g.ag_length(ag);
      CHECK(g.is_data(g.first_data(ag), end - g.first_data(ag).value));
      CHECK_FALSE(g.is_data(g.first_data(ag), end - g.first_data(ag).value + 1));
      CHECK_FALSE(g.is_data(g.first_data(ag) - 1, 1));
      CHECK_FALSE(g.is_data(BlockNo(end - 1), 2));
    }
    CHECK_FALSE(g.is_data(BlockNo(g.pool_blocks), 1));
    CHECK_FALSE(g.is_data(g.first_data(0), 0));
    CHECK_FALSE(g.is_data(g.first_data(0), ~u64{0}));
    CHECK_FALSE(g.is_data(BlockNo(~u64{0}), 2));
  }
}

TEST_CASE("geometry: a pool too small or too large is refused with advice") {
  CHECK(plan_geometry(kMinPoolBytes - 1).code() == Errc::kInvalid);
  CHECK(plan_geometry(0).code() == Errc::kInvalid);
  CHECK(plan_geometry(kMaxPoolBytes + 1).code() == Errc::kInvalid);
  CHECK(std::string(plan_geometry(0).status().message()).find("larger") != std::string::npos);
}
