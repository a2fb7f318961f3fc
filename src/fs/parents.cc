// SPDX-License-Identifier: BSD-3-Clause
//
// Where an inode's names are: (directory, key) for each link. The first lies in the slot, others in a tree whose key is a
// hash of both, so that a file of 65,000 links loses one of them in a few steps. Paths are found by walking up these records.
//
// Locking: records change under the exclusive lock of the inode together with the entry they name. A walk takes one lock
// at a time, so names may change under it; it notices an entry that is not the inode's and starts over.
#include <cstring>

#include "fs/file_system_impl.h"
#include "fs/keys.h"

namespace pindax {
namespace {

constexpr unsigned kPathAttempts = 8;
constexpr unsigned kMaxDepth = 1u << 20;  // directories; deeper is a cycle

TreeRef parents_tree(const format::Inode& slot) {
  return {BlockNo(slot.parents_root), format::TreeKind::kParents, slot.self};
}

Result<format::ParentValue> decode(TreeBytes value) {
  format::ParentValue v;
  if (value.size() != sizeof v) return Status(Errc::kCorrupt, "a parent record has a wrong length");
  std::memcpy(&v, value.data(), sizeof v);
  return v;
}

}  // namespace

Status FileSystemImpl::add_parent(Transaction& tx, format::Inode& slot, Parent parent) {
  if (slot.parent == 0) {
    slot.parent = parent.dir.value;
    slot.parent_key = parent.key;
    return {};
  }
  const u64 hash = parent_record_key(parent.dir.value, parent.key);
  u64 key = hash;
  TreeRef ref = parents_tree(slot);
  PINDAX_TRY(TreeReader(tx, ref).scan(key, [&](u64 taken, TreeBytes) {
    if (taken != key) return false;
    ++key;
    return true;
  }));
  if (key >> format::kCollisionBits != hash >> format::kCollisionBits) return Status(Errc::kTooManyLinks);
  format::ParentValue v{};
  v.parent = parent.dir.value;
  v.key = parent.key;
  InodeNodes nodes(*allocator_, slot);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).insert(key, std::as_bytes(std::span(&v, 1))));
  slot.parents_root = ref.root.value;
  return {};
}

Status FileSystemImpl::remove_parent(Transaction& tx, format::Inode& slot, Parent parent) {
  TreeRef ref = parents_tree(slot);
  InodeNodes nodes(*allocator_, slot);
  std::optional<u64> victim;
  Status bad;
  if (slot.parent == parent.dir.value && slot.parent_key == parent.key) {
    // Any other record takes the place in the slot.
    slot.parent = 0;
    slot.parent_key = 0;
    if (ref.root.value == 0) return {};
    TreeReader tree(tx, ref);
    PINDAX_ASSIGN(const auto first, tree.lower_bound(0));
    if (!first) return {};
    PINDAX_ASSIGN(const auto v, decode(first->value));
    slot.parent = v.parent;
    slot.parent_key = v.key;
    victim = first->key;
  } else {
    const u64 hash = parent_record_key(parent.dir.value, parent.key);
    PINDAX_TRY(TreeReader(tx, ref).scan(hash, [&](u64 key, TreeBytes value) {
      if (key >> format::kCollisionBits != hash >> format::kCollisionBits) return false;
      auto v = decode(value);
      if (!v.ok()) {
        bad = v.status();
        return false;
      }
      if (v->parent != parent.dir.value || v->key != parent.key) return true;
      victim = key;
      return false;
    }));
    PINDAX_TRY(bad);
    if (!victim) return Status(Errc::kCorrupt, "an inode has no record of one of its names: run pindax fsck");
  }
  PINDAX_TRY(TreeWriter(tx, ref, nodes).erase(*victim));
  slot.parents_root = ref.root.value;
  return {};
}

Result<std::vector<FileSystemImpl::Parent>> FileSystemImpl::parents_of(const format::Inode& slot, unsigned most) {
  std::vector<Parent> out;
  Status bad;
  if (slot.parent == 0 || most == 0) return out;
  out.push_back({InodeNo(slot.parent), slot.parent_key});
  if (slot.parents_root == 0 || out.size() >= most) return out;
  PINDAX_TRY(TreeReader(*store_, parents_tree(slot)).scan(0, [&](u64, TreeBytes value) {
    auto v = decode(value);
    if (!v.ok()) {
      bad = v.status();
      return false;
    }
    out.push_back({InodeNo(v->parent), v->key});
    return out.size() < most;
  }));
  PINDAX_TRY(bad);
  return out;
}

Result<std::string> FileSystemImpl::path_of(InodeNo ino, Parent parent) {
  std::vector<std::string> names;
  for (unsigned depth = 0; depth < kMaxDepth; ++depth) {
    PINDAX_ASSIGN(const InodeRef dir, get(parent.dir, 0));
    ReadLock lock(dir->mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(*dir));
    if (!is_directory(*slot)) return Errc::kNotFound;
    PINDAX_ASSIGN(std::string name, entry_name(*slot, parent.key, ino));
    names.push_back(std::move(name));
    if (dir->ino.value == superblock_.root_inode) {
      std::string path;
      for (auto it = names.rbegin(); it != names.rend(); ++it) path.append("/").append(*it);
      return path;
    }
    if (slot->parent == 0) return Errc::kNotFound;  // a removed directory
    ino = dir->ino;
    parent = {InodeNo(slot->parent), slot->parent_key};
  }
  return Status(Errc::kCorrupt, "directories form a cycle");
}

std::vector<std::string> FileSystemImpl::paths(InodeNo ino, unsigned most) {
  if (ino.value == superblock_.root_inode) return {"/"};
  std::vector<std::string> out;
  for (unsigned attempt = 0; attempt < kPathAttempts; ++attempt) {
    out.clear();
    auto inode = get(ino, 0);
    if (!inode.ok()) return out;
    std::vector<Parent> parents;
    {
      ReadLock lock((*inode)->mutex);
      auto slot = read_slot(**inode);
      if (!slot.ok()) return out;
      auto listed = parents_of(**slot, most);
      if (!listed.ok()) return out;
      parents = std::move(*listed);
    }
    bool changed = false;
    for (const Parent& p : parents) {
      auto path = path_of(ino, p);
      if (path.ok()) out.push_back(std::move(*path));
      else changed = true;
    }
    if (!changed) break;
  }
  return out;
}

}  // namespace pindax
