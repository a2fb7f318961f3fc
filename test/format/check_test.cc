// SPDX-License-Identifier: BSD-3-Clause
#include <sys/stat.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <vector>

#include "catch.h"
#include "format/decode.h"

using namespace pindax;
using namespace pindax::format;

namespace {

u64 seed() {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 value = text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
  std::cout << "PINDAX_SEED=" << value << "\n";
  return value;
}

Superblock good_superblock(u64 copy = 0) {
  const Geometry g = *plan_geometry(64u << 20);
  Superblock sb{};
  sb.magic = kSuperblockMagic;
  sb.version = kVersion;
  sb.block_shift = kBlockShift;
  sb.self_offset = kSuperblockOffsets[copy];
  sb.pool_blocks = g.pool_blocks;
  sb.ag_blocks = g.ag_blocks;
  sb.ag_count = g.ag_count;
  sb.inode_size = kInodeSize;
  sb.journal_block = g.journal_block;
  sb.journal_blocks = g.journal_blocks;
  sb.state_block = g.state_block;
  sb.root_inode = g.first_data(0).value * kInodesPerBlock;
  sb.state = static_cast<u32>(PoolState::kClean);
  seal(sb);
  return sb;
}

Inode good_file() {
  Inode i{};
  i.magic = kInodeMagic;
  i.version = kVersion;
  i.self = 8000;
  i.mode = S_IFREG | 0644;
  i.data_kind = static_cast<u16>(DataKind::kInlineExtents);
  i.extent_count = 2;
  i.body.extents[0] = pack_extent({.file_block = FileBlock(3), .block = BlockNo(700), .length = 5});
  i.body.extents[1] = pack_extent({.file_block = FileBlock(8), .block = BlockNo(900), .length = 1});
  seal(i);
  return i;
}

struct Node {
  alignas(64) std::byte bytes[kBlockSize]{};
  NodeHeader& header() { return *reinterpret_cast<NodeHeader*>(bytes); }
  LeafSlot& slot(u32 i) { return reinterpret_cast<LeafSlot*>(bytes + sizeof(NodeHeader))[i]; }
  InnerPair& pair(u32 i) { return reinterpret_cast<InnerPair*>(bytes + sizeof(NodeHeader))[i]; }
  Errc check() {
    seal_node(bytes);
    return check_node(bytes, BlockNo(55), TreeKind::kXattrs, 9).code();
  }
};

Node empty_node(u16 level) {
  Node n;
  n.header() = {.magic = kNodeMagic,
                .version = u16{kVersion},
                .kind = static_cast<u16>(TreeKind::kXattrs),
                .self_block = 55,
                .owner = 9,
                .level = level,
                .count = u16{0},
                .heap = static_cast<u16>(kNodeCrcOffset),
                .dead = u16{0}};
  return n;
}

Node good_leaf() {
  Node n = empty_node(0);
  u32 heap = kNodeCrcOffset;
  for (u32 i = 0; i < 20; ++i) {
    const u32 length = i * 9;
    heap -= length;
    n.slot(i) = {.key = 10 * i + 1, .offset = static_cast<u16>(heap), .length = static_cast<u16>(length)};
  }
  n.header().count = u16{20};
  n.header().heap = static_cast<u16>(heap);
  return n;
}

Node good_inner() {
  Node n = empty_node(2);
  for (u32 i = 0; i < 30; ++i) n.pair(i) = {i * 5, 1000 + i};
  n.header().count = u16{30};
  return n;
}

// Every single flipped bit of a sealed struct is noticed.
template <class T>
void flips_are_refused(const T& good, const std::function<Status(const T&)>& check) {
  REQUIRE(check(good).ok());
  auto damaged = std::make_unique<T>(good);
  auto* bytes = reinterpret_cast<unsigned char*>(damaged.get());
  for (std::size_t at = 0; at < sizeof(T); ++at) {
    const unsigned char was = bytes[at];
    bytes[at] = static_cast<unsigned char>(was ^ (1u << at % 8));
    if (check(*damaged).ok()) FAIL("a flipped bit in byte " << at << " passes");
    bytes[at] = was;
  }
}

}  // namespace

