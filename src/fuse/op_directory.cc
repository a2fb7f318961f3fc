// SPDX-License-Identifier: BSD-3-Clause
//
// Directories. Cookies are the file system's and need no state in the handle.
#include <dirent.h>

#include <string>
#include <vector>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  auto* handle = new Handle{inode, fi->flags};
  fi->fh = reinterpret_cast<u64>(handle);
  if (::fuse_reply_open(req, fi) != 0) delete handle;
}

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  delete handle_of(fi);
  ::fuse_reply_err(req, 0);
}

struct stat entry_stat(InodeNo ino, u8 type) {
  struct stat s {};
  s.st_ino = ino.value;
  s.st_mode = static_cast<mode_t>(DTTOIF(type));
  return s;
}

void readdir(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* fi) {
  Context& context = context_of(req);
  std::vector<char> buffer(size);
  std::size_t used = 0;
  std::string name;
  const Status status = context.fs.read_directory(
      *handle_of(fi)->inode, static_cast<u64>(offset), [&](const FileSystem::DirectoryEntry& entry) {
        const struct stat s = entry_stat(entry.ino, entry.type);
        name.assign(entry.name);
        const std::size_t left = size - used;
        const std::size_t need = ::fuse_add_direntry(req, buffer.data() + used, left, name.c_str(), &s,
                                                     static_cast<off_t>(entry.cookie));
        if (need > left) return false;
        used += need;
        return true;
      });
  if (!status.ok() && used == 0) return reply_status(req, status);
  ::fuse_reply_buf(req, buffer.data(), used);
}

struct Listed {
  std::string name;
  InodeNo ino;
  u8 type;
  u64 cookie;
};

// Entry of a listing with attributes; one that vanished meanwhile is listed without.
fuse_entry_param listed_entry(Context& context, const Listed& entry, InodeRef* counted) {
  fuse_entry_param param{};
  param.attr = entry_stat(entry.ino, entry.type);
  if (entry.name == "." || entry.name == "..") return param;  // the kernel takes no lookup for these
  auto inode = context.fs.get(entry.ino);
  if (!inode.ok()) return param;
  auto attributes = context.fs.attributes(**inode);
  if (!attributes.ok() || attributes->links == 0) return param;
  *counted = *inode;
  return to_entry(context, *attributes);
}

void readdirplus(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* fi) {
  Context& context = context_of(req);
  std::vector<Listed> entries;
  std::size_t planned = 0;
  const Status status = context.fs.read_directory(
      *handle_of(fi)->inode, static_cast<u64>(offset), [&](const FileSystem::DirectoryEntry& entry) {
        entries.push_back({std::string(entry.name), entry.ino, entry.type, entry.cookie});
        const fuse_entry_param none{};
        planned += ::fuse_add_direntry_plus(req, nullptr, 0, entries.back().name.c_str(), &none, 0);
        return planned < size;
      });
  if (!status.ok() && entries.empty()) return reply_status(req, status);
  std::vector<char> buffer(size);
  std::vector<NodeId> counted;
  std::size_t used = 0;
  for (const Listed& entry : entries) {
    InodeRef inode;
    const fuse_entry_param param = listed_entry(context, entry, &inode);
    const std::size_t left = size - used;
    const std::size_t need = ::fuse_add_direntry_plus(req, buffer.data() + used, left, entry.name.c_str(),
                                                      &param, static_cast<off_t>(entry.cookie));
    if (need > left) break;
    used += need;
    if (inode == nullptr) continue;
    context.nodes.add(inode);
    counted.push_back(param.ino);
  }
  if (::fuse_reply_buf(req, buffer.data(), used) != 0)
    for (const NodeId node : counted) context.nodes.forget(node, 1);
}

void fsyncdir(fuse_req_t req, fuse_ino_t, int datasync, fuse_file_info* fi) {
  reply_status(req, context_of(req).fs.fsync(*handle_of(fi)->inode, datasync != 0));
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops& ops) {
  ops.opendir = opendir;
  ops.releasedir = releasedir;
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
  ops.fsyncdir = fsyncdir;
}

}  // namespace pindax
