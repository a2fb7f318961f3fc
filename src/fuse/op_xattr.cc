// SPDX-License-Identifier: BSD-3-Clause
//
// Extended attributes; POSIX ACLs come the same way.
#include <sys/xattr.h>

#include <string_view>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

// size 0 asks for the length.
void reply_value(fuse_req_t req, std::string_view value, std::size_t size) {
  if (size == 0)
    ::fuse_reply_xattr(req, value.size());
  else if (value.size() > size)
    reply_error(req, Errc::kRange);
  else
    ::fuse_reply_buf(req, value.data(), value.size());
}

void getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  auto value = context_of(req).fs.get_xattr(*inode, name);
  if (!value.ok()) return reply_status(req, value.status());
  reply_value(req, *value, size);
}

void setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value, std::size_t size,
              int flags) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  Caller caller = caller_of(req);
  caller.privileged = !request_extras().kill_sgid;
  reply_status(req, context_of(req).fs.set_xattr(*inode, name, {value, size}, flags, caller));
}

void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  auto names = context_of(req).fs.list_xattrs(*inode);
  if (!names.ok()) return reply_status(req, names.status());
  std::string list;
  for (const std::string& name : *names) list.append(name).push_back('\0');
  reply_value(req, list, size);
}

void removexattr(fuse_req_t req, fuse_ino_t ino, const char* name) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode != nullptr) reply_status(req, context_of(req).fs.remove_xattr(*inode, name));
}

}  // namespace

void add_xattr_operations(fuse_lowlevel_ops& ops) {
  ops.getxattr = getxattr;
  ops.setxattr = setxattr;
  ops.listxattr = listxattr;
  ops.removexattr = removexattr;
}

}  // namespace pindax
