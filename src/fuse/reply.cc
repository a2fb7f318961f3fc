// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/reply.h"

#include <spdlog/spdlog.h>
#include <sys/uio.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/proc.h"

namespace pindax {
namespace {

struct Timeout {
  u64 seconds;
  u32 nanoseconds;
};
Timeout timeout_of(const Context& context) {
  const double whole = std::floor(context.mount.attr_timeout_s);
  return {static_cast<u64>(whole), static_cast<u32>((context.mount.attr_timeout_s - whole) * 1e9)};
}

timespec to_timespec(const FileTime& t) {
  return {.tv_sec = t.seconds, .tv_nsec = static_cast<long>(t.nanoseconds)};
}

}  // namespace

void reply_error(fuse_req_t req, Errc code) {
  if (code == Errc::kCorrupt || code == Errc::kIo || code == Errc::kPoisoned)
    spdlog::error("a request failed: {}", errc_name(code));
  ::fuse_reply_err(req, to_errno(code));
}

void reply_status(fuse_req_t req, const Status& status) {
  if (status.code() == Errc::kCorrupt || status.code() == Errc::kIo || status.code() == Errc::kPoisoned)
    spdlog::error("a request failed: {}", status.message());
  ::fuse_reply_err(req, to_errno(status.code()));
}

struct stat to_stat(const Attributes& a) {
  struct stat s {};
  s.st_ino = a.ino.value;
  s.st_mode = a.mode;
  s.st_nlink = a.links;
  s.st_uid = a.uid;
  s.st_gid = a.gid;
  s.st_rdev = a.rdev;
  s.st_size = static_cast<off_t>(a.size_bytes);
  s.st_blksize = kBlockSize;
  s.st_blocks = static_cast<blkcnt_t>(a.blocks_512);
  s.st_atim = to_timespec(a.atime);
  s.st_mtim = to_timespec(a.mtime);
  s.st_ctim = to_timespec(a.ctime);
  return s;
}

// A write drops set-id bits (HANDLE_KILLPRIV_V2), and the kernel does not know that the mode it remembers is stale.
double attr_timeout_of(const Context& context, const Attributes& a) {
  return S_ISREG(a.mode) && (a.mode & (S_ISUID | S_ISGID)) != 0 ? 0 : context.mount.attr_timeout_s;
}

fuse_entry_param to_entry(const Context& context, const Attributes& a) {
  fuse_entry_param e{};
  e.ino = context.nodes.node_of(a.ino);
  e.generation = a.generation;
  e.attr = to_stat(a);
  e.attr_timeout = attr_timeout_of(context, a);
  e.entry_timeout = context.mount.attr_timeout_s;
  return e;
}

fuse_entry_out to_entry_out(const Context& context, const Attributes& a) {
  const Timeout t = timeout_of(context);
  fuse_entry_out out{};
  out.nodeid = context.nodes.node_of(a.ino);
  out.generation = a.generation;
  out.entry_valid = out.attr_valid = t.seconds;
  out.entry_valid_nsec = out.attr_valid_nsec = t.nanoseconds;
  if (attr_timeout_of(context, a) == 0) out.attr_valid = out.attr_valid_nsec = 0;
  out.attr.ino = a.ino.value;
  out.attr.size = a.size_bytes;
  out.attr.blocks = a.blocks_512;
  out.attr.atime = static_cast<u64>(a.atime.seconds);
  out.attr.mtime = static_cast<u64>(a.mtime.seconds);
  out.attr.ctime = static_cast<u64>(a.ctime.seconds);
  out.attr.atimensec = a.atime.nanoseconds;
  out.attr.mtimensec = a.mtime.nanoseconds;
  out.attr.ctimensec = a.ctime.nanoseconds;
  out.attr.mode = a.mode;
  out.attr.nlink = a.links;
  out.attr.uid = a.uid;
  out.attr.gid = a.gid;
  out.attr.rdev = static_cast<u32>(a.rdev);
  out.attr.blksize = kBlockSize;
  return out;
}

void reply_entry(fuse_req_t req, const InodeRef& inode) {
  Context& context = context_of(req);
  auto attributes = context.fs.attributes(*inode);
  if (!attributes.ok()) return reply_status(req, attributes.status());
  const fuse_entry_param entry = to_entry(context, *attributes);
  context.nodes.add(inode);
  if (::fuse_reply_entry(req, &entry) != 0) context.nodes.forget(entry.ino, 1);
}

void reply_attributes(fuse_req_t req, Inode& inode) {
  Context& context = context_of(req);
  auto attributes = context.fs.attributes(inode);
  if (!attributes.ok()) return reply_status(req, attributes.status());
  const struct stat s = to_stat(*attributes);
  ::fuse_reply_attr(req, &s, attr_timeout_of(context, *attributes));
}

void send_reply(int fd, u64 unique, int error, const void* body, std::size_t size) {
  fuse_out_header header{
      .len = static_cast<u32>(sizeof(fuse_out_header) + size), .error = -error, .unique = unique};
  iovec vector[2] = {{&header, sizeof header}, {const_cast<void*>(body), size}};
  if (::writev(fd, vector, size != 0 ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV)
    spdlog::error("a reply to the kernel failed: {}", std::strerror(errno));
}

InodeRef inode_or_stale(fuse_req_t req, fuse_ino_t node) {
  InodeRef inode = context_of(req).nodes.find(node);
  if (inode == nullptr) reply_error(req, Errc::kStale);
  return inode;
}

InodeRef inode_of(fuse_req_t req, fuse_ino_t node, const fuse_file_info* fi) {
  if (fi != nullptr && fi->fh != 0) return handle_of(fi)->inode;
  return inode_or_stale(req, node);
}

Caller caller_of(fuse_req_t req) {
  const fuse_ctx* c = ::fuse_req_ctx(req);
  Caller caller;
  caller.uid = c->uid;
  caller.gid = c->gid;
  caller.umask = static_cast<u32>(c->umask);
  caller.tid = static_cast<u32>(c->pid);
  caller.privileged = !request_extras().kill_suidgid;
  return caller;
}

void learn_rights(fuse_req_t req, Inode& inode, Caller& caller) {
  const auto attributes = context_of(req).fs.attributes(inode);
  caller.privileged = !attributes.ok() || (attributes->mode & (S_ISUID | S_ISGID)) == 0;
  if (caller.privileged) return;
  const std::string status = read_proc(static_cast<u32>(::fuse_req_ctx(req)->pid), "status");
  constexpr u64 kCapFsetid = u64{1} << 4;  // linux/capability.h
  if (const auto capabilities = status_field(status, "CapEff"))
    caller.privileged = (std::strtoull(capabilities->c_str(), nullptr, 16) & kCapFsetid) != 0;
  std::istringstream groups(status_field(status, "Groups").value_or(""));
  for (u32 group = 0; groups >> group;) caller.groups.push_back(group);
}

FileSystem::ChangeContext change_context(fuse_req_t req) {
  FileSystem::ChangeContext change;
  change.caller = caller_of(req);
  change.requester.tid = change.caller.tid;
  change.requester.uid = change.caller.uid;
  return change;
}

}  // namespace pindax
