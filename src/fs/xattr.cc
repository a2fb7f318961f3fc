// SPDX-License-Identifier: BSD-3-Clause
//
// Extended attributes: a tree keyed like names of a directory, by a hash of the full name ("user.x"). Values that do not
// fit beside their name lie in a blob.
//
// "user.pindax.on_busy" is no attribute in the tree but the inode's busy policy: "wait", "refuse", "quarantine", "evict",
// each with "=SECONDS" to wait before; "wait=5" waits five seconds and then refuses.
#include <sys/xattr.h>

#include <cstring>

#include "base/steps.h"
#include "fs/acl.h"
#include "fs/file_system_impl.h"
#include "fs/policy.h"

namespace pindax {
namespace {

constexpr u64 kKeySpace = u64{1} << format::kCollisionBits;
// Names come back from list_xattrs() in one buffer of XATTR_LIST_MAX bytes.
constexpr std::size_t kMaxListBytes = 65536;

TreeRef xattrs_of(const format::Inode& slot) {
  return {BlockNo(slot.xattr_root), format::TreeKind::kXattrs, slot.self};
}

struct Decoded {
  std::string_view name;
  bool external = false;
  std::string_view value;  // inline
  format::BlobRef blob{};
};

Result<Decoded> decode(TreeBytes bytes) {
  const auto bad = [] { return Status(Errc::kCorrupt, "an extended attribute has another length than it says"); };
  format::XattrValue head;
  if (bytes.size() < sizeof head) return bad();
  std::memcpy(&head, bytes.data(), sizeof head);
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof head;
  std::size_t left = bytes.size() - sizeof head;
  if (head.name_length == 0 || left < head.name_length) return bad();
  Decoded d;
  d.name = {text, head.name_length};
  left -= head.name_length;
  d.external = head.external != 0;
  if (d.external) {
    if (left != sizeof d.blob) return bad();
    std::memcpy(&d.blob, text + head.name_length, sizeof d.blob);
  } else {
    if (left != head.value_length) return bad();
    d.value = {text + head.name_length, left};
  }
  return d;
}

// Which names this file system keeps. Permissions are the kernel's business (or the server's).
Status check_xattr_name(const format::Inode& slot, std::string_view name) {
  if (name.size() > kMaxNameBytes) return Status(Errc::kRange, "the attribute's name is too long");
  const auto has = [&](std::string_view prefix) { return name.starts_with(prefix) && name.size() > prefix.size(); };
  if (has("user.")) {
    const bool fits = is_regular(slot) || is_directory(slot);
    return fits ? Status() : Status(Errc::kPermission, "user attributes belong to files and directories");
  }
  if (has("trusted.") || has("security.") || is_acl_name(name)) return {};
  return Status(Errc::kNotSupported, "attributes begin with user., trusted. or security.");
}

Status check_changeable(const format::Inode& slot) {
  const bool fixed = (slot.flags & (format::kFlagImmutable | format::kFlagAppend)) != 0;
  return fixed ? Status(Errc::kPermission, "the file is immutable or append-only") : Status();
}

struct Found {
  u64 key = 0;
  bool external = false;
  std::string value;
  format::BlobRef blob{};
};

// nullopt if there is none. `*free_key`: where such a name would go.
Result<std::optional<Found>> find_in_tree(TreeReader tree, u64 hash, std::string_view name, u64* free_key) {
  std::optional<Found> found;
  Status bad;
  u64 next = hash;
  bool gap = false;
  PINDAX_TRY(tree.scan(hash, [&](u64 key, TreeBytes bytes) {
    if (key >= hash + kKeySpace) return false;
    if (key != next) gap = true;
    if (!gap) ++next;
    auto d = decode(bytes);
    if (!d.ok()) {
      bad = d.status();
      return false;
    }
    if (d->name != name) return true;
    found = Found{key, d->external, std::string(d->value), d->blob};
    return false;
  }));
  PINDAX_TRY(bad);
  if (free_key != nullptr) *free_key = next;
  return found;
}

}  // namespace

// ---- Inside ---------------------------------------------------------------------------------------------------------

Result<std::string> FileSystemImpl::find_xattr(const format::Inode& slot, std::string_view name, Transaction* tx) {
  if (slot.xattr_root == 0) return Errc::kNoData;
  TreeReader tree = tx != nullptr ? TreeReader(*tx, xattrs_of(slot)) : TreeReader(*store_, xattrs_of(slot));
  PINDAX_ASSIGN(auto found, find_in_tree(std::move(tree), name_hash(name), name, nullptr));
  if (!found) return Errc::kNoData;
  if (found->external) return read_blob(found->blob, slot.self, tx);
  return std::move(found->value);
}

Status FileSystemImpl::put_xattr(Transaction& tx, format::Inode& slot, std::string_view name, std::string_view value,
                                 int flags) {
  TreeRef ref = xattrs_of(slot);
  const u64 hash = name_hash(name);
  u64 key = hash;
  PINDAX_ASSIGN(const auto old, find_in_tree(TreeReader(tx, ref), hash, name, &key));
  if (old && (flags & XATTR_CREATE) != 0) return Status(Errc::kExists);
  if (!old && (flags & XATTR_REPLACE) != 0) return Status(Errc::kNoData);
  if (!old && key >= hash + kKeySpace) return Status(Errc::kNoSpace);

  format::XattrValue head{};
  head.name_length = static_cast<u8>(name.size());
  std::string bytes(sizeof head, '\0');
  bytes.append(name);
  if (bytes.size() + value.size() <= format::kMaxTreeValue) {
    head.value_length = static_cast<u16>(value.size());
    bytes.append(value);
  } else {
    head.external = 1;
    PINDAX_ASSIGN(const format::BlobRef blob, write_blob(tx, slot, value));
    bytes.append(reinterpret_cast<const char*>(&blob), sizeof blob);
  }
  std::memcpy(bytes.data(), &head, sizeof head);

  InodeNodes nodes(*allocator_, slot);
  TreeWriter tree(tx, ref, nodes);
  const TreeBytes raw = std::as_bytes(std::span(bytes));
  PINDAX_TRY(old ? tree.replace(old->key, raw) : tree.insert(key, raw));
  slot.xattr_root = ref.root.value;
  if (old && old->external) free_blob(tx, slot, old->blob);
  return {};
}

Status FileSystemImpl::erase_xattr(Transaction& tx, format::Inode& slot, std::string_view name) {
  TreeRef ref = xattrs_of(slot);
  if (ref.root.value == 0) return Status(Errc::kNoData);
  PINDAX_ASSIGN(const auto old, find_in_tree(TreeReader(tx, ref), name_hash(name), name, nullptr));
  if (!old) return Status(Errc::kNoData);
  InodeNodes nodes(*allocator_, slot);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).erase(old->key));
  slot.xattr_root = ref.root.value;
  if (old->external) free_blob(tx, slot, old->blob);
  return {};
}

