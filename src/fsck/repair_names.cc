// SPDX-License-Identifier: BSD-3-Clause
//
// Entries, link counts, parent records and lost+found.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "fmt/format.h"
#include "fs/keys.h"
#include "fsck/repair.h"

namespace pindax::fsck_detail {

namespace {

constexpr const char* kLostFound = "lost+found";

std::vector<std::byte> entry_bytes(const std::string& name, u64 ino, u32 mode) {
  format::DirectoryValue v{};
  v.inode = ino;
  v.type = type_of_mode(mode);
  v.name_length = static_cast<u8>(name.size());
  std::vector<std::byte> bytes(sizeof v + name.size());
  std::memcpy(bytes.data(), &v, sizeof v);
  std::memcpy(bytes.data() + sizeof v, name.data(), name.size());
  return bytes;
}

}  // namespace

// The first free key of the name's hash. kExists if the name is there.
Status Repair::insert_name(Transaction& tx, format::Inode& dir, const std::string& name, u64 ino, u64* out_key) {
  const u64 hash = std::max(name_key(c_.superblock().hash_key, name), format::kFirstCookie);
  const std::vector<std::byte> bytes = entry_bytes(name, ino, c_.facts(ino)->mode);
  u64 key = hash;
  bool there = false;
  TreeRef ref{BlockNo(dir.body.root), TreeKind::kDirectory, dir.self};
  PINDAX_TRY(TreeReader(tx, ref).scan(key, [&](u64 taken, TreeBytes value) {
    if (taken >> format::kCollisionBits != hash >> format::kCollisionBits) return false;
    there = there || (value.size() == bytes.size() && std::memcmp(value.data() + sizeof(format::DirectoryValue), name.data(), name.size()) == 0);
    if (taken == key) ++key;
    return true;
  }));
  if (there) return Status(Errc::kExists);
  if (key >> format::kCollisionBits != hash >> format::kCollisionBits) return Status(Errc::kNoSpace, "too many names of one hash");
  InodeNodes nodes(*allocator_, dir);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).insert(key, bytes));
  dir.body.root = ref.root.value;
  *out_key = key;
  return {};
}

Status Repair::fix_entry(const Plan::EntryFix& fix) {
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * dir, modify_inode(tx, InodeNo(fix.dir)));
    TreeRef ref{BlockNo(dir->body.root), TreeKind::kDirectory, fix.dir};
    InodeNodes nodes(*allocator_, *dir);
    TreeReader reader(tx, ref);
    const auto found = reader.find(fix.key);
    if (found.code() == Errc::kNotFound) return {};  // another fix was faster
    PINDAX_TRY(found);
    std::vector<std::byte> value(found->begin(), found->end());
    format::DirectoryValue v{};
    if (fix.what != Plan::EntryFix::kErase) std::memcpy(&v, value.data(), sizeof v);
    if (fix.what == Plan::EntryFix::kType) {
      v.type = type_of_mode(c_.facts(v.inode)->mode);
      std::memcpy(value.data(), &v, sizeof v);
      PINDAX_TRY(TreeWriter(tx, ref, nodes).replace(fix.key, value));
      dir->body.root = ref.root.value;
      return {};
    }
    PINDAX_TRY(TreeWriter(tx, ref, nodes).erase(fix.key));
    dir->body.root = ref.root.value;
    if (fix.what == Plan::EntryFix::kErase) return {};
    const std::string name(reinterpret_cast<const char*>(value.data()) + sizeof v, v.name_length);
    u64 key = 0;
    const Status s = insert_name(tx, *dir, name, v.inode, &key);
    return s.code() == Errc::kExists ? Status() : s;
  });
}

Status Repair::fix_counts(u64 ino, const Plan::SlotFix& fix) {
  if (!fix.links && !fix.subdirs && !fix.entries && !fix.blocks) return {};
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(ino)));
    if (fix.links) slot->links = *fix.links;
    if (fix.subdirs) slot->subdirs = *fix.subdirs;
    if (fix.entries) slot->entries = *fix.entries;
    if (fix.blocks) slot->blocks = *fix.blocks;
    return {};
  });
}

// ---- Parent records -------------------------------------------------------------------------------------------------

