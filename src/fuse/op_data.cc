// SPDX-License-Identifier: BSD-3-Clause
//
// Bytes. Replies leave from the callbacks of the file system, straight from the mapped pool.
//
// Who asks (docs/coherence.md): read(2) carries a lock owner; a READ without one fills a page of the kernel's
// cache, so the kernel becomes an owner of it (C1). A WRITE with `writepage` is the kernel's write-back of
// such pages (C3). The page is the inode's: it may be stored into through any file that allows it, not only
// through the one that had it filled.
#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "fuse/operations.h"
#include "fuse/reply.h"
#include "pmem/bus_guard.h"

namespace pindax {
namespace {

constexpr u64 kCopyPieceBytes = 1u << 20;
constexpr u64 kCopyRequestBytes = 16u << 20;  // by bytes, of one COPY_FILE_RANGE: the kernel holds the target's lock meanwhile
constexpr u64 kMaxCopyReply = (u64{1} << 32) - kBlockSize;  // the reply's field has 32 bits

// Counts a request from its handler to its reply; the reply frees `req`, so the context is asked for first.
class Flight {
 public:
  static void begin(Context& context) { context.in_flight.fetch_add(1, std::memory_order_relaxed); }
  explicit Flight(fuse_req_t req) : context_(context_of(req)) {}
  ~Flight() { context_.in_flight.fetch_sub(1, std::memory_order_release); }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

