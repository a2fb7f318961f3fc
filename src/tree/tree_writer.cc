// SPDX-License-Identifier: BSD-3-Clause
//
// The writing half of the tree. Every change goes down once, remembering its path, and mends upwards:
//
//   split   a full node gives its upper part to a new right neighbour, whose least key joins the parent; appends at
//           the tree's right edge leave the old node full. All nodes that a split will need are allocated before
//           anything changes, so a full pool leaves the tree as it was.
//   merge   a node that has become thin takes in a neighbour under the same parent if both fit in one block; an empty one
//           is freed. An inner root with one child gives way to it; the last item takes the root with it (0).
//
// Invariant: the key of an inner pair is <= every key below it and > every key below the pair before. Separators need
// not be exact; an insert below the leftmost key lowers them on its way.
#include "tree/node.h"
#include "tree/tree_path.h"

namespace pindax {

using tree_node::ConstNode;
using tree_node::Expected;
using tree_node::Node;
using tree_node::Source;

Result<std::byte*> TreeWriter::writable(BlockNo block) {
  return tx_.modify(block_offset(block), kBlockSize, format::seal_node);
}

Result<std::byte*> TreeWriter::new_node(BlockNo block, unsigned level) {
  std::byte* bytes = tx_.modify_new(block_offset(block), format::seal_node);
  Node(bytes).init(block, ref_.kind, ref_.owner, level);
  return bytes;
}

void TreeWriter::drop_node(BlockNo block) {
  nodes_.free_node(tx_, block);
  tx_.forget(block_offset(block));
}

Status TreeWriter::descend(u64 key, Path& path) {
  const Source source{&tx_.store(), &tx_, ref_};
  BlockNo block = ref_.root;
  for (Expected expected;;) {
    if (path.depth == kMaxTreeLevels) return Status(Errc::kCorrupt, "tree is too deep");
    MetaView keep;
    PINDAX_ASSIGN(const ConstNode node, source.get(block, expected, keep));
    Path::Step& s = path.steps[path.depth++];
    s.block = block;
    if (node.leaf()) {
      s.index = node.lower_bound(key);
      path.found = s.index < node.count() && node.key(s.index) == key;
      path.right_edge = path.right_edge && s.index == node.count();
      return {};
    }
    s.index = node.child_index(key);
    path.right_edge = path.right_edge && s.index + 1 == node.count();
    block = node.child(s.index);
    expected = Expected::child_of(node, s.index, expected);
  }
}

Status TreeWriter::insert(u64 key, TreeBytes value) {
  if (value.size() > format::kMaxTreeValue) return Status(Errc::kInvalid, "tree value is too long");
  if (ref_.root.value == 0) {
    PINDAX_ASSIGN(const BlockNo block, nodes_.allocate_node(tx_));
    PINDAX_ASSIGN(std::byte * bytes, new_node(block, 0));
    Node(bytes).insert_item(0, key, value);
    ref_.root = block;
    return {};
  }
  Path path;
  PINDAX_TRY(descend(key, path));
  if (path.found) return Status(Errc::kExists);
  return put(path, key, value, false);
}

Status TreeWriter::replace(u64 key, TreeBytes value) {
  if (value.size() > format::kMaxTreeValue) return Status(Errc::kInvalid, "tree value is too long");
  if (ref_.root.value == 0) return Status(Errc::kNotFound);
  Path path;
  PINDAX_TRY(descend(key, path));
  if (!path.found) return Status(Errc::kNotFound);
  return put(path, key, value, true);
}

// `path` ends at the item's place.
Status TreeWriter::put(Path& path, u64 key, TreeBytes value, bool replacing) {
  const Path::Step& at = path.steps[path.depth - 1];
  PINDAX_ASSIGN(std::byte * bytes, writable(at.block));
  Node leaf(bytes);
  if (replacing && leaf.slot(at.index).length == value.size()) {
    leaf.overwrite_item(at.index, value);
    return {};
  }
  const u32 old_bytes = replacing ? tree_node::item_bytes(leaf.slot(at.index).length) : 0;
  if (leaf.live_bytes() - old_bytes + tree_node::item_bytes(value.size()) > tree_node::kLeafRoom)
    return split(path, key, value, replacing);
  if (replacing) leaf.remove_item(at.index);
  leaf.insert_item(at.index, key, value);
  return lower_separators(path, key);
}

// Separators on the leftmost way may be greater than a new least key.
Status TreeWriter::lower_separators(const Path& path, u64 key) {
  const Source source{&tx_.store(), &tx_, ref_};
  for (unsigned d = 0; d + 1 < path.depth && path.steps[d].index == 0; ++d) {
    MetaView keep;
    PINDAX_ASSIGN(const ConstNode node, source.get(path.steps[d].block, Expected(), keep));
    if (node.key(0) <= key) continue;
    PINDAX_ASSIGN(std::byte * bytes, writable(path.steps[d].block));
    Node(bytes).set_key(0, key);
  }
  return {};
}

namespace {

struct Piece {
  u64 key;
  TreeBytes value;
};

// How many of `pieces` stay left: both sides fit, and are about equal. On the right edge the left stays full.
u32 split_point(std::span<const Piece> pieces, bool right_edge) {
  const u32 count = static_cast<u32>(pieces.size());
  if (right_edge) return count - 1;
  u32 total = 0;
  for (const Piece& p : pieces) total += tree_node::item_bytes(p.value.size());
  u32 left = 0;
  for (u32 i = 0; i < count; ++i) {
    left += tree_node::item_bytes(pieces[i].value.size());
    if (left >= total / 2) return std::min(i + 1, count - 1);
  }
  return count - 1;
}

}  // namespace

Status TreeWriter::split(Path& path, u64 key, TreeBytes value, bool replacing) {
  // What is full from the leaf upwards splits as well; a full root needs one more node above it.
  const Source source{&tx_.store(), &tx_, ref_};
  unsigned needed = 1, top = path.depth - 1;
  bool root_splits = true;
  while (top > 0 && root_splits) {
    MetaView keep;
    PINDAX_ASSIGN(const ConstNode node, source.get(path.steps[--top].block, Expected(), keep));
    if (node.count() < tree_node::kInnerMax) root_splits = false;
    else ++needed;
  }
  if (root_splits) {
    if (path.depth == kMaxTreeLevels) return Status(Errc::kNoSpace, "tree is full");
    ++needed;
  }
  // Private copies first: these can fail, the edits below cannot.
  for (unsigned d = top; d < path.depth; ++d) PINDAX_TRY(writable(path.steps[d].block));
  std::vector<BlockNo> spare;
  for (unsigned i = 0; i < needed; ++i) {
    auto block = nodes_.allocate_node(tx_);
    if (!block.ok()) {
      for (const BlockNo b : spare) nodes_.free_node(tx_, b);
      return block.status();
    }
    spare.push_back(*block);
  }

  const Path::Step& at = path.steps[path.depth - 1];
  PINDAX_ASSIGN(std::byte * bytes, writable(at.block));
  Node left(bytes);
  std::array<std::byte, kBlockSize> copy;
  std::memcpy(copy.data(), bytes, kBlockSize);
  const ConstNode old(copy.data());
  std::vector<Piece> pieces;
  pieces.reserve(old.count() + 1);
  for (u32 i = 0; i < old.count(); ++i) {
    if (i == at.index) pieces.push_back({key, value});
    if (i != at.index || !replacing) pieces.push_back({old.key(i), old.value(i)});
  }
  if (at.index == old.count()) pieces.push_back({key, value});
  const u32 stay = split_point(pieces, path.right_edge && !replacing);

  const BlockNo right_block = spare.back();
  spare.pop_back();
  PINDAX_ASSIGN(std::byte * right_bytes, new_node(right_block, 0));
  Node right(right_bytes);
  left.init(at.block, ref_.kind, ref_.owner, 0);
  for (u32 i = 0; i < stay; ++i) left.insert_item(i, pieces[i].key, pieces[i].value);
  for (u32 i = stay; i < pieces.size(); ++i) right.insert_item(i - stay, pieces[i].key, pieces[i].value);
  PINDAX_TRY(lower_separators(path, key));
  return insert_pair(path, path.depth - 1, right.key(0), right_block, spare);
}

// The node at `depth` of the path has got a right neighbour `child` with least key `key`.
Status TreeWriter::insert_pair(Path& path, unsigned depth, u64 key, BlockNo child, std::vector<BlockNo>& spare) {
  for (; depth > 0; --depth) {
    const Path::Step& up = path.steps[depth - 1];
    PINDAX_ASSIGN(std::byte * bytes, writable(up.block));
    Node node(bytes);
    const u32 at = up.index + 1;
    if (node.count() < tree_node::kInnerMax) {
      node.insert_pair(at, key, child);
      return {};
    }
    const BlockNo right_block = spare.back();
    spare.pop_back();
    PINDAX_ASSIGN(std::byte * right_bytes, new_node(right_block, node.level()));
    Node right(right_bytes);
    const u32 count = node.count();
    const u32 stay = path.right_edge ? count - 1 : count / 2;
    for (u32 i = stay; i < count; ++i) right.insert_pair(i - stay, node.key(i), node.child(i));
    for (u32 i = count; i > stay; --i) node.remove_pair(i - 1);
    if (at <= stay) node.insert_pair(at, key, child);
    else right.insert_pair(at - stay, key, child);
    key = right.key(0);
    child = right_block;
  }
  const BlockNo old_root = ref_.root;
  PINDAX_ASSIGN(std::byte * old_bytes, writable(old_root));
  const BlockNo root = spare.back();
  spare.pop_back();
  const ConstNode old(old_bytes);
  PINDAX_ASSIGN(std::byte * bytes, new_node(root, old.level() + 1));
  Node(bytes).insert_pair(0, std::min(old.key(0), key), old_root);
  Node(bytes).insert_pair(1, key, child);
  ref_.root = root;
  return {};
}

Status TreeWriter::erase(u64 key) {
  if (ref_.root.value == 0) return Status(Errc::kNotFound);
  Path path;
  PINDAX_TRY(descend(key, path));
  if (!path.found) return Status(Errc::kNotFound);
  const Path::Step& at = path.steps[path.depth - 1];
  PINDAX_ASSIGN(std::byte * bytes, writable(at.block));
  Node leaf(bytes);
  leaf.remove_item(at.index);
  if (leaf.count() == 0) {
    PINDAX_TRY(remove_pair(path, path.depth - 1));
  } else if (leaf.live_bytes() < tree_node::kThinBytes) {
    PINDAX_TRY(merge_thin(path, path.depth - 1));
  }
  return collapse_root();
}

// The node at `depth` is empty: it and its pair in the parent go.
Status TreeWriter::remove_pair(Path& path, unsigned depth) {
  for (;; --depth) {
    drop_node(path.steps[depth].block);
    if (depth == 0) {
      ref_.root = BlockNo(0);
      return {};
    }
    PINDAX_ASSIGN(std::byte * bytes, writable(path.steps[depth - 1].block));
    Node parent(bytes);
    parent.remove_pair(path.steps[depth - 1].index);
    if (parent.count() != 0)
      return parent.live_bytes() < tree_node::kThinBytes ? merge_thin(path, depth - 1) : Status();
  }
}

// The node at `depth` is thin: joins it with a neighbour if one block holds both. Goes on upwards.
Status TreeWriter::merge_thin(Path& path, unsigned depth) {
  for (; depth > 0; --depth) {
    const Path::Step& up = path.steps[depth - 1];
    PINDAX_ASSIGN(std::byte * parent_bytes, writable(up.block));
    Node parent(parent_bytes);
    const Source source{&tx_.store(), &tx_, ref_};
    bool merged = false;
    for (const bool with_right : {false, true}) {
      if (with_right ? up.index + 1 >= parent.count() : up.index == 0) continue;
      const u32 left_index = with_right ? up.index : up.index - 1;
      const BlockNo left_block = parent.child(left_index), right_block = parent.child(left_index + 1);
      MetaView keep_left, keep_right;
      const auto l_read = source.get(left_block, Expected::child_of(parent, left_index, {}), keep_left);
      const auto r_read = source.get(right_block, Expected::child_of(parent, left_index + 1, {}), keep_right);
      if (!l_read.ok() || !r_read.ok()) continue;  // a bad neighbour is not this item's trouble
      const ConstNode& l = *l_read;
      const ConstNode& r = *r_read;
      const u32 room = l.leaf() ? tree_node::kLeafRoom
                                : tree_node::kInnerMax * static_cast<u32>(sizeof(tree_node::InnerPair));
      if (l.live_bytes() + r.live_bytes() > room) continue;
      std::array<std::byte, kBlockSize> copy;  // `r` may point to bytes that end with writable()
      std::memcpy(copy.data(), r.bytes(), kBlockSize);
      const ConstNode right(copy.data());
      PINDAX_ASSIGN(std::byte * left_bytes, writable(left_block));
      Node left(left_bytes);
      for (u32 i = 0; i < right.count(); ++i) {
        if (left.leaf()) left.insert_item(left.count(), right.key(i), right.value(i));
        else left.insert_pair(left.count(), right.key(i), right.child(i));
      }
      drop_node(right_block);
      parent.remove_pair(left_index + 1);
      merged = true;
      break;
    }
    if (!merged || parent.live_bytes() >= tree_node::kThinBytes) return {};
  }
  return {};
}

Status TreeWriter::collapse_root() {
  const Source source{&tx_.store(), &tx_, ref_};
  while (ref_.root.value != 0) {
    MetaView keep;
    PINDAX_ASSIGN(const ConstNode root, source.get(ref_.root, Expected(), keep));
    if (root.leaf() || root.count() > 1) return {};
    const BlockNo child = root.child(0);
    drop_node(ref_.root);
    ref_.root = child;
  }
  return {};
}

Status TreeWriter::clear() {
  std::vector<BlockNo> blocks;
  PINDAX_TRY(TreeReader(tx_, ref_).scan_nodes([&](BlockNo block, unsigned) {
    blocks.push_back(block);
    return Status();
  }));
  for (const BlockNo b : blocks) drop_node(b);
  ref_.root = BlockNo(0);
  return {};
}

}  // namespace pindax
