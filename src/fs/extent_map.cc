// SPDX-License-Identifier: BSD-3-Clause
//
// See extent_map.h. Both representations offer the same three lookups (at or after, before, scan) and the
// same three changes (put, update, drop); merging and splitting are written once on top of them.
#include "fs/extent_map.h"

#include <algorithm>
#include <cstring>

namespace pindax {

using format::DataKind;
using format::kInlineExtentCount;

namespace {

constexpr FileBlock kEndOfBlocks{u64{1} << 52};
constexpr std::size_t kInlineAgain = kInlineExtentCount / 2;  // so few that a file does not go to and fro

DataKind kind_of(const format::Inode& inode) { return static_cast<DataKind>(inode.data_kind.get()); }

TreeRef tree_ref(const format::Inode& inode) {
  return {BlockNo(inode.body.root), format::TreeKind::kExtents, inode.self};
}

Status corrupt(const format::Inode& inode, const char* what) {
  return Status(Errc::kCorrupt, "inode " + std::to_string(inode.self.get()) + ": " + what);
}

Result<ExtentInfo> decode(const format::Inode& inode, u64 key, TreeBytes value) {
  if (value.size() != sizeof(format::ExtentValue)) return corrupt(inode, "extent value of a wrong length");
  format::ExtentValue v;
  std::memcpy(&v, value.data(), sizeof v);
  return format::unpack_extent(FileBlock(key), v);
}

}  // namespace

ExtentInfo clip_extent(const ExtentInfo& e, FileBlock begin, FileBlock end) {
  const FileBlock first = std::max(e.file_block, begin);
  const FileBlock last = std::min(e.file_end(), end);
  PINDAX_ASSERT(first < last);
  ExtentInfo part = e;
  part.file_block = first;
  part.block = e.block + (first - e.file_block);
  part.length = static_cast<u32>(last - first);
  return part;
}

// ---- ExtentReader
// -------------------------------------------------------------------------------------------------

TreeReader ExtentReader::tree() const {
  return tx_ != nullptr ? TreeReader(*tx_, tree_ref(inode_)) : TreeReader(store_, tree_ref(inode_));
}

Result<unsigned> ExtentReader::inline_count() const {
  if (kind_of(inode_) == DataKind::kNone) return 0u;
  if (kind_of(inode_) != DataKind::kInlineExtents) return corrupt(inode_, "has no extents");
  const unsigned count = inode_.extent_count;
  if (count > kInlineExtentCount) return corrupt(inode_, "too many inline extents");
  for (unsigned i = 0; i < count; ++i) {
    const ExtentInfo e = format::unpack_extent(inode_.body.extents[i]);
    PINDAX_TRY(check(e));
    if (i > 0 && format::unpack_extent(inode_.body.extents[i - 1]).file_end() > e.file_block)
      return corrupt(inode_, "inline extents overlap");
  }
  return count;
}

Status ExtentReader::check(const ExtentInfo& e) const {
  if (e.length == 0 || e.file_block >= kEndOfBlocks) return corrupt(inode_, "an empty or misplaced extent");
  if (!store_.geometry().is_data(e.block, e.length))
    return corrupt(inode_, "an extent outside the data area");
  if (e.state != ExtentState::kWritten && e.state != ExtentState::kUnwritten &&
      e.state != ExtentState::kProvisional)
    return corrupt(inode_, "an extent of unknown state");
  return {};
}

Result<std::optional<ExtentInfo>> ExtentReader::at_or_after(FileBlock block) {
  std::optional<ExtentInfo> found;
  PINDAX_TRY(scan(block, kEndOfBlocks, [&](const ExtentInfo& e) {
    found = e;
    return false;
  }));
  return found;
}

Result<std::optional<ExtentInfo>> ExtentReader::before(FileBlock block) {
  std::optional<ExtentInfo> found;
  if (block.value == 0) return found;
  if (kind_of(inode_) == DataKind::kTree) {
    TreeReader reader = tree();
    PINDAX_ASSIGN(const auto item, reader.at_or_before(block.value - 1));
    if (!item) return found;
    PINDAX_ASSIGN(found, decode(inode_, item->key, item->value));
    PINDAX_TRY(check(*found));
    return found;
  }
  PINDAX_ASSIGN(const unsigned count, inline_count());
  for (unsigned i = 0; i < count; ++i) {
    const ExtentInfo e = format::unpack_extent(inode_.body.extents[i]);
    if (e.file_block < block) found = e;
  }
  return found;
}

Status ExtentReader::scan(FileBlock begin, FileBlock end,
                          const std::function<bool(const ExtentInfo&)>& visit) {
  if (begin >= end) return {};
  if (kind_of(inode_) != DataKind::kTree) {
    PINDAX_ASSIGN(const unsigned count, inline_count());
    for (unsigned i = 0; i < count; ++i) {
      const ExtentInfo e = format::unpack_extent(inode_.body.extents[i]);
      if (e.file_end() <= begin) continue;
      if (e.file_block >= end || !visit(e)) break;
    }
    return {};
  }
  TreeReader reader = tree();
  PINDAX_ASSIGN(const auto first, reader.at_or_before(begin.value));
  FileBlock covered{0};
  if (first) {
    PINDAX_ASSIGN(const ExtentInfo e, decode(inode_, first->key, first->value));
    PINDAX_TRY(check(e));
    if (e.file_end() > begin) {
      if (!visit(e)) return {};
      covered = e.file_end();
    }
  }
  if (begin.value + 1 >= end.value || covered >= end) return {};
  Status bad;
  PINDAX_TRY(reader.scan(begin.value + 1, [&](u64 key, TreeBytes value) {
    if (key >= end.value) return false;
    auto e = decode(inode_, key, value);
    if (e.ok())
      bad = check(*e);
    else
      bad = e.status();
    if (bad.ok() && e->file_block < covered) bad = corrupt(inode_, "extents overlap");
    if (!bad.ok()) return false;
    covered = e->file_end();
    return visit(*e);
  }));
  return bad;
}

Result<std::vector<ExtentInfo>> ExtentReader::list(FileBlock begin, FileBlock end) {
  std::vector<ExtentInfo> out;
  PINDAX_TRY(scan(begin, end, [&](const ExtentInfo& e) {
    out.push_back(clip_extent(e, begin, end));
    return true;
  }));
  return out;
}

// ---- ExtentEditor
// -------------------------------------------------------------------------------------------------

bool ExtentEditor::is_tree() const { return kind_of(inode_) == DataKind::kTree; }

bool ExtentEditor::mergeable(const ExtentInfo& left, const ExtentInfo& right) const {
  const format::Geometry& g = tx_.store().geometry();
  return left.file_end() == right.file_block && left.block + left.length == right.block &&
         left.state == right.state && left.epoch == right.epoch && left.shared == right.shared &&
         g.ag_of(left.block) == g.ag_of(right.block) && u64{left.length} + right.length <= ~u32{0};
}

Status ExtentEditor::insert(const ExtentInfo& e) {
  PINDAX_TRY(join(e));
  inode_.blocks += e.length;
  return {};
}

Status ExtentEditor::join(ExtentInfo e) {
  PINDAX_ASSERT(e.length > 0);
  ExtentReader reader(tx_, inode_);
  PINDAX_ASSIGN(const auto left, reader.before(e.file_end()));
  if (left && left->file_end() > e.file_block) return corrupt(inode_, "a block would be mapped twice");
  PINDAX_ASSIGN(const auto right, reader.at_or_after(e.file_end()));
  if (right && mergeable(e, *right)) {
    PINDAX_TRY(drop(right->file_block));
    e.length += right->length;
  }
  if (left && mergeable(*left, e)) {
    ExtentInfo grown = *left;
    grown.length += e.length;
    return update(grown);
  }
  return put(e);
}

Status ExtentEditor::cut(const ExtentInfo& whole, const ExtentInfo& part) {
  if (part.file_block > whole.file_block) {
    PINDAX_TRY(update(clip_extent(whole, whole.file_block, part.file_block)));
  } else {
    PINDAX_TRY(drop(whole.file_block));
  }
  if (part.file_end() < whole.file_end()) return put(clip_extent(whole, part.file_end(), whole.file_end()));
  return {};
}

Result<FileBlock> ExtentEditor::remove(FileBlock begin, FileBlock end, unsigned most,
                                       const std::function<Status(const ExtentInfo&)>& removed) {
  FileBlock at = begin;
  while (at < end) {
    PINDAX_ASSIGN(const auto e, ExtentReader(tx_, inode_).at_or_after(at));
    if (!e || e->file_block >= end) break;
    if (most-- == 0) return at;
    const ExtentInfo part = clip_extent(*e, at, end);
    PINDAX_TRY(cut(*e, part));
    inode_.blocks -= part.length;
    PINDAX_TRY(removed(part));
    at = part.file_end();
  }
  PINDAX_TRY(to_inline());
  return end;
}

// `changed` changes its copy, or says that there is nothing to change.
Result<FileBlock> ExtentEditor::change(FileBlock begin, FileBlock end, unsigned most,
                                       const std::function<bool(ExtentInfo&)>& changed) {
  FileBlock at = begin;
  while (at < end) {
    PINDAX_ASSIGN(const auto e, ExtentReader(tx_, inode_).at_or_after(at));
    if (!e || e->file_block >= end) return end;
    ExtentInfo part = clip_extent(*e, std::max(at, e->file_block), end);
    at = part.file_end();
    if (!changed(part)) continue;
    if (most-- == 0) return part.file_block;
    PINDAX_TRY(cut(*e, part));
    PINDAX_TRY(join(part));
  }
  return end;
}

Result<FileBlock> ExtentEditor::set_state(FileBlock begin, FileBlock end, ExtentState state, u32 epoch,
                                          unsigned most) {
  return change(begin, end, most, [&](ExtentInfo& e) {
    if (e.state == state && e.epoch == epoch) return false;
    e.state = state;
    e.epoch = epoch;
    return true;
  });
}

Result<FileBlock> ExtentEditor::set_shared(FileBlock begin, FileBlock end, bool shared, unsigned most,
                                           const std::function<bool(const ExtentInfo&)>& which) {
  return change(begin, end, most, [&](ExtentInfo& e) {
    if (e.shared == shared || !which(e)) return false;
    e.shared = shared;
    return true;
  });
}

Status ExtentEditor::split(FileBlock at) {
  PINDAX_ASSIGN(const auto e, ExtentReader(tx_, inode_).at_or_after(at));
  if (!e || e->file_block >= at) return {};
  PINDAX_TRY(update(clip_extent(*e, e->file_block, at)));
  return put(clip_extent(*e, at, e->file_end()));
}

Status ExtentEditor::merge(FileBlock at) {
  ExtentReader reader(tx_, inode_);
  PINDAX_ASSIGN(const auto left, reader.before(at));
  PINDAX_ASSIGN(const auto right, reader.at_or_after(at));
  if (!left || !right || right->file_block != at || !mergeable(*left, *right)) return {};
  PINDAX_TRY(drop(right->file_block));
  ExtentInfo grown = *left;
  grown.length += right->length;
  return update(grown);
}

Result<std::optional<ExtentEditor::Moved>> ExtentEditor::shift(FileBlock begin, FileBlock end, i64 by) {
  const std::optional<Moved> none;
  if (begin >= end || by == 0) return none;
  std::optional<Moved> moved;
  if (is_tree()) {
    std::optional<TreeWriter::KeyRange> keys;
    PINDAX_TRY(with_tree([&](TreeWriter& w) -> Status {
      PINDAX_ASSIGN(keys, w.shift_keys(begin.value, end.value - 1, by));
      return {};
    }));
    if (!keys) return none;
    moved = Moved{FileBlock(keys->first), FileBlock(keys->last)};
  } else {
    for (unsigned i = 0; i < inode_.extent_count; ++i) {
      format::Extent& e = inode_.body.extents[i];
      const FileBlock at(e.file_block);
      if (at < begin || at >= end) continue;
      e.file_block = at.value + static_cast<u64>(by);
      if (!moved) moved = Moved{at, at};
      moved->end = at;
    }
    if (!moved) return none;
  }
  // So far `end` is where the last one began.
  const FileBlock last(moved->end.value + static_cast<u64>(by));
  PINDAX_ASSIGN(const auto e, ExtentReader(tx_, inode_).at_or_after(last));
  if (!e || e->file_block != last) return corrupt(inode_, "a moved extent vanished");
  moved->end = moved->end + e->length;
  return moved;
}

// ---- The stored extents
// -------------------------------------------------------------------------------------------

Status ExtentEditor::with_tree(const std::function<Status(TreeWriter&)>& work) {
  TreeRef ref = tree_ref(inode_);
  TreeWriter writer(tx_, ref, nodes_);
  const Status status = work(writer);
  inode_.body.root = ref.root.value;
  return status;
}

Status ExtentEditor::put(const ExtentInfo& e) {
  if (!is_tree()) {
    PINDAX_ASSERT(kind_of(inode_) == DataKind::kInlineExtents || kind_of(inode_) == DataKind::kNone);
    if (kind_of(inode_) == DataKind::kNone) {
      inode_.data_kind = static_cast<u16>(DataKind::kInlineExtents);
      inode_.extent_count = 0;
    }
    const unsigned count = inode_.extent_count;
    if (count < kInlineExtentCount) {
      unsigned i = count;
      for (; i > 0 && FileBlock(inode_.body.extents[i - 1].file_block) > e.file_block; --i)
        inode_.body.extents[i] = inode_.body.extents[i - 1];
      inode_.body.extents[i] = format::pack_extent(e);
      inode_.extent_count = static_cast<u16>(count + 1);
      return {};
    }
    PINDAX_TRY(to_tree());
  }
  const format::ExtentValue value = format::pack_extent_value(e);
  return with_tree(
      [&](TreeWriter& w) { return w.insert(e.file_block.value, std::as_bytes(std::span(&value, 1))); });
}

Status ExtentEditor::update(const ExtentInfo& e) {
  if (is_tree()) {
    const format::ExtentValue value = format::pack_extent_value(e);
    return with_tree(
        [&](TreeWriter& w) { return w.replace(e.file_block.value, std::as_bytes(std::span(&value, 1))); });
  }
  for (unsigned i = 0; i < inode_.extent_count; ++i) {
    if (FileBlock(inode_.body.extents[i].file_block) != e.file_block) continue;
    inode_.body.extents[i] = format::pack_extent(e);
    return {};
  }
  return corrupt(inode_, "an extent vanished");
}

Status ExtentEditor::drop(FileBlock key) {
  if (is_tree()) {
    PINDAX_TRY(with_tree([&](TreeWriter& w) { return w.erase(key.value); }));
    if (inode_.body.root != 0) return {};  // else the tree became empty
    inode_.data_kind = static_cast<u16>(DataKind::kInlineExtents);
    inode_.extent_count = 0;
    std::memset(inode_.body.raw, 0, sizeof inode_.body.raw);
    return {};
  }
  const unsigned count = inode_.extent_count;
  for (unsigned i = 0; i < count; ++i) {
    if (FileBlock(inode_.body.extents[i].file_block) != key) continue;
    for (; i + 1 < count; ++i) inode_.body.extents[i] = inode_.body.extents[i + 1];
    inode_.body.extents[count - 1] = format::Extent{};
    inode_.extent_count = static_cast<u16>(count - 1);
    return {};
  }
  return corrupt(inode_, "an extent vanished");
}

Status ExtentEditor::to_inline() {
  if (!is_tree()) return {};
  std::vector<ExtentInfo> all;
  PINDAX_TRY(ExtentReader(tx_, inode_).scan(FileBlock(0), kEndOfBlocks, [&](const ExtentInfo& e) {
    all.push_back(e);
    return all.size() <= kInlineAgain;
  }));
  if (all.size() > kInlineAgain) return {};
  PINDAX_TRY(with_tree([](TreeWriter& w) { return w.clear(); }));
  std::memset(inode_.body.raw, 0, sizeof inode_.body.raw);
  inode_.data_kind = static_cast<u16>(DataKind::kInlineExtents);
  inode_.extent_count = 0;
  for (const ExtentInfo& e : all) PINDAX_TRY(put(e));
  return {};
}

Status ExtentEditor::to_tree() {
  ExtentInfo all[kInlineExtentCount];
  const unsigned count = inode_.extent_count;
  for (unsigned i = 0; i < count; ++i) all[i] = format::unpack_extent(inode_.body.extents[i]);
  std::memset(inode_.body.raw, 0, sizeof inode_.body.raw);
  inode_.data_kind = static_cast<u16>(DataKind::kTree);
  inode_.extent_count = 0;
  for (unsigned i = 0; i < count; ++i) PINDAX_TRY(put(all[i]));
  return {};
}

}  // namespace pindax
