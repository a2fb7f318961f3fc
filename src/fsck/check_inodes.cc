// SPDX-License-Identifier: BSD-3-Clause
//
// Every inode slot: the slot itself, the trees and blobs that hang from it, and last its data.
#include <sys/stat.h>

#include <cstring>

#include "fmt/format.h"
#include "fs/keys.h"
#include "fsck/checker.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;

void Checker::check_slots() {
  for (u64 index = 0; index < facts_.size(); ++index) {
    progress("inodes", index, facts_.size());
    const auto view = slot(number(index));
    if (view.ok()) check_slot(index, view->as<format::Inode>());
  }
  // Nodes only after all slots are known: a claim must not depend on the order of inodes.
  for (u64 index = 0; index < facts_.size(); ++index) {
    progress("metadata", index, facts_.size());
    if (facts_[index].mode == 0) continue;
    const auto view = slot(number(index));
    if (view.ok()) check_metadata(index, view->as<format::Inode>());
  }
}

void Checker::check_slot(u64 index, const format::Inode& on_media) {
  const InodeNo ino(number(index));
  const bool is_root = ino.value == sb_.root_inode;
  format::Inode s = on_media;
  const Status checked = format::check_inode(on_media, ino);
  if (!checked.ok()) {
    if (plausible(on_media, ino, &s)) {
      find(kError, "inode", name_of(ino.value), fmt::format("{}; its fields make sense and are kept", checked.message()));
      plan_.reseal.push_back(ino.value);
    } else {
      find(kError, "inode", name_of(ino.value), fmt::format("{}; nothing in it can be trusted", checked.message()));
      if (is_root) plan_.new_root = true;
      else plan_.clear.push_back(ino.value);
      return;
    }
  }
  if (s.generation > max_generation_) max_generation_ = s.generation;
  if (is_root && !S_ISDIR(s.mode)) {
    find(kError, "inode", name_of(ino.value), "the root is no directory");
    plan_.new_root = true;
    return;
  }
  if (s.mode == 0) return;
  InodeFacts& f = facts_[index];
  f.mode = s.mode;
  f.links = s.links;
  f.pending = s.pending_end > s.pending_begin ? static_cast<u8>(1 + std::min<u32>(s.pending_shift, 2)) : 0;
  ++report_.inodes;
  if (S_ISDIR(s.mode)) ++report_.directories;
  else if (S_ISREG(s.mode)) ++report_.files;
  else if (S_ISLNK(s.mode)) ++report_.symlinks;
  else ++report_.others;
}

// Claims the nodes of a tree; damage makes the tree one to be rebuilt.
void Checker::check_tree(const TreeRef& ref, const char* structure, const std::function<void(u64, TreeBytes)>& item,
                         u64* nodes) {
  TreeVisitor v;
  v.claim = true;
  v.item = item;
  v.bad = [&](BlockNo block, const std::string& why) {
    const bool of_group = ref.kind == TreeKind::kRefcount || ref.kind == TreeKind::kReverse;
    find(kError, structure,
         of_group         ? fmt::format("allocation group {}", ref.owner)
         : ref.owner == 0 ? fmt::format("block {}", block.value)
                          : name_of(ref.owner),
         fmt::format("node {}: {}; what can be read is kept", block.value, why));
    plan_.trees.insert({ref.owner, ref.kind});
    if (ref.kind == TreeKind::kDirectory) names_incomplete_ = true;
  };
  visit_tree(ref, v);
  if (nodes != nullptr) *nodes += v.nodes;
}

bool Checker::claim_blob(const format::BlobRef& ref, u64 owner, u64* blocks) {
  if (ref.block_count > format::kMaxBlobBlocks) return false;
  u64 bytes = 0;
  bool good = true;
  for (u32 i = 0; i < ref.block_count && good; ++i) {
    const BlockNo block(ref.blocks[i]);
    if (!geometry_.is_data(block, 1)) return false;
    const auto view = store_.view(block_offset(block), kBlockSize);
    good = view.ok() && format::check_blob(view->data(), block, owner).ok();
    if (good) bytes += view->as<format::BlobHeader>().length_bytes;
  }
  if (!good || bytes != ref.length_bytes) return false;
  for (u32 i = 0; i < ref.block_count; ++i) {
    if (claim_metadata(ref.blocks[i])) continue;
    return false;  // what was claimed before leaks until the next walk
  }
  *blocks += ref.block_count;
  return true;
}

void Checker::check_xattrs(u64 ino, u64 root, u64* blocks) {
  check_tree({BlockNo(root), TreeKind::kXattrs, ino}, "xattrs", [&](u64 key, TreeBytes value) {
    const auto bad = [&](std::string_view why) {
      find(kError, "xattrs", name_of(ino), fmt::format("attribute {:#x}: {}; it is removed", key, why));
      plan_.erase_items.push_back({{ino, TreeKind::kXattrs}, key});
    };
    const Status s = format::check_value(TreeKind::kXattrs, value);
    if (!s.ok()) return bad(s.message());
    format::XattrValue head;
    std::memcpy(&head, value.data(), sizeof head);
    const std::string_view name(reinterpret_cast<const char*>(value.data()) + sizeof head, head.name_length);
    if (key >> format::kCollisionBits != name_key(sb_.hash_key, name) >> format::kCollisionBits)
      return bad("stands under another name's key");
    if (head.external == 0) return;
    format::BlobRef blob;
    std::memcpy(&blob, value.data() + sizeof head + head.name_length, sizeof blob);
    if (!claim_blob(blob, ino, blocks)) bad("its value cannot be read");
  }, blocks);
}

