// SPDX-License-Identifier: BSD-3-Clause
//
// Each metadata block of a populated pool damaged alone, one after the other, whatever it is: the repair brings back all that does
// not depend on it, and a second check finds nothing. PINDAX_SEED chooses where in the block.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "fsck_bench.h"

using namespace pindax;
using test::FsckBench;

namespace {

struct Victim {
  u64 block;
  u32 magic;
};

const char* kind_of(const FsckBench& b, const Victim& v) {
  switch (v.magic) {
    case format::kStateMagic: return "state record";
    case format::kAgMagic: return "AG header";
    case format::kBitmapMagic: return "bitmap";
    case format::kInodeMagic: return v.block == b.sb.root_inode / format::kInodesPerBlock ? "inode block of the root" : "inode block";
    case format::kNodeMagic: return "tree node";
    case format::kBlobMagic: return "blob";
    default: return "journal header";
  }
}

std::vector<Victim> metadata_blocks(const FsckBench& b, const std::vector<std::byte>& good) {
  std::vector<Victim> out;
  for (u64 block = 1; block < good.size() / kBlockSize; ++block) {
    u32 magic;
    std::memcpy(&magic, good.data() + block * kBlockSize, sizeof magic);
    for (const u32 known : {format::kStateMagic, format::kAgMagic, format::kBitmapMagic, format::kInodeMagic, format::kNodeMagic,
                            format::kBlobMagic, format::kJournalMagic})
      if (magic == known) out.push_back({block, magic});
  }
  (void)b;
  return out;
}

// Files of the picture that are not there, or not the same, under any name: a lost name is not a lost file, and a file that is lost with
// all its names is one file.
std::size_t lost(const FsckBench::Picture& before, const FsckBench::Picture& after) {
  std::multimap<std::string, int> texts;
  const auto words = [](const std::string& text) { return text.find(' ', text.find(' ') + 1); };  // type and links end there
  const auto body = [&](const std::string& text) { return text.substr(words(text)); };
  for (const auto& [path, text] : after) texts.emplace(body(text), 0);
  std::set<std::string> files;
  for (const auto& [path, text] : before) {
    if (texts.contains(body(text))) continue;
    const int links = std::atoi(text.c_str() + text.find(' '));
    files.insert(links == 1 ? path : links < 10 ? text : text.substr(0, words(text)));  // with hundreds, the picture has but one such file
  }
  return files.size();
}

}  // namespace

TEST_CASE("fsck: whichever metadata block is damaged, the repair saves the rest and a second check finds nothing") {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  std::printf("PINDAX_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 rng(seed);
  FsckBench b;
  const auto before = b.picture();
  std::vector<std::byte> good(b.media->size());
  REQUIRE(b.media->read(PoolOffset(0), good.data(), good.size()).ok());
  std::map<std::string, unsigned> kinds;
  std::map<std::string, unsigned> seen;
  for (const Victim& v : metadata_blocks(b, good)) {
    const std::string kind = kind_of(b, v);
    // Of bitmaps, inode blocks and nodes there are many alike: every third of them after the first few.
    if (seen[kind]++ > 6 && seen[kind] % 5 != seed % 5) continue;
    ++kinds[kind];
    REQUIRE(b.media->write(PoolOffset(0), good.data(), good.size()).ok());
    const PoolOffset at = block_offset(BlockNo(v.block)) + rng() % (v.magic == format::kJournalMagic ? 40 : kBlockSize - 16);
    b.junk(at, 1 + rng() % 16);
    INFO(kind << ", block " << v.block << ", byte " << (at.value & kBlockMask) << ", PINDAX_SEED=" << seed);
    const FsckReport first = b.check(true);
    INFO("repaired:\n" << FsckBench::text(first));
    REQUIRE(first.unrepaired == 0);
    const FsckReport second = b.check(false);
    INFO("second:\n" << FsckBench::text(second));
    REQUIRE(second.exit_code() == 0);
    const auto after = b.picture();
    // What one block may cost: eight inodes; the names, extents or attributes of one leaf. No block costs a file that it says nothing of.
    const std::size_t gone = lost(before, after);
    INFO(gone << " of " << before.size() << " are not as they were");
    if (v.magic == format::kInodeMagic) REQUIRE(gone <= format::kInodesPerBlock);
    else if (v.magic == format::kNodeMagic || v.magic == format::kBlobMagic) REQUIRE(gone <= 3);
    else REQUIRE(gone == 0);
    REQUIRE(b.check(false).exit_code() == 0);
  }
  for (const auto& [kind, count] : kinds) std::printf("%s: %u damaged\n", kind.c_str(), count);
  REQUIRE(kinds.size() >= 6);
}
