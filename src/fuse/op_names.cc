// SPDX-License-Identifier: BSD-3-Clause
//
// Names. No handler here waits for a pin (B6, R25): the kernel holds the directory's lock until the reply.
#include <sys/stat.h>

#include <cstring>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

bool name_fits(fuse_req_t req, const char* name) {
  if (std::strlen(name) <= kMaxNameBytes) return true;
  reply_error(req, Errc::kNameTooLong);
  return false;
}

// There is no such name, and the kernel need not ask again soon: it makes names itself, or hears of those that clients make.
void reply_no_entry(fuse_req_t req) {
  fuse_entry_param none{};
  none.entry_timeout = context_of(req).mount.attr_timeout_s;
  if (none.entry_timeout == 0) return reply_error(req, Errc::kNotFound);
  ::fuse_reply_entry(req, &none);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Context& context = context_of(req);
  if (!name_fits(req, name)) return;
  InodeRef dir = context.nodes.find(parent);
  if (dir == nullptr) {
    // A file handle of NFS or open_by_handle_at: "." of a number that the kernel does not hold; it compares
    // the generation of the reply with the handle's.
    auto found = context.fs.get(context.nodes.inode_of(parent));
    if (!found.ok()) return reply_error(req, Errc::kStale);
    dir = *found;
    if (std::strcmp(name, ".") == 0) return reply_entry(req, dir);
  }
  if (std::strcmp(name, ".") == 0) return reply_entry(req, dir);
  auto inode = context.fs.lookup(*dir, name);
  if (inode.code() == Errc::kNotFound) return reply_no_entry(req);
  if (!inode.ok()) return reply_status(req, inode.status());
  reply_entry(req, *inode);
}

void forget(fuse_req_t req, fuse_ino_t ino, u64 count) {
  context_of(req).nodes.forget(ino, count);
  ::fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) context_of(req).nodes.forget(forgets[i].ino, forgets[i].nlookup);
  ::fuse_reply_none(req);
}

void make(fuse_req_t req, fuse_ino_t parent, const char* name, const FileSystem::NewInode& what) {
  Context& context = context_of(req);
  if (!name_fits(req, name)) return;
  const InodeRef dir = inode_or_stale(req, parent);
  if (dir == nullptr) return;
  auto inode = context.fs.create(*dir, name, what, caller_of(req));
  if (!inode.ok()) return reply_status(req, inode.status());
  reply_entry(req, *inode);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  make(req, parent, name, {.mode = mode, .rdev = rdev, .symlink_target = {}});
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  make(req, parent, name, {.mode = (mode & 07777u) | S_IFDIR, .rdev = 0, .symlink_target = {}});
}

void symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  if (std::strlen(target) > kMaxSymlinkBytes) return reply_error(req, Errc::kNameTooLong);
  make(req, parent, name, {.mode = S_IFLNK | 0777, .rdev = 0, .symlink_target = target});
}

void readlink(fuse_req_t req, fuse_ino_t ino) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  auto target = context_of(req).fs.read_link(*inode);
  if (!target.ok()) return reply_status(req, target.status());
  ::fuse_reply_readlink(req, target->c_str());
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (!name_fits(req, name)) return;
  const InodeRef dir = inode_or_stale(req, parent);
  if (dir != nullptr) reply_status(req, context_of(req).fs.unlink(*dir, name));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (!name_fits(req, name)) return;
  const InodeRef dir = inode_or_stale(req, parent);
  if (dir != nullptr) reply_status(req, context_of(req).fs.rmdir(*dir, name));
}

void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  if (!name_fits(req, name) || !name_fits(req, new_name)) return;
  Context& context = context_of(req);
  const InodeRef from = context.nodes.find(parent);
  const InodeRef to = context.nodes.find(new_parent);
  if (from == nullptr || to == nullptr) return reply_error(req, Errc::kStale);
  reply_status(req, context.fs.rename(*from, name, *to, new_name, flags, caller_of(req)));
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char* new_name) {
  if (!name_fits(req, new_name)) return;
  Context& context = context_of(req);
  const InodeRef inode = context.nodes.find(ino);
  const InodeRef dir = context.nodes.find(new_parent);
  if (inode == nullptr || dir == nullptr) return reply_error(req, Errc::kStale);
  const Status status = context.fs.link(*inode, *dir, new_name);
  if (!status.ok()) return reply_status(req, status);
  reply_entry(req, inode);
}

}  // namespace

void add_name_operations(fuse_lowlevel_ops& ops) {
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.readlink = readlink;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.link = link;
}

}  // namespace pindax