TEST_CASE("format: a flipped bit anywhere in a sealed struct is refused") {
  flips_are_refused<Superblock>(good_superblock(), [](const Superblock& s) { return check_superblock(s, 0); });
  StateRecord state{};
  state.magic = kStateMagic;
  state.version = kVersion;
  state.self_block = 7;
  seal(state);
  flips_are_refused<StateRecord>(state, [](const StateRecord& s) { return check_state(s, BlockNo(7)); });
  CHECK(check_state(state, BlockNo(8)).code() == Errc::kCorrupt);
  AgHeader ag{};
  ag.magic = kAgMagic;
  ag.version = kVersion;
  ag.self_block = 1056;
  ag.ag = 1;
  ag.blocks = 1024;
  ag.bitmap_blocks = 1;
  ag.bitmap_block = 1057;
  ag.inode_bitmap_block = 1058;
  ag.first_data_block = 1059;
  seal(ag);
  flips_are_refused<AgHeader>(ag, [](const AgHeader& h) { return check_ag(h, 1, BlockNo(1056)); });
  CHECK(check_ag(ag, 2, BlockNo(1056)).code() == Errc::kCorrupt);
  BitmapBlock bitmap{};
  bitmap.magic = kBitmapMagic;
  bitmap.version = kVersion;
  bitmap.self_block = 1057;
  bitmap.ag = 1;
  bitmap.kind = 1;
  seal(bitmap);
  flips_are_refused<BitmapBlock>(bitmap, [](const BitmapBlock& b) { return check_bitmap(b, 1, 0, 1, BlockNo(1057)); });
  CHECK(check_bitmap(bitmap, 1, 0, 2, BlockNo(1057)).code() == Errc::kCorrupt);
  JournalHeader journal{};
  journal.magic = kJournalMagic;
  journal.version = kVersion;
  journal.self_block = 40;
  journal.head = 4096;
  seal(journal);
  flips_are_refused<JournalHeader>(journal, [](const JournalHeader& h) { return check_journal_header(h, BlockNo(40)); });
  flips_are_refused<Inode>(good_file(), [](const Inode& i) { return check_inode(i, InodeNo(8000)); });
  Node leaf = good_leaf();
  seal_node(leaf.bytes);
  flips_are_refused<Node>(leaf, [](const Node& n) { return check_node(n.bytes, BlockNo(55), TreeKind::kXattrs, 9); });
  struct Blob {
    std::byte bytes[kBlockSize]{};
  } blob;
  *reinterpret_cast<BlobHeader*>(blob.bytes) = {
      .magic = kBlobMagic, .version = kVersion, .self_block = 77, .owner = 5, .length_bytes = 100};
  seal_blob(blob.bytes);
  flips_are_refused<Blob>(blob, [](const Blob& b) { return check_blob(b.bytes, BlockNo(77), 5); });
}

TEST_CASE("format: a superblock with nonsense under a good checksum is refused") {
  const std::vector<std::function<void(Superblock&)>> damages = {
      [](Superblock& s) { s.magic = 1; },
      [](Superblock& s) { s.block_shift = 13; },
      [](Superblock& s) { s.self_offset = kSuperblockOffsets[1]; },
      [](Superblock& s) { s.pool_blocks = 10; },
      [](Superblock& s) { s.pool_blocks = ~u64{0}; },
      [](Superblock& s) { s.ag_blocks = 0; },
      [](Superblock& s) { s.ag_blocks = kMaxAgBlocks + 1; },
      [](Superblock& s) { s.ag_count += 1; },
      [](Superblock& s) { s.inode_size = 256; },
      [](Superblock& s) { s.journal_block += 1; },
      [](Superblock& s) { s.journal_blocks = 1; },
      [](Superblock& s) { s.journal_blocks = ~u64{0}; },
      [](Superblock& s) { s.state_block = 0; },
      [](Superblock& s) { s.root_inode = 0; },
      [](Superblock& s) { s.state = 3; },
      [](Superblock& s) { s.lost_count = kMaxLostEpochs + 1; },
      [](Superblock& s) { s.lost_count = 1, s.lost[0].first = 2; },
  };
  for (std::size_t i = 0; i < damages.size(); ++i) {
    CAPTURE(i);
    Superblock sb = good_superblock();
    damages[i](sb);
    seal(sb);
    CHECK(check_superblock(sb, 0).code() == Errc::kCorrupt);
  }
}

