// SPDX-License-Identifier: BSD-3-Clause
//
// The check of a tree node, after which it can be walked without looking left or right, and of single tree values.
#include <array>

#include "format/check_internal.h"
#include "format/decode.h"

namespace pindax::format {
namespace {

constexpr const char* kWhat = "tree node";
// 64-bit keys in nodes at least a third full need far fewer levels.
constexpr u32 kMaxLevel = 20;

// Marks bytes of a block as taken; false if one of them was.
class ByteMap {
 public:
  bool take(u32 begin, u32 length) {
    const u32 end = begin + length;
    while (begin < end) {
      const u32 bit = begin % 64;
      const u32 n = std::min(64 - bit, end - begin);
      const u64 mask = (n == 64 ? ~u64{0} : (u64{1} << n) - 1) << bit;
      if ((words_[begin / 64] & mask) != 0) return false;
      words_[begin / 64] |= mask;
      begin += n;
    }
    return true;
  }

 private:
  std::array<u64, kBlockSize / 64> words_{};
};

const char* leaf_error(const std::byte* block, const NodeHeader& h) {
  const auto* slots = reinterpret_cast<const LeafSlot*>(block + sizeof(NodeHeader));
  const u32 slots_end = u32{sizeof(NodeHeader)} + u32{h.count} * u32{sizeof(LeafSlot)};
  if (h.heap < slots_end || h.heap > kNodeCrcOffset) return "value heap out of range";
  ByteMap taken;
  u32 live = 0;
  for (u32 i = 0; i < h.count; ++i) {
    if (i > 0 && slots[i].key <= slots[i - 1].key) return "keys out of order";
    const u32 offset = slots[i].offset, length = slots[i].length;
    if (length > kMaxTreeValue) return "value too long";
    if (offset < h.heap || offset + length > kNodeCrcOffset) return "value outside the heap";
    if (!taken.take(offset, length)) return "values overlap";
    live += length;
  }
  if (kNodeCrcOffset - h.heap - live != h.dead) return "dead bytes miscounted";
  return nullptr;
}

const char* inner_error(const std::byte* block, const NodeHeader& h) {
  const auto* pairs = reinterpret_cast<const InnerPair*>(block + sizeof(NodeHeader));
  if (h.count == 0) return "inner node without children";
  for (u32 i = 0; i < h.count; ++i) {
    if (i > 0 && pairs[i].key <= pairs[i - 1].key) return "keys out of order";
    if (pairs[i].child == 0 || pairs[i].child == h.self_block || pairs[i].child > kMaxPoolBytes >> kBlockShift)
      return "child out of range";
  }
  return nullptr;
}

Status bad_value(const char* why) { return Status(Errc::kCorrupt, why); }

}  // namespace

Status check_node_identity(const std::byte* block, BlockNo self, TreeKind kind, u64 owner) {
  const auto& h = *reinterpret_cast<const NodeHeader*>(block);
  if (h.magic != kNodeMagic) return corrupt(kWhat, self.value, "bad magic");
  if (h.version != kVersion) return corrupt(kWhat, self.value, "unknown version");
  if (h.self_block != self.value) return corrupt(kWhat, self.value, "copied from elsewhere");
  if (h.kind != static_cast<u16>(kind) || h.owner != owner)
    return corrupt(kWhat, self.value, "belongs to another tree");
  return {};
}

Status check_node(const std::byte* block, BlockNo self, TreeKind kind, u64 owner) {
  PINDAX_TRY(check_node_identity(block, self, kind, owner));
  const auto& h = *reinterpret_cast<const NodeHeader*>(block);
  if (reinterpret_cast<const le32*>(block + kNodeCrcOffset)->get() != crc32c(block, kNodeCrcOffset))
    return corrupt(kWhat, self.value, "bad checksum");
  static_assert(sizeof(LeafSlot) == sizeof(InnerPair));
  if (h.level > kMaxLevel) return corrupt(kWhat, self.value, "level out of range");
  if (h.count > (kNodeCrcOffset - sizeof(NodeHeader)) / sizeof(LeafSlot))
    return corrupt(kWhat, self.value, "too many entries");
  const char* why = h.level == 0 ? leaf_error(block, h) : inner_error(block, h);
  if (why != nullptr) return corrupt(kWhat, self.value, why);
  return {};
}

void seal_node(std::byte* block) {
  *reinterpret_cast<le32*>(block + kNodeCrcOffset) = crc32c(block, kNodeCrcOffset);
}

Status check_value(TreeKind kind, std::span<const std::byte> value) {
  // Values lie at any byte of a leaf: copy before looking.
  auto exactly = [&](std::size_t size, const char* why) { return value.size() == size ? Status() : bad_value(why); };
  switch (kind) {
    case TreeKind::kExtents: {
      ExtentValue v;
      if (value.size() != sizeof v) return bad_value("extent of a wrong length");
      std::memcpy(&v, value.data(), sizeof v);
      if (v.length_blocks == 0 || v.block == 0 || v.block > kMaxPoolBytes >> kBlockShift ||
          (v.flags_epoch & kExtentStateMask) > static_cast<u32>(ExtentState::kProvisional))
        return bad_value("extent out of range");
      return {};
    }
    case TreeKind::kDirectory: {
      DirectoryValue v;
      if (value.size() < sizeof v) return bad_value("directory entry too short");
      std::memcpy(&v, value.data(), sizeof v);
      if (v.inode == 0 || v.name_length == 0 || value.size() != sizeof v + v.name_length)
        return bad_value("directory entry of a wrong length");
      for (std::byte b : value.subspan(sizeof v))
        if (b == std::byte{0} || b == std::byte{'/'}) return bad_value("directory entry with an impossible name");
      return {};
    }
    case TreeKind::kXattrs: {
      XattrValue v;
      if (value.size() < sizeof v) return bad_value("extended attribute too short");
      std::memcpy(&v, value.data(), sizeof v);
      const std::size_t rest = v.external == 1 ? sizeof(BlobRef) : std::size_t{v.value_length};
      if (v.external > 1 || v.name_length == 0 || value.size() != sizeof v + v.name_length + rest)
        return bad_value("extended attribute of a wrong length");
      return {};
    }
    case TreeKind::kParents: return exactly(sizeof(ParentValue), "parent record of a wrong length");
    case TreeKind::kQuarantine: return exactly(sizeof(QuarantineValue), "quarantine record of a wrong length");
    case TreeKind::kRefcount: return exactly(sizeof(RefcountValue), "share count of a wrong length");
    case TreeKind::kReverse: return exactly(sizeof(ReverseValue), "reverse record of a wrong length");
    case TreeKind::kOrphans: return exactly(sizeof(OrphanValue), "orphan record of a wrong length");
    case TreeKind::kBadBlocks: {
      BadBlockValue v;
      if (value.size() != sizeof v) return bad_value("record of a bad block of a wrong length");
      std::memcpy(&v, value.data(), sizeof v);
      if (v.state != static_cast<u32>(BadBlockState::kInUse) && v.state != static_cast<u32>(BadBlockState::kRetired))
        return bad_value("record of a bad block of an unknown state");
      return {};
    }
  }
  return bad_value("value of an unknown tree");
}

}  // namespace pindax::format