 private:
  Context& context_;
};

// What was asked for, should the kernel meet a bad block in the answer: it says EIO to the reader, and nothing to us but that it
// could not take the bytes.
struct Asked {
  InodeRef inode;
  u64 offset, length;
};

void reply_pieces(fuse_req_t req, const Asked& asked, const Result<const FileSystem::ReadPieces*>& pieces) {
  if (!pieces.ok()) return reply_status(req, pieces.status());
  Context& context = context_of(req);  // the reply frees it
  const FileSystem::ReadPieces& list = **pieces;
  constexpr std::size_t kOnStack = 8;
  iovec few[kOnStack];
  std::unique_ptr<iovec[]> many;
  iovec* vector = few;
  if (list.size() > kOnStack) {
    many = std::make_unique<iovec[]>(list.size());
    vector = many.get();
  }
  int count = 0;
  for (const auto& piece : list)
    if (!piece.empty()) vector[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
  const int error = ::fuse_reply_iov(req, vector, count);
  if (error == -EFAULT || error == -EIO || error == -EHWPOISON)
    context.executor.post([&context, asked] { context.fs.examine(*asked.inode, asked.offset, asked.length); });
}

void read(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* fi) {
  Context& context = context_of(req);
  Handle* handle = handle_of(fi);
  Flight::begin(context);
  const Asked asked{handle->inode, static_cast<u64>(offset), size};
  if (fi->lock_owner != 0) {
    context.fs.read(handle->inode, asked.offset, size, [req, asked](Result<const FileSystem::ReadPieces*> pieces) {
      const Flight flight(req);
      reply_pieces(req, asked, pieces);
    });
    return;
  }
  // A fill may wait for a pin: whoever touches the page can be killed meanwhile.
  auto pending = PendingChange::begin(context.changes, context.executor, req, PendingChange::EndedBy::kDeath);
  const bool writable = context.store_handles.any(handle->inode->ino);
  auto fill = context.fs.fill(handle->inode, static_cast<u64>(offset), size, writable,
                              [req, pending, asked](Result<const FileSystem::ReadPieces*> pieces) {
                                pending->finished();
                                const Flight flight(req);
                                reply_pieces(req, asked, pieces);
                              });
  pending->attach(std::move(fill));
}

void write(fuse_req_t req, fuse_ino_t, const char* data, std::size_t size, off_t offset, fuse_file_info* fi) {
  Context& context = context_of(req);
  Handle* handle = handle_of(fi);
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  if (fi->writepage != 0) {
    const Status status = context.fs.write_back(*handle->inode, static_cast<u64>(offset), bytes);
    if (!status.ok()) return reply_status(req, status);
    ::fuse_reply_write(req, size);
    return;
  }
  FileSystem::WriteRequest request;
  request.offset = static_cast<u64>(offset);
  request.data = bytes;
  request.append = (fi->flags & O_APPEND) != 0;
  request.sync = ((fi->flags | handle->flags) & (O_SYNC | O_DSYNC)) != 0;
  request.caller = caller_of(req);
  Flight::begin(context);
  if (!request.append) {
    context.fs.write(handle->inode, request, [req](Result<u64> written) {
      const Flight flight(req);
      if (!written.ok()) return reply_status(req, written.status());
      ::fuse_reply_write(req, *written);
    });
    return;
  }
  // The kernel counts on its own end of file; if a client has moved it, the kernel must learn the size (C7).
  auto end = context.fs.size(*handle->inode);
  const bool moved = end.ok() && *end != request.offset;
  context.fs.write(handle->inode, request,
                   [req, moved, inode = handle->inode, &context](Result<u64> written) {
                     const Flight flight(req);
                     if (moved) context.notifier.invalidate_attributes(inode->ino);
                     if (!written.ok()) return reply_status(req, written.status());
                     ::fuse_reply_write(req, *written);
                   });
}

void fsync(fuse_req_t req, fuse_ino_t, int datasync, fuse_file_info* fi) {
  reply_status(req, context_of(req).fs.fsync(*handle_of(fi)->inode, datasync != 0));
}

// COPY_FILE_RANGE. Whole blocks are shared (fs/share.h); what cannot be, or is pinned in either file just now, is copied by
// bytes: a piece is read into memory, the source let go of, the piece written. No hold of one file is kept while another
// is asked for, and no pin is waited for.
class Copy : public std::enable_shared_from_this<Copy> {
 public:
  Copy(fuse_req_t req, InodeRef from, u64 from_offset, InodeRef to, u64 to_offset, u64 length)
      : req_(req),
        context_(context_of(req)),
        from_(std::move(from)),
        to_(std::move(to)),
        from_offset_(from_offset),
        to_offset_(to_offset),
        left_(std::min(length, kMaxCopyReply)),
        change_(change_context(req)) {
    change_.caller = caller_of(req);
    Flight::begin(context_);
  }

  void step() {
    if (left_ == 0 || bytes_left_ == 0) return finish({});
    const bool congruent = from_offset_ % kBlockSize == to_offset_ % kBlockSize;
    if (congruent && from_offset_ % kBlockSize == 0 && copied_ >= share_again_at_) return share();
    u64 piece = std::min({left_, bytes_left_, kCopyPieceBytes});
    if (congruent && from_offset_ % kBlockSize != 0) piece = std::min(piece, kBlockSize - from_offset_ % kBlockSize);
    context_.fs.read(from_, from_offset_, piece,
                     [self = shared_from_this(), piece](Result<const FileSystem::ReadPieces*> r) {
                       self->buffer_.clear();
                       Status status = r.status();
                       if (r.ok())
                         for (const auto& p : **r)
                           if (status.ok()) status = append_guarded(self->buffer_, p);
                       self->context_.executor.post([self, status, piece] {
                         if (!status.ok()) self->context_.fs.examine(*self->from_, self->from_offset_, piece);
                         self->store(status);
                       });
                     });
  }

 private:
  // Whatever hinders sharing, bytes can be copied, or say why not.
  void share() {
    const FileSystem::CloneRequest what{.source = from_,
                                        .destination = to_,
                                        .source_offset = from_offset_,
                                        .destination_offset = to_offset_,
                                        .length = left_,
                                        .may_shorten = true,
                                        .never_wait = true};
    context_.fs.clone_range(what, change_, [self = shared_from_this()](Result<u64> shared) {
      self->context_.executor.post([self, bytes = shared.ok() ? *shared : 0] {
        self->advance(bytes);
        if (bytes == 0) self->share_again_at_ = self->copied_ + kCopyRequestBytes;
        self->step();
      });
    });
  }

  void store(const Status& status) {
    if (!status.ok() || buffer_.empty()) return finish(status);
    FileSystem::WriteRequest request;
    request.offset = to_offset_;
    request.data = buffer_;
    request.caller = change_.caller;
    context_.fs.write(to_, request, [self = shared_from_this()](Result<u64> written) {
      self->context_.executor.post([self, written = std::move(written)] { self->stored(written); });
    });
  }

  void stored(const Result<u64>& written) {
    if (!written.ok()) return finish(written.status());
    advance(*written);
    bytes_left_ -= *written;
    if (*written < buffer_.size()) return finish({});
    step();
  }

  void advance(u64 bytes) {
    from_offset_ += bytes;
    to_offset_ += bytes;
    left_ -= bytes;
    copied_ += bytes;
  }

  void finish(const Status& status) {
    const Flight flight(req_);
    if (copied_ == 0 && !status.ok()) return reply_status(req_, status);
    ::fuse_reply_write(req_, copied_);
  }

  const fuse_req_t req_;
  Context& context_;
  const InodeRef from_, to_;
  u64 from_offset_, to_offset_, left_;
  u64 copied_ = 0;
  u64 bytes_left_ = kCopyRequestBytes;
  u64 share_again_at_ = 0;
  std::vector<std::byte> buffer_;
  FileSystem::ChangeContext change_;
};

void copy_file_range(fuse_req_t req, fuse_ino_t, off_t from_offset, fuse_file_info* from, fuse_ino_t,
                     off_t to_offset, fuse_file_info* to, std::size_t length, int) {
  if (from_offset < 0 || to_offset < 0) return reply_error(req, Errc::kInvalid);
  std::make_shared<Copy>(req, handle_of(from)->inode, static_cast<u64>(from_offset), handle_of(to)->inode,
                         static_cast<u64>(to_offset), length)
      ->step();
}

}  // namespace

void add_data_operations(fuse_lowlevel_ops& ops) {
  ops.read = read;
  ops.write = write;
  ops.fsync = fsync;
  ops.copy_file_range = copy_file_range;
}

}  // namespace pindax
