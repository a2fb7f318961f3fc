// SPDX-License-Identifier: BSD-3-Clause
//
// ioctls: chattr's flags, FITRIM, FS_IOC_SHUTDOWN, and Pindax's own (proto/mount_ioctl.h). The kernel copies the argument in
// and out by the size in the command; it checks ownership and CAP_LINUX_IMMUTABLE for the flags
// (vfs_fileattr_set).
#include <linux/fs.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "base/proc.h"
#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

struct FlagPair {
  u32 flag;   // FS_IOC_GETFLAGS
  u32 xflag;  // FS_IOC_FSGETXATTR
};
constexpr FlagPair kFlagPairs[] = {
    {format::kFlagSync, FS_XFLAG_SYNC},       {format::kFlagImmutable, FS_XFLAG_IMMUTABLE},
    {format::kFlagAppend, FS_XFLAG_APPEND},   {format::kFlagNoDump, FS_XFLAG_NODUMP},
    {format::kFlagNoAtime, FS_XFLAG_NOATIME},
};

template <class T>
std::optional<T> argument(const void* in, std::size_t size) {
  if (in == nullptr || size < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, in, sizeof value);
  return value;
}

template <class T>
void reply_struct(fuse_req_t req, const T& value, std::size_t room) {
  if (room < sizeof value) return reply_error(req, Errc::kInvalid);
  ::fuse_reply_ioctl(req, 0, &value, sizeof value);
}

void reply_done(fuse_req_t req, const Status& status) {
  if (!status.ok()) return reply_status(req, status);
  ::fuse_reply_ioctl(req, 0, nullptr, 0);
}

void get_flags(fuse_req_t req, Inode& inode, std::size_t room) {
  auto flags = context_of(req).fs.flags(inode);
  if (!flags.ok()) return reply_status(req, flags.status());
  reply_struct(req, *flags, room);
}

// The kernel does not know that flags are attributes: it keeps the old ctime unless it is told.
void change_flags(fuse_req_t req, Inode& inode, u32 flags) {
  Context& context = context_of(req);
  const Status status = context.fs.set_flags(inode, flags);
  if (!status.ok()) return reply_status(req, status);
  context.notifier.refresh(inode.ino, false, [req] { reply_done(req, Status()); });
}

void set_flags(fuse_req_t req, Inode& inode, u32 flags) {
  if ((flags & ~format::kKnownFlags) != 0) return reply_error(req, Errc::kNotSupported);
  change_flags(req, inode, flags);
}

void get_fsxattr(fuse_req_t req, Inode& inode, std::size_t room) {
  auto flags = context_of(req).fs.flags(inode);
  if (!flags.ok()) return reply_status(req, flags.status());
  struct fsxattr out {};
  for (const FlagPair& p : kFlagPairs)
    if ((*flags & p.flag) != 0) out.fsx_xflags |= p.xflag;
  reply_struct(req, out, room);
}

void set_fsxattr(fuse_req_t req, Inode& inode, const struct fsxattr& in) {
  Context& context = context_of(req);
  if (in.fsx_projid != 0 || in.fsx_extsize != 0 || in.fsx_cowextsize != 0)
    return reply_error(req, Errc::kNotSupported);
  auto old = context.fs.flags(inode);
  if (!old.ok()) return reply_status(req, old.status());
  u32 flags = *old;
  u32 known = 0;
  for (const FlagPair& p : kFlagPairs) {
    known |= p.xflag;
    flags = (in.fsx_xflags & p.xflag) != 0 ? flags | p.flag : flags & ~p.flag;
  }
  if ((in.fsx_xflags & ~known) != 0) return reply_error(req, Errc::kNotSupported);
  change_flags(req, inode, flags);
}

void trim(fuse_req_t req, const struct fstrim_range& range, std::size_t room) {
  if (::fuse_req_ctx(req)->uid != 0) return reply_error(req, Errc::kPermission);
  Context& context = context_of(req);
  if (context.fs.options().read_only) return reply_error(req, Errc::kReadOnly);
  const u64 pool = context.fs.store().geometry().pool_blocks;
  const u64 start = range.start >> kBlockShift;
  if (start >= pool || range.len < kBlockSize) return reply_error(req, Errc::kInvalid);
  const u64 length = std::min<u64>(range.len >> kBlockShift, pool - start);
  const auto blocks = context.fs.allocator().trim({BlockNo(start), length}, range.minlen >> kBlockShift);
  if (!blocks.ok()) return reply_status(req, blocks.status());
  struct fstrim_range out = range;
  out.len = *blocks << kBlockShift;
  reply_struct(req, out, room);
}

// Whoever shuts down with less than a flush gets more than he asked for: the kernel keeps the word that says which it is.
void shut_down(fuse_req_t req) {
  if (::fuse_req_ctx(req)->uid != 0) return reply_error(req, Errc::kPermission);
  spdlog::warn("shut down by process {}: nothing can be changed until the next mount", ::fuse_req_ctx(req)->pid);
  reply_done(req, context_of(req).fs.shut_down());
}

