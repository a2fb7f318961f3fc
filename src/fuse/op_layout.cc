// SPDX-License-Identifier: BSD-3-Clause
//
// Changes of the layout but for truncate, and questions about it.
#include <unistd.h>

#include "fuse/operations.h"
#include "fuse/reply.h"

namespace pindax {
namespace {

void fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info* fi) {
  if (offset < 0 || length <= 0) return reply_error(req, Errc::kInvalid);
  Context& context = context_of(req);
  const InodeRef inode = handle_of(fi)->inode;
  FileSystem::ChangeContext change = change_context(req);
  // The kernel marks writes of callers without CAP_FSETID, but not this request.
  learn_rights(req, *inode, change.caller);
  PendingChange::run(
      context.changes, context.executor, req,
      [&](PendingChange::Done done) {
        return context.fs.fallocate(inode, mode, static_cast<u64>(offset), static_cast<u64>(length), change,
                                    std::move(done));
      },
      [req](const Status& status) { reply_status(req, status); });
}

void lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* fi) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return reply_error(req, Errc::kInvalid);
  if (offset < 0) return reply_error(req, Errc::kNoDevice);
  auto found = context_of(req).fs.seek(*handle_of(fi)->inode, static_cast<u64>(offset), whence == SEEK_DATA);
  if (!found.ok()) return reply_status(req, found.status());
  ::fuse_reply_lseek(req, static_cast<off_t>(*found));
}

}  // namespace

void add_layout_operations(fuse_lowlevel_ops& ops) {
  ops.fallocate = fallocate;
  ops.lseek = lseek;
}

}  // namespace pindax
