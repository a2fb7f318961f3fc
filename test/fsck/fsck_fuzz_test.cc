// SPDX-License-Identifier: BSD-3-Clause
//
// Random damage to metadata: fsck neither hangs nor crashes, and after at most two repairs it finds nothing. The file
// system can be mounted and walked then. PINDAX_SEED repeats a run.
#include <cstdlib>
#include <random>

#include "fsck_bench.h"

using namespace pindax;
using test::FsckBench;

TEST_CASE("fsck: random damage is repaired") {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  INFO("PINDAX_SEED=" << seed);
  std::mt19937_64 rng(seed);
  FsckBench b;
  const u64 bytes = b.media->size();
  std::vector<std::byte> good(bytes);
  REQUIRE(b.media->read(PoolOffset(0), good.data(), bytes).ok());
  std::vector<u64> metadata;  // blocks that say they are
  for (u64 block = 1; block < bytes / kBlockSize; ++block) {
    u32 magic;
    std::memcpy(&magic, good.data() + block * kBlockSize, sizeof magic);
    for (const u32 known : {format::kStateMagic, format::kAgMagic, format::kBitmapMagic, format::kInodeMagic,
                            format::kNodeMagic, format::kBlobMagic})
      if (magic == known) metadata.push_back(block);
  }
  for (int round = 0; round < 25; ++round) {
    REQUIRE(b.media->write(PoolOffset(0), good.data(), bytes).ok());
    std::string hits;
    for (u64 hit = 1 + rng() % 6; hit > 0; --hit) {
      const u64 block = metadata[rng() % metadata.size()];
      hits += std::to_string(block) + " ";
      std::vector<std::byte> content(good.begin() + static_cast<i64>(block * kBlockSize),
                                     good.begin() + static_cast<i64>((block + 1) * kBlockSize));
      if (rng() % 5 == 0) std::fill(content.begin(), content.end(), std::byte{0});
      for (u64 n = 1 + rng() % 12; n > 0; --n) content[rng() % kBlockSize] = static_cast<std::byte>(rng());
      const auto& h = *reinterpret_cast<const format::NodeHeader*>(content.data());
      // Half of the damage has a right checksum: the deeper checks must find it.
      if (rng() % 2 == 0) {
        if (h.magic == format::kNodeMagic) format::seal_node(content.data());
        if (h.magic == format::kBlobMagic) format::seal_blob(content.data());
        if (h.magic == format::kBitmapMagic) format::seal(*reinterpret_cast<format::BitmapBlock*>(content.data()));
        if (h.magic == format::kAgMagic) format::seal(*reinterpret_cast<format::AgHeader*>(content.data()));
        if (h.magic == format::kStateMagic) format::seal(*reinterpret_cast<format::StateRecord*>(content.data()));
        if (h.magic == format::kInodeMagic)
          for (u32 i = 0; i < 8; ++i) format::seal(reinterpret_cast<format::Inode*>(content.data())[i]);
      }
      REQUIRE(b.media->write(block_offset(BlockNo(block)), content.data(), kBlockSize).ok());
    }
    INFO("round " << round << ", blocks " << hits);
    (void)b.check(false);
    const FsckReport first = b.check(true);
    const FsckReport second = b.check(true);
    INFO("first:\n" << FsckBench::text(first) << "second:\n" << FsckBench::text(second));
    REQUIRE(second.unrepaired == 0);
    REQUIRE(b.check(false).exit_code() == 0);
    (void)b.picture();
    REQUIRE(b.check(false).exit_code() == 0);
  }
}
