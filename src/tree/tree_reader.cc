// SPDX-License-Identifier: BSD-3-Clause
//
// The reading half of the tree: a cursor that remembers its way down, and the lookups on top of it.
#include "tree/node.h"

namespace pindax {

using tree_node::ConstNode;
using tree_node::Expected;
using tree_node::Source;

namespace tree_node {

Result<ConstNode> Source::get(BlockNo block, const Expected& expected, MetaView& keep) const {
  const PoolOffset at = block_offset(block);
  const std::byte* bytes = nullptr;
  if (tx != nullptr && tx->modified(at)) {
    PINDAX_ASSIGN(bytes, tx->read(at, kBlockSize));
  } else {
    if (block.value >= store->geometry().pool_blocks)
      return Status(Errc::kCorrupt, "tree points outside the pool");
    PINDAX_ASSIGN(keep, store->view(at, kBlockSize));
    bytes = keep.data();
    PINDAX_TRY(keep.known() ? format::check_node_identity(bytes, block, ref.kind, ref.owner)
                            : format::check_node(bytes, block, ref.kind, ref.owner));
  }
  const ConstNode node(bytes);
  const int level = static_cast<int>(node.level());
  if (expected.level >= 0 ? level != expected.level : level >= static_cast<int>(kMaxTreeLevels))
    return Status(Errc::kCorrupt, "tree node has the wrong level");
  if (node.count() == 0) return Status(Errc::kCorrupt, "tree node is empty");
  if (node.key(0) < expected.low || node.key(node.count() - 1) > expected.high)
    return Status(Errc::kCorrupt, "tree node has keys of its neighbours");
  return node;
}

}  // namespace tree_node

namespace {

// A place in a leaf and the way to it.
class Cursor {
 public:
  explicit Cursor(const Source& source) : source_(source) {}

  // The leaf that `key` belongs to, at the first item >= key (perhaps behind the leaf's last).
  Status seek(u64 key) {
    depth_ = 0;
    BlockNo block = source_.ref.root;
    for (Expected expected;;) {
      PINDAX_TRY(enter(block, expected));
      Step& s = steps_[depth_ - 1];
      if (s.node.leaf()) {
        s.index = s.node.lower_bound(key);
        return {};
      }
      s.index = s.node.child_index(key);
      block = s.node.child(s.index);
      expected = Expected::child_of(s.node, s.index, s.expected);
    }
  }
  const ConstNode& leaf() const { return steps_[depth_ - 1].node; }
  u32 index() const { return steps_[depth_ - 1].index; }
  bool at_item() const { return index() < leaf().count(); }
  void advance() { ++steps_[depth_ - 1].index; }
  const MetaView& leaf_view() const { return steps_[depth_ - 1].keep; }

  // To the first item of the next leaf (false: there is none).
  Result<bool> next_leaf() { return move(true); }
  // To the last item of the leaf before.
  Result<bool> previous_leaf() { return move(false); }

 private:
  struct Step {
    ConstNode node{nullptr};
    u32 index = 0;
    Expected expected;
    MetaView keep;
  };

  Status enter(BlockNo block, const Expected& expected) {
    if (depth_ == kMaxTreeLevels) return Status(Errc::kCorrupt, "tree is too deep");
    Step& s = steps_[depth_];
    PINDAX_ASSIGN(s.node, source_.get(block, expected, s.keep));
    s.expected = expected;
    ++depth_;
    return {};
  }
  Result<bool> move(bool forward) {
    for (;;) {
      if (depth_ <= 1) return false;
      --depth_;
      const Step& up = steps_[depth_ - 1];
      if (forward ? up.index + 1 < up.node.count() : up.index > 0) break;
    }
    Step& turn = steps_[depth_ - 1];
    turn.index = forward ? turn.index + 1 : turn.index - 1;
    while (!steps_[depth_ - 1].node.leaf()) {
      const Step& s = steps_[depth_ - 1];
      PINDAX_TRY(enter(s.node.child(s.index), Expected::child_of(s.node, s.index, s.expected)));
      Step& down = steps_[depth_ - 1];
      down.index = forward ? 0 : down.node.count() - 1;
    }
    return true;
  }

  Source source_;
  std::array<Step, kMaxTreeLevels> steps_;
  unsigned depth_ = 0;
};

}  // namespace

Result<TreeBytes> TreeReader::find(u64 key) {
  if (ref_.root.value == 0) return Errc::kNotFound;
  Cursor cursor(Source{store_, tx_, ref_});
  PINDAX_TRY(cursor.seek(key));
  if (!cursor.at_item() || cursor.leaf().key(cursor.index()) != key) return Errc::kNotFound;
  if (cursor.leaf_view()) views_.push_back(cursor.leaf_view());
  return cursor.leaf().value(cursor.index());
}

Result<std::optional<TreeReader::Item>> TreeReader::lower_bound(u64 key) {
  if (ref_.root.value == 0) return std::optional<Item>();
  Cursor cursor(Source{store_, tx_, ref_});
  PINDAX_TRY(cursor.seek(key));
  if (!cursor.at_item()) {
    PINDAX_ASSIGN(const bool more, cursor.next_leaf());
    if (!more) return std::optional<Item>();
  }
  if (cursor.leaf_view()) views_.push_back(cursor.leaf_view());
  return std::optional<Item>(Item{cursor.leaf().key(cursor.index()), cursor.leaf().value(cursor.index())});
}

Result<std::optional<TreeReader::Item>> TreeReader::at_or_before(u64 key) {
  if (ref_.root.value == 0) return std::optional<Item>();
  Cursor cursor(Source{store_, tx_, ref_});
  PINDAX_TRY(cursor.seek(key));
  u32 at = cursor.index();
  if (!cursor.at_item() || cursor.leaf().key(at) != key) {
    if (at == 0) {
      PINDAX_ASSIGN(const bool more, cursor.previous_leaf());
      if (!more) return std::optional<Item>();
      at = cursor.index();
    } else {
      --at;
    }
  }
  if (cursor.leaf_view()) views_.push_back(cursor.leaf_view());
  return std::optional<Item>(Item{cursor.leaf().key(at), cursor.leaf().value(at)});
}

Status TreeReader::scan(u64 first, const std::function<bool(u64 key, TreeBytes value)>& visit) {
  if (ref_.root.value == 0) return {};
  Cursor cursor(Source{store_, tx_, ref_});
  PINDAX_TRY(cursor.seek(first));
  for (;;) {
    for (; cursor.at_item(); cursor.advance())
      if (!visit(cursor.leaf().key(cursor.index()), cursor.leaf().value(cursor.index()))) return {};
    PINDAX_ASSIGN(const bool more, cursor.next_leaf());
    if (!more) return {};
  }
}

namespace {

// Recursion is as deep as the tree: at most kMaxTreeLevels.
Status visit_nodes(const Source& source, BlockNo block, const Expected& expected,
                   const std::function<Status(BlockNo, unsigned)>& visit) {
  MetaView keep;
  PINDAX_ASSIGN(const ConstNode node, source.get(block, expected, keep));
  PINDAX_TRY(visit(block, node.level()));
  if (node.leaf()) return {};
  for (u32 i = 0; i < node.count(); ++i)
    PINDAX_TRY(visit_nodes(source, node.child(i), Expected::child_of(node, i, expected), visit));
  return {};
}

}  // namespace

Status TreeReader::scan_nodes(const std::function<Status(BlockNo block, unsigned level)>& visit) {
  if (ref_.root.value == 0) return {};
  return visit_nodes(Source{store_, tx_, ref_}, ref_.root, {}, visit);
}

}  // namespace pindax
