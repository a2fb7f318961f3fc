// SPDX-License-Identifier: BSD-3-Clause
//
// The worked example of docs/format.md, made anew from the structs: the document and the code cannot drift apart.
// PINDAX_REGENERATE=1 writes the document's block instead of comparing it.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "catch.h"
#include "format/decode.h"

using namespace pindax;
using namespace pindax::format;

namespace {

constexpr const char* kBegin = "<!-- hexdump: begin -->\n```\n";
constexpr const char* kEnd = "```\n<!-- hexdump: end -->\n";

// Sixteen bytes a line; runs of zero lines are one "*".
std::string hexdump(u64 at, const void* data, std::size_t length) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::string out;
  bool skipping = false;
  for (std::size_t i = 0; i < length; i += 16) {
    bool zero = i != 0 && i + 16 < length;
    for (std::size_t k = i; k < i + 16 && k < length; ++k) zero = zero && bytes[k] == 0;
    if (zero) {
      if (!skipping) out += "*\n";
      skipping = true;
      continue;
    }
    skipping = false;
    char text[80];
    std::snprintf(text, sizeof(text), "%08llx ", static_cast<unsigned long long>(at + i));
    out += text;
    std::string plain;
    for (std::size_t k = i; k < i + 16 && k < length; ++k) {
      std::snprintf(text, sizeof(text), " %02x", bytes[k]);
      out += text;
      plain += bytes[k] >= 0x20 && bytes[k] < 0x7f ? static_cast<char>(bytes[k]) : '.';
    }
    out += "  " + plain + "\n";
  }
  return out;
}

constexpr u64 kTime = 1'700'000'000;  // seconds since 1970

Superblock example_superblock(const Geometry& g) {
  Superblock sb;
  std::memset(static_cast<void*>(&sb), 0, sizeof(sb));
  sb.magic = kSuperblockMagic;
  sb.version = kVersion;
  sb.block_shift = kBlockShift;
  sb.sequence = 1;
  for (unsigned i = 0; i < 16; ++i) sb.uuid[i] = static_cast<u8>(0xa0 + i);
  std::memcpy(sb.label, "example", 7);
  sb.pool_blocks = g.pool_blocks;
  sb.ag_blocks = g.ag_blocks;
  sb.ag_count = g.ag_count;
  sb.inode_size = kInodeSize;
  sb.journal_block = g.journal_block;
  sb.journal_blocks = g.journal_blocks;
  sb.state_block = g.state_block;
  sb.root_inode = (g.state_block + 1) * kInodesPerBlock;
  sb.created_ns = kTime * 1'000'000'000;
  sb.state = static_cast<u32>(PoolState::kClean);
  seal(sb);
  return sb;
}

const Inode& example_inode(InodeNo ino, BlockNo data) {
  alignas(8) static std::byte bytes[sizeof(Inode)];
  std::memset(bytes, 0, sizeof(bytes));
  Inode& inode = *reinterpret_cast<Inode*>(bytes);
  inode.magic = kInodeMagic;
  inode.version = static_cast<u16>(kVersion);
  inode.data_kind = static_cast<u16>(DataKind::kInlineExtents);
  inode.self = ino.value;
  inode.generation = 7;
  inode.mode = S_IFREG | 0644;
  inode.uid = inode.gid = 1000;
  inode.links = 1;
  inode.size_bytes = 10'000;
  inode.blocks = 3;
  inode.atime_s = inode.mtime_s = inode.ctime_s = inode.crtime_s = kTime;
  inode.extent_count = 1;
  inode.parent = ino.value - 1;
  inode.parent_key = 0x1234'5678'8000;
  ExtentInfo extent;
  extent.block = data;
  extent.length = 3;
  inode.body.extents[0] = pack_extent(extent);
  seal(inode);
  return inode;
}

// A directory's only leaf with the entry "hello" of the inode above.
std::string example_leaf(BlockNo self, InodeNo dir, InodeNo child) {
  alignas(8) static std::byte block[kBlockSize];
  std::memset(block, 0, sizeof(block));
  constexpr char kName[] = {'h', 'e', 'l', 'l', 'o'};
  const u16 length = sizeof(DirectoryValue) + sizeof(kName);
  auto& header = *reinterpret_cast<NodeHeader*>(block);
  header.magic = kNodeMagic;
  header.version = static_cast<u16>(kVersion);
  header.kind = static_cast<u16>(TreeKind::kDirectory);
  header.self_block = self.value;
  header.owner = dir.value;
  header.count = 1;
  header.heap = static_cast<u16>(kNodeCrcOffset - length);
  auto& slot = *reinterpret_cast<LeafSlot*>(block + sizeof(NodeHeader));
  slot.key = 0x1234'5678'8000;
  slot.offset = header.heap;
  slot.length = length;
  DirectoryValue value;
  std::memset(static_cast<void*>(&value), 0, sizeof(value));
  value.inode = child.value;
  value.type = 8;  // DT_REG
  value.name_length = sizeof(kName);
  std::memcpy(block + header.heap, &value, sizeof(value));
  std::memcpy(block + header.heap + sizeof(value), kName, sizeof(kName));
  seal_node(block);
  REQUIRE(check_node(block, self, TreeKind::kDirectory, dir.value).ok());
  return hexdump(self.value * kBlockSize, block, sizeof(block));
}

std::string example() {
  const auto planned = plan_geometry(8u << 20);
  REQUIRE(planned.ok());
  const Geometry g = *planned;
  const Superblock sb = example_superblock(g);
  REQUIRE(check_superblock(sb, 0).ok());
  const InodeNo root(sb.root_inode), file = root + 1;
  const BlockNo leaf(g.state_block + 2), data(g.state_block + 3);
  const Inode& inode = example_inode(file, data);
  REQUIRE(check_inode(inode, file).ok());
  return "superblock, first copy\n" + hexdump(0, &sb, sizeof(sb)) + "\ninode " + std::to_string(file.value) +
         ", a file of 10,000 bytes in one extent\n" + hexdump(inode_offset(file).value, &inode, sizeof(inode)) +
         "\nleaf of the root directory, one entry\n" + example_leaf(leaf, root, file);
}

}  // namespace

TEST_CASE("format: the worked hexdump of docs/format.md is what the structs give") {
  const std::string path = PINDAX_SOURCE_DIR "/docs/format.md";
  std::ifstream in(path);
  REQUIRE(in);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto begin = text.find(kBegin), end = text.find(kEnd);
  REQUIRE(begin != std::string::npos);
  REQUIRE(end != std::string::npos);
  const auto from = begin + std::strlen(kBegin);
  if (std::getenv("PINDAX_REGENERATE") != nullptr) {
    text.replace(from, end - from, example());
    std::ofstream(path) << text;
    return;
  }
  CHECK(text.substr(from, end - from) == example());
}
