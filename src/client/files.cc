// SPDX-License-Identifier: BSD-3-Clause
//
// Descriptors, and the calls that change a file's layout.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "client/client.h"
#include "client/error.h"
#include "proto/mount_ioctl.h"

using namespace pindax;
using namespace pindax::client;

int pindax_client::file_ref(int fd, proto::FileRef& ref) {
  ref = {};
  {
    MutexLock lock(files_mutex);
    if (auto it = handles.find(fd); it != handles.end()) {
      ref.handle = it->second;
      return 0;
    }
  }
  proto::TokenReply token{};
  if (::ioctl(fd, proto::kIocToken, &token) != 0) {
    if (errno == EBADF) return fail(EBADF, "not an open descriptor");
    return fail(EINVAL, "this descriptor is neither of a Pindax mount nor from pindax_open");
  }
  std::memcpy(ref.token, token.token, sizeof(ref.token));
  return 0;
}

namespace {

u32 current_umask() {
  // The only way to read it without changing it for other threads is /proc; a fresh file's mode is worth that.
  UniqueFd fd(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof(text) - 1) : 0;
  if (n <= 0) return 022;
  text[n] = '\0';
  const char* line = std::strstr(text, "\nUmask:");
  return line != nullptr ? static_cast<u32>(std::strtoul(line + 7, nullptr, 8)) : 022;
}

// Opened by the daemon: the descriptor is only a number that stands for the daemon's handle.
int open_handle(pindax_client& c, const char* path, int flags, unsigned mode) {
  const proto::OpenBody body{static_cast<u32>(flags & ~O_CLOEXEC), mode, (flags & O_CREAT) != 0 ? current_umask() : 0,
                             static_cast<u32>(::gettid())};
  std::map<int, u64> made;  // before anything happens that would have to be undone
  made.emplace(-1, 0);
  auto node = made.extract(made.begin());
  Reply reply;
  if (const int error = c.call(proto::Type::kOpen, body, reply, path); error != 0) return error;
  proto::OpenReply opened{};
  if (reply.length < sizeof(opened)) return fail(EPROTO, "short reply to open");
  std::memcpy(&opened, reply.bytes.data(), sizeof(opened));
  const int fd = ::open("/dev/null", (flags & O_ACCMODE) | O_CLOEXEC);
  if (fd < 0) {
    const int error = fail_errno("a descriptor for the file");
    const proto::CloseBody close_body{opened.handle};
    Reply ignored;
    (void)c.call(proto::Type::kClose, close_body, ignored);
    return error;
  }
  node.key() = fd;
  node.mapped() = opened.handle;
  MutexLock lock(c.files_mutex);
  c.handles.erase(fd);  // of a descriptor that was closed behind our back
  c.handles.insert(std::move(node));
  return fd;
}

// A path inside the file system, or one that already names a file on the mount.
std::string on_mount(const pindax_client& c, const char* path) {
  const std::string text(path);
  const std::string& root = c.mount_path;
  if (text.compare(0, root.size(), root) == 0 && (text.size() == root.size() || text[root.size()] == '/')) return text;
  return root + (text.empty() || text[0] != '/' ? "/" : "") + text;
}

// FallocateBody and TruncateBody carry the same.
template <class Body>
int take_options(const struct pindax_change_options* opt, Body& body) {
  if (opt == nullptr) return 0;
  struct pindax_change_options o{};
  if (opt->size < sizeof(o.size)) return fail(EINVAL, "set size to sizeof(struct pindax_change_options)");
  std::memcpy(&o, opt, std::min(opt->size, sizeof(o)));
  if (o.on_busy > PINDAX_ON_BUSY_EVICT || o.flags != 0) return fail(EINVAL, "unknown on_busy or flags");
  body.policy = o.on_busy;
  body.deadline_ms = o.deadline_ms;
  return 0;
}

int share(pindax_client& c, int src_fd, u64 src, int dst_fd, u64 dst, u64 length, u32 flags, u64* bytes) {
  proto::CloneBody body{};
  if (const int error = c.file_ref(src_fd, body.source); error != 0) return error;
  if (const int error = c.file_ref(dst_fd, body.destination); error != 0) return error;
  body.source_offset = src;
  body.destination_offset = dst;
  body.length = length;
  body.flags = flags;
  body.thread = static_cast<u32>(::gettid());
  Reply reply;
  const int error = c.call(proto::Type::kClone, body, reply);
  proto::CloneReply answer{};
  if (error == 0) std::memcpy(&answer, reply.bytes.data(), std::min(reply.length, sizeof(answer)));
  if (bytes != nullptr) *bytes = answer.bytes;
  return error;
}

}  // namespace

