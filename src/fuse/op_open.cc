// SPDX-License-Identifier: BSD-3-Clause
//
// Open files. Direct I/O keeps one copy of the data, in the pool; KEEP_CACHE spares mmap'ed pages at each
// open(2) (docs/coherence.md). O_TRUNC reaches us with OPEN and waits for pins as a truncate does (R25).
#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

constexpr u32 kOpenFlags =
    abi::kFopenDirectIo | abi::kFopenKeepCache | abi::kFopenNoFlush | abi::kFopenParallelDirectWrites;

// What chattr's flags forbid at open; the kernel does not know them.
Status check_flags(Context& context, Inode& inode, int flags) {
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_TRUNC) == 0) return {};
  PINDAX_ASSIGN(const u32 f, context.fs.flags(inode));
  if ((f & format::kFlagImmutable) != 0) return Status(Errc::kPermission);
  if ((f & format::kFlagAppend) != 0 && ((flags & O_APPEND) == 0 || (flags & O_TRUNC) != 0))
    return Status(Errc::kPermission);
  return {};
}

// Pages of shared blocks that were filled before anybody could write must not become dirty (fs/share.h): a first writer makes the
// kernel drop them. Those that come after the handle exists are filled with blocks of the file's own.
bool keep_pages(Context& context, const Handle& handle) {
  InodeLayout* layout = handle.inode->layout_if_any();
  if (!handle.allows_stores() || layout == nullptr || !context.fs.layout().has_kernel_pages(*layout)) return true;
  const auto shares = context.fs.shares_blocks(*handle.inode, {0, kMaxOffset});
  return shares.ok() && !*shares;
}

fuse_open_out open_out(Context& context, const InodeRef& inode, int flags) {
  fuse_open_out out{};
  auto* handle = new Handle{inode, flags};
  if (handle->allows_stores()) context.store_handles.add(inode->ino);  // before anybody can map the file through it
  out.fh = reinterpret_cast<u64>(handle);
  out.open_flags = kOpenFlags;
  if (!keep_pages(context, *handle)) out.open_flags &= ~abi::kFopenKeepCache;
  return out;
}

void end_handle(Context& context, Handle* handle) {
  if (handle->allows_stores()) context.store_handles.remove(handle->inode->ino);
  delete handle;
}

void reply_open(fuse_req_t req, const InodeRef& inode, int flags) {
  Context& context = context_of(req);
  const fuse_open_out out = open_out(context, inode, flags);
  if (::fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) != 0)
    end_handle(context, reinterpret_cast<Handle*>(out.fh));
}

// The reply of CREATE and TMPFILE.
struct CreateOut {
  fuse_entry_out entry;
  fuse_open_out open;
};
static_assert(sizeof(CreateOut) == sizeof(fuse_entry_out) + sizeof(fuse_open_out));

void reply_create(fuse_req_t req, const InodeRef& inode, int flags) {
  Context& context = context_of(req);
  auto attributes = context.fs.attributes(*inode);
  if (!attributes.ok()) return reply_status(req, attributes.status());
  const CreateOut out{to_entry_out(context, *attributes), open_out(context, inode, flags)};
  context.nodes.add(inode);
  if (::fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    context.nodes.forget(out.entry.nodeid, 1);
    end_handle(context, reinterpret_cast<Handle*>(out.open.fh));
  }
}

// Truncates to nothing, then `reply`s.
void truncate_then(fuse_req_t req, const InodeRef& inode, std::function<void()> reply) {
  Context& context = context_of(req);
  const FileSystem::ChangeContext change = change_context(req);
  PendingChange::run(
      context.changes, context.executor, req,
      [&](PendingChange::Done done) { return context.fs.truncate(inode, 0, change, std::move(done)); },
      [req, reply = std::move(reply)](const Status& status) {
        if (!status.ok()) return reply_status(req, status);
        reply();
      });
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  const InodeRef inode = inode_or_stale(req, ino);
  if (inode == nullptr) return;
  const int flags = fi->flags;
  if (const Status status = check_flags(context_of(req), *inode, flags); !status.ok())
    return reply_status(req, status);
  if ((flags & O_TRUNC) == 0) return reply_open(req, inode, flags);
  truncate_then(req, inode, [req, inode, flags] { reply_open(req, inode, flags); });
}

void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  Context& context = context_of(req);
  if (std::strlen(name) > kMaxNameBytes) return reply_error(req, Errc::kNameTooLong);
  const InodeRef dir = inode_or_stale(req, parent);
  if (dir == nullptr) return;
  const int flags = fi->flags;
  auto made = context.fs.create(
      *dir, name, {.mode = (mode & 07777u) | S_IFREG, .rdev = 0, .symlink_target = {}}, caller_of(req));
  if (made.ok()) return reply_create(req, *made, flags);
  if (made.code() != Errc::kExists || (flags & O_EXCL) != 0) return reply_status(req, made.status());
  // Somebody made it since the kernel looked: a client, or another path of the kernel's.
  auto found = context.fs.lookup(*dir, name);
  if (!found.ok()) return reply_status(req, found.status());
  const InodeRef inode = *found;
  auto attributes = context.fs.attributes(*inode);
  if (!attributes.ok()) return reply_status(req, attributes.status());
  if (!S_ISREG(attributes->mode)) return reply_error(req, Errc::kExists);
  unsigned mask = (flags & O_ACCMODE) != O_WRONLY ? R_OK : 0;
  if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0) mask |= W_OK;
  Status status = context.fs.access(*inode, mask, caller_of(req));  // the kernel checked the directory only
  if (status.ok()) status = check_flags(context, *inode, flags);
  if (!status.ok()) return reply_status(req, status);
  if ((flags & O_TRUNC) == 0) return reply_create(req, inode, flags);
  truncate_then(req, inode, [req, inode, flags] { reply_create(req, inode, flags); });
}

void release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  end_handle(context_of(req), handle_of(fi));
  ::fuse_reply_err(req, 0);
}

}  // namespace

void answer_tmpfile(Context& context, int fd, const fuse_in_header& request, const fuse_create_in& in) {
  const InodeRef dir = context.nodes.find(request.nodeid);
  if (dir == nullptr) return send_reply(fd, request.unique, ESTALE);
  Caller caller;
  caller.uid = request.uid;
  caller.gid = request.gid;
  caller.umask = in.umask;
  caller.tid = request.pid;
  caller.privileged = true;
  auto made = context.fs.create_unnamed(
      *dir, {.mode = (in.mode & 07777u) | S_IFREG, .rdev = 0, .symlink_target = {}}, caller);
  if (!made.ok()) return send_reply(fd, request.unique, to_errno(made.code()));
  auto attributes = context.fs.attributes(**made);
  if (!attributes.ok()) return send_reply(fd, request.unique, to_errno(attributes.code()));
  const CreateOut out{to_entry_out(context, *attributes), open_out(context, *made, static_cast<int>(in.flags))};
  context.nodes.add(*made);
  send_reply(fd, request.unique, 0, &out, sizeof out);
}

void add_open_operations(fuse_lowlevel_ops& ops) {
  ops.open = open;
  ops.create = create;
  ops.release = release;
}

}  // namespace pindax
