// SPDX-License-Identifier: BSD-3-Clause
//
// Moving keys in place: what collapsing and inserting a range of a file does to its extents. A leaf at a time, so that the
// caller can cut the work into transactions; between two of them the tree is in order, as every key moves into room that
// is free. A leaf whose least key moves takes its separators along, since its neighbours will need their room next.
#include "tree/node.h"
#include "tree/tree_path.h"

namespace pindax {

using tree_node::ConstNode;
using tree_node::Expected;
using tree_node::Node;
using tree_node::Source;

// The leaf at the end of the path has got another least key.
Status TreeWriter::move_separators(const Path& path, u64 key) {
  for (unsigned d = path.depth - 1; d-- > 0;) {
    const Path::Step& up = path.steps[d];
    PINDAX_ASSIGN(std::byte * bytes, writable(up.block));
    Node node(bytes);
    const bool fits = (up.index == 0 || node.key(up.index - 1) < key) &&
                      (up.index + 1 >= node.count() || key < node.key(up.index + 1));
    if (!fits) return Status(Errc::kCorrupt, "moved keys would pass those of the next tree node");
    node.set_key(up.index, key);
    if (up.index > 0) return {};
  }
  return {};
}

Result<std::optional<TreeWriter::KeyRange>> TreeWriter::shift_keys(u64 first, u64 last, i64 delta) {
  const std::optional<KeyRange> none;
  if (ref_.root.value == 0 || first > last || delta == 0) return none;
  u64 key = 0;
  {
    TreeReader reader(tx_, ref_);
    PINDAX_ASSIGN(const auto item, delta < 0 ? reader.lower_bound(first) : reader.at_or_before(last));
    if (!item || item->key < first || item->key > last) return none;
    key = item->key;
  }
  Path path;
  PINDAX_TRY(descend(key, path));
  if (!path.found) return Status(Errc::kCorrupt, "a key of the tree vanished");
  const Path::Step& at = path.steps[path.depth - 1];
  PINDAX_ASSIGN(std::byte * bytes, writable(at.block));
  Node leaf(bytes);
  u32 begin = at.index, end = at.index + 1;
  if (delta < 0) {
    while (end < leaf.count() && leaf.key(end) <= last) ++end;
  } else {
    begin = leaf.lower_bound(first);
  }
  const KeyRange moved{leaf.key(begin), leaf.key(end - 1)};
  const u64 distance = delta < 0 ? u64{0} - static_cast<u64>(delta) : static_cast<u64>(delta);
  const bool in_order = delta < 0 ? moved.first >= distance && (begin == 0 || leaf.key(begin - 1) < moved.first - distance)
                                  : moved.last <= ~u64{0} - distance &&
                                        (end == leaf.count() || moved.last + distance < leaf.key(end));
  if (!in_order) return Status(Errc::kCorrupt, "moved keys would pass those that stay");
  for (u32 i = begin; i < end; ++i) leaf.set_item_key(i, leaf.key(i) + static_cast<u64>(delta));
  if (begin == 0) PINDAX_TRY(move_separators(path, leaf.key(0)));
  return std::optional<KeyRange>(moved);
}

}  // namespace pindax