void Checker::check_metadata(u64 index, const format::Inode& s) {
  const u64 ino = number(index);
  InodeFacts& f = facts_[index];
  u64 blocks = 0;
  switch (static_cast<DataKind>(s.data_kind.get())) {
    case DataKind::kTree: {
      const bool directory = S_ISDIR(s.mode);
      check_tree({BlockNo(s.body.root), directory ? TreeKind::kDirectory : TreeKind::kExtents, ino},
                 directory ? "directory" : "extents", [](u64, TreeBytes) {}, &blocks);
      break;
    }
    case DataKind::kBlobSymlink:
      if (!claim_blob(s.body.blob, ino, &blocks)) {
        find(kError, "blob", name_of(ino), "the symbolic link's target cannot be read; the link is removed");
        plan_.clear.push_back(ino);
        f.mode = 0;
        return;
      }
      break;
    default: break;
  }
  if (s.xattr_root != 0) check_xattrs(ino, s.xattr_root, &blocks);
  if (s.parent != 0) f.records_hash += name_term(s.parent, s.parent_key);
  if (s.parents_root != 0)
    check_tree({BlockNo(s.parents_root), TreeKind::kParents, ino}, "parents", [&](u64 key, TreeBytes value) {
      if (!format::check_value(TreeKind::kParents, value).ok()) return;  // the sums will differ
      format::ParentValue v;
      std::memcpy(&v, value.data(), sizeof v);
      if (key >> format::kCollisionBits != parent_record_key(v.parent, v.key) >> format::kCollisionBits) return;
      f.records_hash += name_term(v.parent, v.key);
    }, &blocks);
  if (plan_.trees.erase({ino, TreeKind::kParents}) != 0) plan_.slots[ino].parents = true;
  if (blocks != 0) metadata_blocks_[ino] = blocks;
}

// ---- Data ------------------------------------------------------------------------------------------------------------

void Checker::check_data() {
  for (u64 index = 0; index < facts_.size(); ++index) {
    progress("data", index, facts_.size());
    if (facts_[index].mode == 0) continue;
    const auto view = slot(number(index));
    if (view.ok()) check_extents(index, view->as<format::Inode>());
  }
}

// Claims the extent's blocks. False: it is to be dropped or cloned.
bool Checker::check_extent(u64 ino, const format::ExtentInfo& e, u64& end, u64* blocks) {
  const Plan::ItemFix fix{{ino, TreeKind::kExtents}, e.file_block.value};
  const auto drop = [&](std::string_view why) {
    find(kError, "extents", name_of(ino),
         fmt::format("extent at file block {} ({} blocks at {}) {}; it is dropped", e.file_block.value, e.length, e.block.value, why));
    plan_.drop_extents.push_back(fix);
    return false;
  };
  if (!geometry_.is_data(e.block, e.length)) return drop("is not in the data blocks of one group");
  if (e.file_block.value < end) return drop("overlaps the one before");
  if (e.file_block.value > (format::kMaxFileBytes >> kBlockShift)) return drop("is beyond every file's end");
  end = e.file_block.value + e.length;
  bool taken = false;
  for (u64 b = e.block.value; b < e.block.value + e.length && !taken; ++b)
    taken = used_.test(b) && !(e.shared && shared_.test(b));
  if (taken) {
    find(kError, "extents", name_of(ino),
         fmt::format("extent at file block {} ({} blocks at {}) belongs to somebody else as well; it gets a copy",
                     e.file_block.value, e.length, e.block.value));
    plan_.clone_extents.push_back(fix);
    *blocks += e.length;
    return false;
  }
  for (u64 b = e.block.value; b < e.block.value + e.length; ++b) {
    used_.set(b);
    if (e.shared) shared_.set(b);
  }
  if (e.shared) shared_extents_.emplace_back(e.block.value, e.block.value + e.length);
  note_damage(ino, e);
  *blocks += e.length;
  return true;
}

void Checker::check_extents(u64 index, const format::Inode& s) {
  const u64 ino = number(index);
  const std::size_t dropped = plan_.drop_extents.size();
  const auto known = metadata_blocks_.find(ino);
  u64 blocks = known != metadata_blocks_.end() ? known->second : 0, end = 0;
  if (S_ISREG(s.mode) && s.data_kind == static_cast<u16>(DataKind::kInlineExtents)) {
    for (u32 i = 0; i < s.extent_count && i < format::kInlineExtentCount; ++i)
      check_extent(ino, format::unpack_extent(s.body.extents[i]), end, &blocks);
  } else if (S_ISREG(s.mode)) {
    TreeVisitor v;
    v.bad = [](BlockNo, const std::string&) {};  // found by check_metadata
    v.item = [&](u64 key, TreeBytes value) {
      format::ExtentValue packed;
      if (!format::check_value(TreeKind::kExtents, value).ok()) {
        find(kError, "extents", name_of(ino), fmt::format("extent at file block {} makes no sense; it is dropped", key));
        plan_.drop_extents.push_back({{ino, TreeKind::kExtents}, key});
        return;
      }
      std::memcpy(&packed, value.data(), sizeof packed);
      check_extent(ino, format::unpack_extent(FileBlock(key), packed), end, &blocks);
    };
    visit_tree({BlockNo(s.body.root), TreeKind::kExtents, ino}, v);
  }
  // What is about to change is counted in the next walk.
  const bool settled = dropped == plan_.drop_extents.size() &&
                       !plan_.trees.contains({ino, S_ISDIR(s.mode) ? TreeKind::kDirectory : TreeKind::kExtents}) &&
                       !plan_.trees.contains({ino, TreeKind::kXattrs});
  if (settled && s.blocks != blocks) {
    find(kWarning, "inode", name_of(ino), fmt::format("says {} blocks, has {}", s.blocks.get(), blocks));
    plan_.slots[ino].blocks = blocks;
  }
}

}  // namespace pindax::fsck_detail