void token(fuse_req_t req, const Handle& handle, std::size_t room) {
  const u32 pid = process_of(static_cast<u32>(::fuse_req_ctx(req)->pid));
  if (pid == 0)
    return reply_error(req, Errc::kNotSupported);  // a foreign pid namespace: through the mount only
  auto reply = context_of(req).service.issue_token(handle.inode, handle.access(), pid);
  if (!reply.ok()) return reply_status(req, reply.status());
  reply_struct(req, *reply, room);
}

// Layout changes that the kernel would refuse. It knows nothing of them, so it learns the size before the caller goes on (C7).
void change_layout(fuse_req_t req, const Handle& handle, const proto::IoctlFallocate& in) {
  if (!handle.writable()) return reply_error(req, Errc::kBadDescriptor);
  if (in.length == 0) return reply_error(req, Errc::kInvalid);
  Context& context = context_of(req);
  const InodeRef inode = handle.inode;
  const FileSystem::ChangeContext change = change_context(req);
  PendingChange::run(
      context.changes, context.executor, req,
      [&](PendingChange::Done done) {
        return context.fs.fallocate(inode, static_cast<int>(in.mode), in.offset, in.length, change,
                                    std::move(done));
      },
      [req, inode, &context, resizes = FileSystem::may_resize(in.mode)](const Status& status) {
        if (!status.ok()) return reply_done(req, status);
        context.notifier.refresh(inode->ino, resizes, [req] { reply_done(req, Status()); });
      });
}

// FICLONERANGE and FIDEDUPERANGE, which the kernel does not forward.
void clone(fuse_req_t req, const Handle& handle, const proto::IoctlClone& in, std::size_t room) {
  if (room < sizeof in || (in.flags & ~proto::kCloneDedupe) != 0 || in.reserved != 0) return reply_error(req, Errc::kInvalid);
  if (!handle.writable() || handle.append()) return reply_error(req, Errc::kBadDescriptor);
  Context& context = context_of(req);
  const u32 pid = process_of(static_cast<u32>(::fuse_req_ctx(req)->pid));
  auto source = context.service.redeem_for_reading(in.token, pid);
  if (!source.ok()) return reply_status(req, source.status());
  const FileSystem::CloneRequest what{.source = *source,
                                      .destination = handle.inode,
                                      .source_offset = in.source_offset,
                                      .destination_offset = in.destination_offset,
                                      .length = in.length,
                                      .dedupe = (in.flags & proto::kCloneDedupe) != 0};
  FileSystem::ChangeContext change = change_context(req);
  learn_rights(req, *handle.inode, change.caller);
  auto shared = std::make_shared<u64>(0);
  PendingChange::run(
      context.changes, context.executor, req,
      [&](PendingChange::Done done) {
        return context.fs.clone_range(what, change, [shared, done = std::move(done)](Result<u64> bytes) {
          if (bytes.ok()) *shared = *bytes;
          done(bytes.status());
        });
      },
      [req, in, shared, inode = handle.inode, &context](const Status& status) {
        context.notifier.invalidate_attributes(inode->ino);
        if (!status.ok()) return reply_status(req, status);
        proto::IoctlClone out = in;
        out.bytes = *shared;
        ::fuse_reply_ioctl(req, 0, &out, sizeof out);
      });
}

void ioctl(fuse_req_t req, fuse_ino_t, unsigned command, void*, fuse_file_info* fi, unsigned flags,
           const void* in, std::size_t in_size, std::size_t room) {
  if ((flags & FUSE_IOCTL_COMPAT) != 0) return (void)::fuse_reply_err(req, ENOTTY);
  const Handle& handle = *handle_of(fi);
  Inode& inode = *handle.inode;
  switch (command) {
    case FS_IOC_GETFLAGS:
      return get_flags(req, inode, room);
    case FS_IOC_SETFLAGS:
      if (const auto value = argument<u32>(in, in_size)) return set_flags(req, inode, *value);
      break;
    case FS_IOC_FSGETXATTR:
      return get_fsxattr(req, inode, room);
    case FS_IOC_FSSETXATTR:
      if (const auto value = argument<struct fsxattr>(in, in_size)) return set_fsxattr(req, inode, *value);
      break;
    case FITRIM:
      if (const auto value = argument<struct fstrim_range>(in, in_size)) return trim(req, *value, room);
      break;
    case abi::kIocShutdown:
      return shut_down(req);
    case proto::kIocMountInfo:
      return reply_struct(req, context_of(req).service.mount_info(), room);
    case proto::kIocToken:
      return token(req, handle, room);
    case proto::kIocFallocate:
      if (const auto value = argument<proto::IoctlFallocate>(in, in_size))
        return change_layout(req, handle, *value);
      break;
    case proto::kIocClone:
      if (const auto value = argument<proto::IoctlClone>(in, in_size)) return clone(req, handle, *value, room);
      break;
    default:
      return (void)::fuse_reply_err(req, ENOTTY);
  }
  reply_error(req, Errc::kInvalid);
}

}  // namespace

void add_ioctl_operations(fuse_lowlevel_ops& ops) { ops.ioctl = ioctl; }

}  // namespace pindax