extern "C" {

PINDAX_API int pindax_open(struct pindax_client* c, const char* path, int flags, unsigned mode) try {
  if (const int error = c->usable(); error != 0) return error;
  if (path == nullptr) return fail(EINVAL, "open needs a path");
  int fd = 0;
  if (c->mount_path.empty()) {
    if (fd = open_handle(*c, path, flags, mode); fd < 0) return fd;
  } else {
    const std::string full = on_mount(*c, path);
    if (fd = ::open(full.c_str(), flags | O_CLOEXEC, mode); fd < 0) return fail_errno(full);
  }
  c->files.add(fd, flags);
  return fd;
} catch (const std::bad_alloc&) {
  return fail(ENOMEM, "out of memory in open");
}

PINDAX_API int pindax_close(struct pindax_client* c, int fd) {
  u64 handle = 0;
  if (const auto io = c->files.take(fd)) io->close();
  {
    MutexLock lock(c->files_mutex);
    if (auto it = c->handles.find(fd); it != c->handles.end()) {
      handle = it->second;
      c->handles.erase(it);
    }
  }
  const int closed = ::close(fd) == 0 ? 0 : fail_errno("close");
  if (handle == 0) return closed;
  Reply reply;
  return c->call(proto::Type::kClose, proto::CloseBody{handle}, reply);
}

PINDAX_API int pindax_fallocate(struct pindax_client* c, int fd, int mode, uint64_t offset, uint64_t length) {
  return pindax_fallocate_ext(c, fd, mode, offset, length, nullptr);
}

PINDAX_API int pindax_truncate(struct pindax_client* c, int fd, uint64_t size) {
  return pindax_truncate_ext(c, fd, size, nullptr);
}

PINDAX_API int pindax_fallocate_ext(struct pindax_client* c, int fd, int mode, uint64_t offset, uint64_t length,
                                    const struct pindax_change_options* opt) {
  proto::FallocateBody body{};
  if (const int error = take_options(opt, body); error != 0) return error;
  if (const int error = c->file_ref(fd, body.file); error != 0) return error;
  body.mode = static_cast<u32>(mode);
  body.offset = offset;
  body.length = length;
  body.thread = static_cast<u32>(::gettid());
  Reply reply;
  return c->call(proto::Type::kFallocate, body, reply);
}

PINDAX_API int pindax_truncate_ext(struct pindax_client* c, int fd, uint64_t size, const struct pindax_change_options* opt) {
  proto::TruncateBody body{};
  if (const int error = take_options(opt, body); error != 0) return error;
  if (const int error = c->file_ref(fd, body.file); error != 0) return error;
  body.size = size;
  body.thread = static_cast<u32>(::gettid());
  Reply reply;
  return c->call(proto::Type::kTruncate, body, reply);
}

PINDAX_API int pindax_clone_range(struct pindax_client* c, int src_fd, uint64_t src, int dst_fd, uint64_t dst, uint64_t length) {
  return share(*c, src_fd, src, dst_fd, dst, length, 0, nullptr);
}

PINDAX_API int pindax_dedupe_range(struct pindax_client* c, int src_fd, uint64_t src, int dst_fd, uint64_t dst, uint64_t length,
                                   uint64_t* deduped) {
  return share(*c, src_fd, src, dst_fd, dst, length, proto::kCloneDedupe, deduped);
}

}  // extern "C"
