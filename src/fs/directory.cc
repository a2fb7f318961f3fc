// SPDX-License-Identifier: BSD-3-Clause
//
// Entries of a directory: a tree whose key is 48 bits of SipHash of the name and 15 bits that tell collisions apart. The
// key is the readdir cookie: an entry keeps it as long as it lives, so a reader that stopped at a cookie goes on behind it,
// whatever was added or removed meanwhile.
//
// Locking: the directory's Inode::mutex, shared to read, exclusive to change.

#include <cstring>

#include "fs/file_system_impl.h"
#include "fs/keys.h"

namespace pindax {
namespace {

constexpr u64 kDotCookie = 1, kDotDotCookie = 2;
constexpr u8 kTypeDirectory = 4;  // DT_DIR

TreeRef entries_of(const format::Inode& dir) {
  return {BlockNo(dir.body.root), format::TreeKind::kDirectory, dir.self};
}

struct Decoded {
  format::DirectoryValue head;
  std::string_view name;
};

Result<Decoded> decode(TreeBytes value) {
  Decoded d;
  if (value.size() < sizeof d.head) return Status(Errc::kCorrupt, "a directory entry is too short");
  std::memcpy(&d.head, value.data(), sizeof d.head);
  if (value.size() != sizeof d.head + d.head.name_length || d.head.name_length == 0) {
    return Status(Errc::kCorrupt, "a directory entry's name has another length than it says");
  }
  d.name = {reinterpret_cast<const char*>(value.data()) + sizeof d.head, d.head.name_length};
  return d;
}

class EntryBytes {
 public:
  EntryBytes(std::string_view name, InodeNo ino, u8 type) : length_(sizeof(format::DirectoryValue) + name.size()) {
    format::DirectoryValue head{};
    head.inode = ino.value;
    head.type = type;
    head.name_length = static_cast<u8>(name.size());
    std::memcpy(bytes_, &head, sizeof head);
    std::memcpy(bytes_ + sizeof head, name.data(), name.size());
  }
  operator TreeBytes() const { return {bytes_, length_}; }

 private:
  std::byte bytes_[sizeof(format::DirectoryValue) + kMaxNameBytes];
  std::size_t length_;
};

}  // namespace

u64 FileSystemImpl::name_hash(std::string_view name) const {
  return name_key(superblock_.hash_key, name);
}

Result<FileSystemImpl::Entry> FileSystemImpl::find_entry(const format::Inode& dir, std::string_view name,
                                                         Transaction* tx) {
  const u64 hash = name_hash(name);
  TreeReader tree = tx != nullptr ? TreeReader(*tx, entries_of(dir)) : TreeReader(*store_, entries_of(dir));
  std::optional<Entry> found;
  Status bad;
  PINDAX_TRY(tree.scan(hash, [&](u64 key, TreeBytes value) {
    if (key >> format::kCollisionBits != hash >> format::kCollisionBits) return false;
    auto d = decode(value);
    if (!d.ok()) {
      bad = d.status();
      return false;
    }
    if (d->name != name) return true;
    found = Entry{key, InodeNo(d->head.inode), d->head.type};
    return false;
  }));
  PINDAX_TRY(bad);
  if (!found) return Errc::kNotFound;
  return *found;
}

Result<u64> FileSystemImpl::insert_entry(Transaction& tx, format::Inode& dir, std::string_view name, InodeNo ino,
                                         u8 type) {
  const u64 hash = name_hash(name);
  u64 key = std::max(hash, format::kFirstCookie);
  TreeRef ref = entries_of(dir);
  PINDAX_TRY(TreeReader(tx, ref).scan(key, [&](u64 taken, TreeBytes) {
    if (taken != key) return false;
    ++key;
    return true;
  }));
  if (key >> format::kCollisionBits != hash >> format::kCollisionBits) {
    return Status(Errc::kNoSpace, "too many names of one hash in a directory");
  }
  InodeNodes nodes(*allocator_, dir);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).insert(key, EntryBytes(name, ino, type)));
  dir.body.root = ref.root.value;
  dir.entries += 1;
  return key;
}

Status FileSystemImpl::erase_entry(Transaction& tx, format::Inode& dir, u64 key) {
  TreeRef ref = entries_of(dir);
  InodeNodes nodes(*allocator_, dir);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).erase(key));
  dir.body.root = ref.root.value;
  dir.entries -= 1;
  return {};
}

Status FileSystemImpl::replace_entry(Transaction& tx, format::Inode& dir, u64 key, std::string_view name, InodeNo ino,
                                     u8 type) {
  TreeRef ref = entries_of(dir);
  InodeNodes nodes(*allocator_, dir);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).replace(key, EntryBytes(name, ino, type)));
  dir.body.root = ref.root.value;
  return {};
}

Result<std::string> FileSystemImpl::entry_name(const format::Inode& dir, u64 key, InodeNo ino) {
  TreeReader tree(*store_, entries_of(dir));
  PINDAX_ASSIGN(const TreeBytes value, tree.find(key));
  PINDAX_ASSIGN(const Decoded d, decode(value));
  if (d.head.inode != ino.value) return Errc::kNotFound;
  return std::string(d.name);
}

Status FileSystemImpl::read_directory(Inode& dir, u64 cookie, const std::function<bool(const DirectoryEntry&)>& visit) {
  Status bad;
  {
    ReadLock lock(dir.mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(dir));
    if (!is_directory(*slot)) return Status(Errc::kNotDirectory);
    if (cookie < kDotCookie && !visit({".", dir.ino, kTypeDirectory, kDotCookie})) return {};
    const InodeNo parent = slot->parent != 0 ? InodeNo(slot->parent) : dir.ino;
    if (cookie < kDotDotCookie && !visit({"..", parent, kTypeDirectory, kDotDotCookie})) return {};
    if (cookie == kMaxOffset) return {};
    const u64 first = std::max(cookie + 1, format::kFirstCookie);
    PINDAX_TRY(TreeReader(*store_, entries_of(*slot)).scan(first, [&](u64 key, TreeBytes value) {
      auto d = decode(value);
      if (!d.ok()) {
        bad = d.status();
        return false;
      }
      return visit({d->name, InodeNo(d->head.inode), d->head.type, key});
    }));
  }
  note_access(dir);
  return bad;
}

}  // namespace pindax
