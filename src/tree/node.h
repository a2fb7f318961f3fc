// SPDX-License-Identifier: BSD-3-Clause
//
// One tree node in memory: reading and editing of the slotted leaf and of the inner pairs. For this room and for
// fsck, which walks trees that are damaged.
//
// Every access is clamped to the block, so that even a node that changes under a reader (a hostile client with the
// pool mapped) gives wrong bytes and never a wild pointer.
//
// Leaf:  header | slots, sorted by key -> ... free ... <- heap of values, 8-aligned | crc
// `dead` counts the heap's bytes that no slot refers to, alignment included; compaction wins them back.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "format/format.h"
#include "tree/tree.h"

namespace pindax::tree_node {

using format::InnerPair;
using format::LeafSlot;
using format::NodeHeader;

inline constexpr u32 kFront = sizeof(NodeHeader);
inline constexpr u32 kEnd = format::kNodeCrcOffset;
inline constexpr u32 kHeapEnd = kEnd & ~7u;
inline constexpr u32 kInnerMax = (kEnd - kFront) / sizeof(InnerPair);
inline constexpr u32 kLeafMax = (kEnd - kFront) / sizeof(LeafSlot);
inline constexpr u32 kThinBytes = (kEnd - kFront) / 3;  // a node with less in it looks for a neighbour to join

constexpr u32 padded(std::size_t length) { return static_cast<u32>((length + 7) & ~std::size_t{7}); }
constexpr u32 item_bytes(std::size_t length) { return static_cast<u32>(sizeof(LeafSlot)) + padded(length); }

class ConstNode {
 public:
  explicit ConstNode(const std::byte* p) : p_(p) {}
  const NodeHeader& header() const { return *reinterpret_cast<const NodeHeader*>(p_); }
  unsigned level() const { return header().level; }
  bool leaf() const { return level() == 0; }
  u32 count() const { return std::min<u32>(header().count, leaf() ? kLeafMax : kInnerMax); }

  const LeafSlot& slot(u32 i) const { return reinterpret_cast<const LeafSlot*>(p_ + kFront)[i]; }
  const InnerPair& pair(u32 i) const { return reinterpret_cast<const InnerPair*>(p_ + kFront)[i]; }
  // Slots and pairs both begin with their key and are equally long.
  u64 key(u32 i) const { return pair(i).key; }
  BlockNo child(u32 i) const { return BlockNo(pair(i).child); }
  TreeBytes value(u32 i) const {
    const u32 offset = std::min<u32>(slot(i).offset, kEnd);
    return {p_ + offset, std::min<u32>(slot(i).length, kEnd - offset)};
  }