Status FileSystemImpl::free_xattrs(Transaction& tx, format::Inode& slot) {
  if (slot.xattr_root == 0) return {};
  TreeRef ref = xattrs_of(slot);
  std::vector<format::BlobRef> blobs;
  PINDAX_TRY(TreeReader(tx, ref).scan(0, [&](u64, TreeBytes bytes) {
    auto d = decode(bytes);
    if (d.ok() && d->external) blobs.push_back(d->blob);
    return true;
  }));
  for (const auto& blob : blobs) free_blob(tx, slot, blob);
  InodeNodes nodes(*allocator_, slot);
  PINDAX_TRY(TreeWriter(tx, ref, nodes).clear());
  slot.xattr_root = 0;
  return {};
}

// ---- Calls ------------------------------------------------------------------------------------------------------------

Result<std::string> FileSystemImpl::get_xattr(Inode& inode, std::string_view name) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  if (name == kPolicyXattr) return print_policy(*slot);
  return find_xattr(*slot, name);
}

Status FileSystemImpl::set_xattr(Inode& inode, std::string_view name, std::string_view value, int flags,
                                 const Caller& caller) {
  PINDAX_TRY(check_writable());
  if (name.empty() || name.size() > kMaxNameBytes) return Status(Errc::kRange, "the attribute's name is too long");
  if (value.size() > kMaxXattrBytes) return Status(Errc::kTooLong, "an attribute holds at most 64 KiB");
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return Status(Errc::kInvalid);
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(inode));
    PINDAX_TRY(check_xattr_name(*seen, name));
    PINDAX_TRY(check_changeable(*seen));
    PINDAX_TRY(check_room());
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  if (name == kPolicyXattr) {
    PINDAX_TRY(parse_policy(value, *slot));
  } else if (is_acl_name(name)) {
    PINDAX_TRY(set_acl(tx, *slot, name, value, flags, caller));
  } else {
    PINDAX_TRY(put_xattr(tx, *slot, name, value, flags));
  }
  stamp(*slot, kStampCtime, now());
  PINDAX_TRY(tx.commit());
  if (name == kCapabilityXattr) inode.may_have_capability = true;
  PINDAX_STEP("fs.xattr_set");
  return {};
}

Status FileSystemImpl::drop_capability(Inode& inode) {
  if (!inode.may_have_capability.exchange(false)) return {};
  const Status removed = remove_xattr(inode, kCapabilityXattr);
  return removed.code() == Errc::kNoData ? Status() : removed;
}

Status FileSystemImpl::remove_xattr(Inode& inode, std::string_view name) {
  PINDAX_TRY(check_writable());
  WriteLock lock(inode.mutex);
  {
    PINDAX_ASSIGN(const SlotView seen, read_slot(inode));
    PINDAX_TRY(check_xattr_name(*seen, name));
    PINDAX_TRY(check_changeable(*seen));
  }
  Transaction tx(*store_);
  PINDAX_ASSIGN(format::Inode * slot, change_slot(tx, inode));
  if (name == kPolicyXattr) {
    if (slot->busy_policy == 0) return Status(Errc::kNoData);
    slot->busy_policy = 0;
    slot->busy_deadline_ms = 0;
  } else {
    PINDAX_TRY(erase_xattr(tx, *slot, name));
  }
  stamp(*slot, kStampCtime, now());
  PINDAX_TRY(tx.commit());
  return {};
}

Result<std::vector<std::string>> FileSystemImpl::list_xattrs(Inode& inode) {
  ReadLock lock(inode.mutex);
  PINDAX_ASSIGN(const SlotView slot, read_slot(inode));
  std::vector<std::string> names;
  std::size_t bytes = 0;
  Status bad;
  if (slot->busy_policy != 0) names.emplace_back(kPolicyXattr);
  PINDAX_TRY(TreeReader(*store_, xattrs_of(*slot)).scan(0, [&](u64, TreeBytes value) {
    auto d = decode(value);
    if (!d.ok()) {
      bad = d.status();
      return false;
    }
    bytes += d->name.size() + 1;
    names.emplace_back(d->name);
    return true;
  }));
  PINDAX_TRY(bad);
  if (bytes > kMaxListBytes) return Status(Errc::kTooLong, "the names of the attributes need more than 64 KiB");
  return names;
}

}  // namespace pindax
