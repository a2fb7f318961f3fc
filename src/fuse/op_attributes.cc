// SPDX-License-Identifier: BSD-3-Clause
//
// Attributes. A new size is a layout change and may wait for pins; it is done first, so that an interrupted
// call has changed nothing.
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

FileTime from_timespec(const timespec& t) { return {t.tv_sec, static_cast<u32>(t.tv_nsec)}; }

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  const InodeRef inode = inode_of(req, ino, fi);
  if (inode != nullptr) reply_attributes(req, *inode);
}

// What SETATTR asks for besides the size.
SetAttributes wanted(const struct stat& s, int valid) {
  SetAttributes set;
  if ((valid & FUSE_SET_ATTR_MODE) != 0) {
    set.valid |= SetAttributes::kMode;
    set.mode = s.st_mode & 07777u;
  }
  if ((valid & FUSE_SET_ATTR_UID) != 0) {
    set.valid |= SetAttributes::kUid;
    set.uid = s.st_uid;
  }
  if ((valid & FUSE_SET_ATTR_GID) != 0) {
    set.valid |= SetAttributes::kGid;
    set.gid = s.st_gid;
  }
  if ((valid & FUSE_SET_ATTR_ATIME) != 0) {
    set.valid |= SetAttributes::kAtime;
    set.atime = (valid & FUSE_SET_ATTR_ATIME_NOW) != 0 ? now() : from_timespec(s.st_atim);
  }
  if ((valid & FUSE_SET_ATTR_MTIME) != 0) {
    set.valid |= SetAttributes::kMtime;
    set.mtime = (valid & FUSE_SET_ATTR_MTIME_NOW) != 0 ? now() : from_timespec(s.st_mtim);
  }
  constexpr int kNow = FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
  if ((valid & kNow) == kNow) set.valid |= SetAttributes::kTouch;
  if ((valid & FUSE_SET_ATTR_CTIME) != 0) {
    set.valid |= SetAttributes::kCtime;
    set.ctime = from_timespec(s.st_ctim);
  }
  return set;
}

void apply(fuse_req_t req, const InodeRef& inode, const SetAttributes& set, const Caller& caller) {
  if (set.valid == 0) return reply_attributes(req, *inode);
  Context& context = context_of(req);
  auto attributes = context.fs.set_attributes(*inode, set, caller);
  if (!attributes.ok()) return reply_status(req, attributes.status());
  const struct stat s = to_stat(*attributes);
  ::fuse_reply_attr(req, &s, attr_timeout_of(context, *attributes));
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int valid, fuse_file_info* fi) {
  const InodeRef inode = inode_of(req, ino, fi);
  if (inode == nullptr) return;
  Context& context = context_of(req);
  SetAttributes set = wanted(*attr, valid);
  if ((valid & FUSE_SET_ATTR_SIZE) == 0) {
    if (request_extras().kill_suidgid) set.valid |= SetAttributes::kKillSuidgid;
    return apply(req, inode, set, caller_of(req));
  }
  FileSystem::ChangeContext change = change_context(req);
  change.kernel_setattr = true;  // C6
  const u64 size = static_cast<u64>(attr->st_size);
  PendingChange::run(
      context.changes, context.executor, req,
      [&](PendingChange::Done done) { return context.fs.truncate(inode, size, change, std::move(done)); },
      [req, inode, set, caller = change.caller](const Status& status) {
        if (!status.ok()) return reply_status(req, status);
        apply(req, inode, set, caller);
      });
}

void statfs(fuse_req_t req, fuse_ino_t) {
  auto result = context_of(req).fs.statfs();
  if (!result.ok()) return reply_status(req, result.status());
  struct statvfs s = *result;
  s.f_namemax = kMaxNameBytes;
  ::fuse_reply_statfs(req, &s);
}

abi::StatxTime to_statx_time(const FileTime& t) { return {t.seconds, t.nanoseconds, 0}; }

}  // namespace

void answer_statx(Context& context, int fd, const fuse_in_header& request, const abi::StatxIn& in) {
  const InodeRef inode = (in.getattr_flags & FUSE_GETATTR_FH) != 0 && in.fh != 0
                             ? reinterpret_cast<const Handle*>(in.fh)->inode
                             : context.nodes.find(request.nodeid);
  if (inode == nullptr) return send_reply(fd, request.unique, ESTALE);
  auto attributes = context.fs.attributes(*inode);
  if (!attributes.ok()) return send_reply(fd, request.unique, to_errno(attributes.code()));
  const Attributes& a = *attributes;
  const fuse_entry_out entry = to_entry_out(context, a);
  abi::StatxOut out{};
  out.attr_valid = entry.attr_valid;
  out.attr_valid_nsec = entry.attr_valid_nsec;
  abi::Statx& s = out.stat;
  s.mask = STATX_BASIC_STATS | STATX_BTIME;
  s.blksize = kBlockSize;
  s.nlink = a.links;
  s.uid = a.uid;
  s.gid = a.gid;
  s.mode = static_cast<u16>(a.mode);
  s.ino = a.ino.value;
  s.size = a.size_bytes;
  s.blocks = a.blocks_512;
  s.atime = to_statx_time(a.atime);
  s.btime = to_statx_time(a.crtime);
  s.ctime = to_statx_time(a.ctime);
  s.mtime = to_statx_time(a.mtime);
  // FUSE's device numbers are the kernel's 32-bit encoding: 12 bits of major between 8 and 12 of minor.
  const u32 rdev = static_cast<u32>(a.rdev);
  s.rdev_major = (rdev & 0xfff00u) >> 8;
  s.rdev_minor = (rdev & 0xffu) | ((rdev >> 12) & 0xfff00u);
  s.attributes_mask = STATX_ATTR_APPEND | STATX_ATTR_IMMUTABLE | STATX_ATTR_NODUMP;
  if ((a.flags & format::kFlagAppend) != 0) s.attributes |= STATX_ATTR_APPEND;
  if ((a.flags & format::kFlagImmutable) != 0) s.attributes |= STATX_ATTR_IMMUTABLE;
  if ((a.flags & format::kFlagNoDump) != 0) s.attributes |= STATX_ATTR_NODUMP;
  send_reply(fd, request.unique, 0, &out, sizeof out);
}

void add_attribute_operations(fuse_lowlevel_ops& ops) {
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.statfs = statfs;
}

}  // namespace pindax