  // The first index whose key is >= `k`; count() if there is none.
  u32 lower_bound(u64 k) const {
    u32 low = 0, high = count();
    while (low < high) {
      const u32 middle = (low + high) / 2;
      if (key(middle) < k) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  // Inner: the child that `k` belongs to; the first one also takes smaller keys.
  u32 child_index(u64 k) const {
    const u32 i = lower_bound(k);
    return i < count() && key(i) == k ? i : (i == 0 ? 0 : i - 1);
  }
  // Bytes that the items need, gaps apart.
  u32 live_bytes() const {
    if (!leaf()) return count() * static_cast<u32>(sizeof(InnerPair));
    u32 sum = 0;
    for (u32 i = 0; i < count(); ++i) sum += item_bytes(slot(i).length);
    return sum;
  }
  const std::byte* bytes() const { return p_; }

 protected:
  const std::byte* p_;
};

inline constexpr u32 kLeafRoom = kHeapEnd - kFront;  // bytes for slots and padded values

class Node : public ConstNode {
 public:
  explicit Node(std::byte* p) : ConstNode(p), w_(p) {}

  void init(BlockNo self, format::TreeKind kind, u64 owner, unsigned level) {
    std::memset(w_, 0, kBlockSize);
    NodeHeader& h = head();
    h.magic = format::kNodeMagic;
    h.version = static_cast<u16>(format::kVersion);
    h.kind = static_cast<u16>(kind);
    h.self_block = self.value;
    h.owner = owner;
    h.level = static_cast<u16>(level);
    clear_items();
  }
  void clear_items() {
    head().count = 0;
    head().heap = static_cast<u16>(leaf() ? kEnd : 0);
    head().dead = 0;
  }

  // ---- Leaf ----
  // The caller has seen that live_bytes() and the item fit into kLeafRoom.
  void insert_item(u32 at, u64 k, TreeBytes v) {
    if (front_end() + sizeof(LeafSlot) + padded(v.size()) > heap()) compact();
    const u32 place = heap() - padded(v.size());
    open_gap(at);
    LeafSlot& s = reinterpret_cast<LeafSlot*>(w_ + kFront)[at];
    s = LeafSlot{};
    s.key = k;
    s.offset = static_cast<u16>(v.empty() ? heap() : place);
    s.length = static_cast<u16>(v.size());
    if (!v.empty()) {
      std::memcpy(w_ + place, v.data(), v.size());
      std::memset(w_ + place + v.size(), 0, padded(v.size()) - v.size());
    }
    set_heap(place);
  }
  void remove_item(u32 at) {
    close_gap(at);
    if (count() == 0) clear_items();
    else set_heap(heap());
  }
  void set_item_key(u32 at, u64 k) { reinterpret_cast<LeafSlot*>(w_ + kFront)[at].key = k; }
  void overwrite_item(u32 at, TreeBytes v) { std::memcpy(w_ + slot(at).offset, v.data(), v.size()); }
  void compact() {
    std::array<std::byte, kBlockSize> old;
    std::memcpy(old.data(), w_, kBlockSize);
    const ConstNode from(old.data());
    u32 place = kHeapEnd;
    for (u32 i = 0; i < count(); ++i) {
      const TreeBytes v = from.value(i);
      place -= padded(v.size());
      std::memcpy(w_ + place, v.data(), v.size());
      std::memset(w_ + place + v.size(), 0, padded(v.size()) - v.size());
      reinterpret_cast<LeafSlot*>(w_ + kFront)[i].offset = static_cast<u16>(place);
    }
    std::memset(w_ + front_end(), 0, place - front_end());
    set_heap(place);
  }

  // ---- Inner ----
  void insert_pair(u32 at, u64 k, BlockNo child) {
    open_gap(at);
    set_pair(at, k, child);
  }
  void set_pair(u32 at, u64 k, BlockNo child) {
    InnerPair& p = reinterpret_cast<InnerPair*>(w_ + kFront)[at];
    p.key = k;
    p.child = child.value;
  }
  void set_key(u32 at, u64 k) { reinterpret_cast<InnerPair*>(w_ + kFront)[at].key = k; }
  void remove_pair(u32 at) { close_gap(at); }

 private:
  NodeHeader& head() { return *reinterpret_cast<NodeHeader*>(w_); }
  u32 front_end() const { return kFront + count() * static_cast<u32>(sizeof(LeafSlot)); }
  // An empty heap ends right before the crc, but values are placed 8-aligned.
  u32 heap() const { return std::min<u32>(header().heap, kHeapEnd); }
  void set_heap(u32 heap_begin) {
    u32 live = 0;
    for (u32 i = 0; i < count(); ++i) live += slot(i).length;
    head().heap = static_cast<u16>(heap_begin);
    head().dead = static_cast<u16>(kEnd - heap_begin - live);
  }
  void open_gap(u32 at) {
    std::byte* place = w_ + kFront + at * sizeof(LeafSlot);
    std::memmove(place + sizeof(LeafSlot), place, (count() - at) * sizeof(LeafSlot));
    head().count = static_cast<u16>(count() + 1);
  }
  void close_gap(u32 at) {
    std::byte* place = w_ + kFront + at * sizeof(LeafSlot);
    std::memmove(place, place + sizeof(LeafSlot), (count() - at - 1) * sizeof(LeafSlot));
    head().count = static_cast<u16>(count() - 1);
    std::memset(w_ + front_end(), 0, sizeof(LeafSlot));
  }

  std::byte* w_;
};

// What a node must be by its parent's word: its level, and keys within [low, high].
struct Expected {
  int level = -1;  // -1: the root, any level
  u64 low = 0;
  u64 high = ~u64{0};

  static Expected child_of(const ConstNode& parent, u32 i, const Expected& of_parent) {
    return {static_cast<int>(parent.level()) - 1, parent.key(i),
            i + 1 < parent.count() ? parent.key(i + 1) - 1 : of_parent.high};
  }
};

// Reads nodes of one tree and checks those that come from committed state. Levels fall and key ranges nest, so no damage
// makes a walk visit a node twice.
struct Source {
  MetaStore* store;
  Transaction* tx;  // may be null
  TreeRef ref;

  // `keep` holds the bytes.
  Result<ConstNode> get(BlockNo block, const Expected& expected, MetaView& keep) const;
};

}  // namespace pindax::tree_node