TEST_CASE("format: other versions and unknown incompatible features are kIncompatible, unknown compatible ones are not") {
  Superblock sb = good_superblock(1);
  sb.features_compat = u64{1} << 40;
  sb.features_ro_compat = u64{1} << 40;
  seal(sb);
  CHECK(check_superblock(sb, kSuperblockOffsets[1]).ok());
  sb.features_incompat = u64{1} << 40;
  seal(sb);
  CHECK(check_superblock(sb, kSuperblockOffsets[1]).code() == Errc::kIncompatible);
  sb = good_superblock();
  sb.version = kVersion + 1;
  seal(sb);
  CHECK(check_superblock(sb, 0).code() == Errc::kIncompatible);
}

TEST_CASE("format: an inode with nonsense under a good checksum is refused") {
  const std::vector<std::function<void(Inode&)>> damages = {
      [](Inode& i) { i.magic = 0; },
      [](Inode& i) { i.version = u16{9}; },
      [](Inode& i) { i.self = 8001; },
      [](Inode& i) { i.mode = 0644; },
      [](Inode& i) { i.data_kind = u16{99}; },
      [](Inode& i) { i.data_kind = static_cast<u16>(DataKind::kInlineSymlink); },
      [](Inode& i) { i.mode = S_IFDIR | 0755; },
      [](Inode& i) { i.extent_count = u16{kInlineExtentCount + 1}; },
      [](Inode& i) { i.body.extents[1].file_block = 4; },
      [](Inode& i) { i.body.extents[0].length_blocks = 0; },
      [](Inode& i) { i.body.extents[0].block = 0; },
      [](Inode& i) { i.body.extents[0].flags_epoch = 3; },
      [](Inode& i) { i.size_bytes = kMaxFileBytes + 1; },
      [](Inode& i) { i.busy_policy = u16{5}; },
      [](Inode& i) { i.mtime_ns = 1'000'000'000; },
      [](Inode& i) { i.mode = S_IFLNK | 0777, i.data_kind = static_cast<u16>(DataKind::kInlineSymlink), i.size_bytes = 193; },
      [](Inode& i) {
        i.mode = S_IFLNK | 0777, i.data_kind = static_cast<u16>(DataKind::kBlobSymlink);
        i.body.blob.block_count = kMaxBlobBlocks + 1;
      },
  };
  for (std::size_t n = 0; n < damages.size(); ++n) {
    CAPTURE(n);
    Inode i = good_file();
    damages[n](i);
    seal(i);
    CHECK(check_inode(i, InodeNo(8000)).code() == Errc::kCorrupt);
  }
  Inode unused{};
  unused.magic = kInodeMagic;
  unused.version = kVersion;
  unused.self = 8000;
  seal(unused);
  CHECK(check_inode(unused, InodeNo(8000)).ok());
}

TEST_CASE("format: a node with nonsense under a good checksum is refused") {
  const std::vector<std::function<void(Node&)>> leaf_damages = {
      [](Node& n) { n.header().magic = 0; },
      [](Node& n) { n.header().version = u16{2}; },
      [](Node& n) { n.header().kind = static_cast<u16>(TreeKind::kExtents); },
      [](Node& n) { n.header().owner = 10; },
      [](Node& n) { n.header().self_block = 56; },
      [](Node& n) { n.header().level = u16{21}; },
      [](Node& n) { n.header().count = u16{255}; },
      [](Node& n) { n.header().count = u16{0xffff}; },
      [](Node& n) { n.header().heap = u16{100}; },
      [](Node& n) { n.header().heap = u16{4093}; },
      [](Node& n) { n.header().dead += u16{1}; },
      [](Node& n) { n.slot(4).key = n.slot(3).key; },
      [](Node& n) { n.slot(4).key = 0; },
      [](Node& n) { n.slot(4).offset = n.slot(5).offset; },
      [](Node& n) { n.slot(4).offset = u16{0}; },
      [](Node& n) { n.slot(4).offset = u16{4090}; },
      [](Node& n) { n.slot(4).offset = u16{0xffff}; },
      [](Node& n) { n.slot(4).length = u16{kMaxTreeValue + 1}; },
      [](Node& n) { n.slot(4).length = u16{0xffff}; },
  };
  CHECK(empty_node(0).check() == Errc::kOk);
  CHECK(good_leaf().check() == Errc::kOk);
  for (std::size_t i = 0; i < leaf_damages.size(); ++i) {
    CAPTURE(i);
    Node n = good_leaf();
    leaf_damages[i](n);
    CHECK(n.check() == Errc::kCorrupt);
  }
  CHECK(good_inner().check() == Errc::kOk);
  CHECK(empty_node(1).check() == Errc::kCorrupt);
  Node n = good_inner();
  n.pair(3).child = 0;
  CHECK(n.check() == Errc::kCorrupt);
  n.pair(3).child = 55;
  CHECK(n.check() == Errc::kCorrupt);
  n.pair(3).child = ~u64{0};
  CHECK(n.check() == Errc::kCorrupt);
  n = good_inner();
  n.pair(3).key = n.pair(2).key;
  CHECK(n.check() == Errc::kCorrupt);
}

TEST_CASE("format: checks of fuzzed bytes never leave the block, and what passes can be walked") {
  std::mt19937_64 rng(seed());
  unsigned passed = 0;
  for (int round = 0; round < 20000; ++round) {
    auto n = std::make_unique<Node>(rng() % 2 == 0 ? good_leaf() : good_inner());
    for (u64 k = rng() % 4; k-- > 0;) {
      // Mostly the header and the first slots, where the traps are.
      const u64 at = rng() % 4 == 0 ? rng() % kBlockSize : rng() % 400;
      n->bytes[at] = static_cast<std::byte>(rng());
    }
    if (n->check() != Errc::kOk) continue;
    ++passed;
    u64 last = 0;
    for (u32 i = 0; i < n->header().count; ++i) {
      const u64 key = n->header().level == 0 ? n->slot(i).key : n->pair(i).key;
      if (i > 0) REQUIRE(key > last);
      last = key;
      if (n->header().level != 0) continue;
      REQUIRE(n->slot(i).offset + n->slot(i).length <= kNodeCrcOffset);
      (void)check_value(TreeKind::kXattrs, {n->bytes + n->slot(i).offset, n->slot(i).length});
      (void)check_value(TreeKind::kDirectory, {n->bytes + n->slot(i).offset, n->slot(i).length});
    }
  }
  CHECK(passed > 0);
}

TEST_CASE("format: tree values of a wrong length or range are refused") {
  for (u16 kind = 1; kind <= 8; ++kind)
    CHECK(check_value(static_cast<TreeKind>(kind), {}).code() == Errc::kCorrupt);
  ExtentValue e = pack_extent_value({.block = BlockNo(9), .length = 2});
  auto bytes = std::as_bytes(std::span(&e, 1));
  CHECK(check_value(TreeKind::kExtents, bytes).ok());
  CHECK_FALSE(check_value(TreeKind::kExtents, bytes.first(15)).ok());
  e.flags_epoch = 3;
  CHECK_FALSE(check_value(TreeKind::kExtents, bytes).ok());
  struct {
    DirectoryValue head{.inode = 5, .type = 8, .name_length = 3};
    char name[3] = {'a', 'b', 'c'};
  } entry;
  auto name = std::span(reinterpret_cast<const std::byte*>(&entry), 19);
  CHECK(check_value(TreeKind::kDirectory, name).ok());
  CHECK_FALSE(check_value(TreeKind::kDirectory, name.first(18)).ok());
  entry.name[1] = '/';
  CHECK_FALSE(check_value(TreeKind::kDirectory, name).ok());
}

TEST_CASE("format: extents survive packing and unpacking") {
  for (auto state : {ExtentState::kWritten, ExtentState::kUnwritten, ExtentState::kProvisional})
    for (bool shared : {false, true}) {
      const ExtentInfo e{FileBlock(u64{1} << 50), BlockNo(u64{1} << 35), 0x7fffffff, state, shared, 0x0fffffff};
      CHECK(unpack_extent(pack_extent(e)) == e);
      CHECK(unpack_extent(e.file_block, pack_extent_value(e)) == e);
    }
}