// Inodes whose records are wrong get those that their names, read once more, tell.
Status Repair::rebuild_parents() {
  std::map<u64, std::vector<std::pair<u64, u64>>> names;
  for (const auto& [ino, fix] : plan_.slots)
    if (fix.parents) names[ino];
  if (names.empty()) return {};
  c_.each_inode([&](u64 dir, const InodeFacts& f) {
    if (!S_ISDIR(f.mode)) return;
    const auto view = c_.slot(dir);
    if (!view.ok()) return;
    Checker::TreeVisitor v;
    v.bad = [](BlockNo, const std::string&) {};
    v.item = [&](u64 key, TreeBytes value) {
      format::DirectoryValue e;
      if (value.size() < sizeof e) return;
      std::memcpy(&e, value.data(), sizeof e);
      if (const auto it = names.find(e.inode); it != names.end()) it->second.emplace_back(dir, key);
    };
    c_.visit_tree({BlockNo(view->as<format::Inode>().body.root), TreeKind::kDirectory, dir}, v);
  });
  for (const auto& entry : names) {
    const u64 ino = entry.first;
    const auto& records = entry.second;
    Items items;
    for (std::size_t i = 1; i < records.size(); ++i) {
      format::ParentValue v{};
      v.parent = records[i].first;
      v.key = records[i].second;
      u64 key = parent_record_key(v.parent, v.key);
      while (items.contains(key)) ++key;
      const auto bytes = std::as_bytes(std::span(&v, 1));
      items.emplace(key, std::vector<std::byte>(bytes.begin(), bytes.end()));
    }
    BlockNo root;
    u64 nodes = 0;
    PINDAX_TRY(build_tree(TreeKind::kParents, ino, items, root, nodes));
    const Status done = change([&](Transaction& tx) -> Status {
      PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(ino)));
      slot->parent = records.empty() ? 0 : records[0].first;
      slot->parent_key = records.empty() ? 0 : records[0].second;
      slot->parents_root = root.value;
      return {};
    });
    PINDAX_TRY(done);
  }
  return {};
}

// ---- lost+found -----------------------------------------------------------------------------------------------------

Result<u64> Repair::lost_found() {
  const u64 root = c_.superblock().root_inode;
  u64 found = 0;
  const Status done = change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * dir, modify_inode(tx, InodeNo(root)));
    TreeReader reader(tx, {BlockNo(dir->body.root), TreeKind::kDirectory, root});
    const u64 hash = std::max(name_key(c_.superblock().hash_key, kLostFound), format::kFirstCookie);
    PINDAX_TRY(reader.scan(hash, [&](u64 key, TreeBytes value) {
      format::DirectoryValue e;
      if (key >> format::kCollisionBits != hash >> format::kCollisionBits || value.size() < sizeof e) return false;
      std::memcpy(&e, value.data(), sizeof e);
      const std::string_view name(reinterpret_cast<const char*>(value.data()) + sizeof e, value.size() - sizeof e);
      const InodeFacts* f = c_.facts(e.inode);
      if (name == kLostFound && f != nullptr && S_ISDIR(f->mode)) found = e.inode;
      return found == 0;
    }));
    if (found != 0) return {};
    PINDAX_ASSIGN(const InodeNo ino, allocator_->allocate_inode(tx, InodeNo(root)));
    PINDAX_ASSIGN(const u32 generation, allocator_->next_generation(tx));
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, ino));
    slot->generation = generation;
    slot->mode = S_IFDIR | 0700;
    slot->links = 2;
    slot->data_kind = static_cast<u16>(DataKind::kTree);
    timespec t{};
    clock_gettime(CLOCK_REALTIME, &t);
    slot->atime_s = slot->mtime_s = slot->ctime_s = slot->crtime_s = static_cast<u64>(t.tv_sec);
    c_.adopt_inode(ino.value, slot->mode);
    u64 key = 0;
    PINDAX_TRY(insert_name(tx, *dir, kLostFound, ino.value, &key));
    slot->parent = root;
    slot->parent_key = key;
    dir->entries += 1;
    dir->subdirs += 1;
    dir->links += 1;
    found = ino.value;
    return {};
  });
  PINDAX_TRY(done);
  return found;
}

Status Repair::attach(u64 ino) {
  PINDAX_ASSIGN(const u64 home, lost_found());
  const InodeFacts& f = *c_.facts(ino);
  if (f.names != 0) {
    // A directory on a cycle: the name that its own descendant has for it goes.
    PINDAX_ASSIGN(MetaView view, c_.slot(f.parent));
    std::vector<u64> keys;
    Checker::TreeVisitor v;
    v.bad = [](BlockNo, const std::string&) {};
    v.item = [&](u64 key, TreeBytes value) {
      format::DirectoryValue e;
      if (value.size() < sizeof e) return;
      std::memcpy(&e, value.data(), sizeof e);
      if (e.inode == ino) keys.push_back(key);
    };
    c_.visit_tree({BlockNo(view.as<format::Inode>().body.root), TreeKind::kDirectory, f.parent}, v);
    for (const u64 key : keys) PINDAX_TRY(fix_entry({f.parent, key, Plan::EntryFix::kErase}));
  }
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * dir, modify_inode(tx, InodeNo(home)));
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(ino)));
    u64 key = 0;
    Status s = insert_name(tx, *dir, fmt::format("#{}", ino), ino, &key);
    for (unsigned n = 1; s.code() == Errc::kExists && n < 1000; ++n)
      s = insert_name(tx, *dir, fmt::format("#{}-{}", ino, n), ino, &key);
    PINDAX_TRY(s);
    dir->entries += 1;
    slot->parent = home;
    slot->parent_key = key;
    slot->parents_root = 0;  // the old records' nodes leak until the next walk
    if (S_ISDIR(f.mode)) {
      dir->subdirs += 1;
      dir->links += 1;
    } else {
      slot->links = 1;
    }
    return {};
  });
}

}  // namespace pindax::fsck_detail
