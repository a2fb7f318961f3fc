// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/device.h"

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fuse/context.h"
#include "fuse/operations.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#include <sys/syscall.h>
#endif

namespace pindax {
namespace {

thread_local RequestExtras extras;

// What Pindax asks for beyond libfuse 3.14's own flags.
constexpr u64 kWanted = abi::kInitParallelDirops | abi::kInitHandleKillprivV2 | abi::kInitSetxattrExt |
                        abi::kInitDirectIoAllowMmap;

template <class T>
const T* body(const fuse_in_header* request, std::size_t length) {
  return length >= sizeof *request + sizeof(T) ? reinterpret_cast<const T*>(request + 1) : nullptr;
}

#if defined(__SANITIZE_THREAD__)
// The thread sanitizer does not see that the kernel asks to write a page only after it has been told what was in it, and the other way
// round: what comes before a reply comes before every request that is read later. The reply's bytes are read here, before that, and
// not again by what stands in for writev.
void request_read(const Device& device) { __tsan_acquire(const_cast<Device*>(&device)); }
ssize_t send_vector(Device& device, int fd, const iovec* vector, int count) {
  unsigned sum = 0;
  for (int i = 0; i < count; ++i)
    for (std::size_t at = 0; at < vector[i].iov_len; at += 8) sum += static_cast<const unsigned char*>(vector[i].iov_base)[at];
  static std::atomic<unsigned> kept;
  kept.store(sum, std::memory_order_relaxed);
  __tsan_release(&device);
  return ::syscall(SYS_writev, fd, vector, count);
}
#else
void request_read(const Device&) {}
ssize_t send_vector(Device&, int fd, const iovec* vector, int count) { return ::writev(fd, vector, count); }
#endif

// A reader may be cancelled only while it waits in the kernel.
class NoCancel {
 public:
  NoCancel() { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_); }
  ~NoCancel() { ::pthread_setcancelstate(state_, nullptr); }
  NoCancel(const NoCancel&) = delete;
  NoCancel& operator=(const NoCancel&) = delete;

 private:
  int state_ = 0;
};

}  // namespace

const RequestExtras& request_extras() { return extras; }

void Device::peek(fuse_in_header* request, std::size_t* length, bool* answered, int fd, Context& context) {
  extras = {};
  switch (request->opcode) {
    case FUSE_INIT:
      if (const auto* init = body<fuse_init_in>(request, *length)) {
        offered_ = init->flags;
        if ((init->flags & abi::kInitExt) != 0) offered_ |= u64{init->flags2} << 32;
        init_unique_.store(request->unique);
      }
      break;
    case FUSE_WRITE:
      if (const auto* w = body<fuse_write_in>(request, *length))
        extras.kill_suidgid = (w->write_flags & abi::kWriteKillSuidgid) != 0;
      break;
    case FUSE_SETATTR:
      if (const auto* s = body<fuse_setattr_in>(request, *length))
        extras.kill_suidgid = (s->valid & abi::kFattrKillSuidgid) != 0;
      break;
    case FUSE_OPEN:
      if (const auto* o = body<fuse_open_in>(request, *length))
        extras.kill_suidgid = (o->open_flags & abi::kOpenKillSuidgid) != 0;
      break;
    case FUSE_CREATE:
      if (const auto* c = body<fuse_create_in>(request, *length))
        extras.kill_suidgid = (c->open_flags & abi::kOpenKillSuidgid) != 0;
      break;
    case FUSE_SETXATTR: {
      const auto* s = body<fuse_setxattr_in>(request, *length);
      if (s == nullptr || (requested_ & abi::kInitSetxattrExt) == 0) break;
      extras.kill_sgid = (s->setxattr_flags & abi::kSetxattrAclKillSgid) != 0;
      auto* bytes = reinterpret_cast<unsigned char*>(request);
      const std::size_t keep = sizeof *request + sizeof *s - abi::kSetxattrExtraBytes;
      std::memmove(bytes + keep, bytes + keep + abi::kSetxattrExtraBytes,
                   *length - keep - abi::kSetxattrExtraBytes);
      *length -= abi::kSetxattrExtraBytes;
      request->len = static_cast<u32>(*length);
      break;
    }
    case abi::kOpTmpfile:
      if (const auto* c = body<fuse_create_in>(request, *length)) {
        answer_tmpfile(context, fd, *request, *c);
        *answered = true;
      }
      break;
    case abi::kOpStatx:
      if (const auto* s = body<abi::StatxIn>(request, *length)) {
        answer_statx(context, fd, *request, *s);
        *answered = true;
      }
      break;
    default:
      break;
  }
}

struct DeviceHooks {
  // A cancellation point, by ::read: no object with a destructor may live across it.
  static ssize_t read(int fd, void* buffer, std::size_t size, void* userdata) {
    auto& context = *static_cast<Context*>(userdata);
    for (;;) {
      const ssize_t n = ::read(fd, buffer, size);
      if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) return n;
      request_read(context.device);
      std::size_t length = static_cast<std::size_t>(n);
      bool answered = false;
      {
        const NoCancel guard;
        context.device.peek(static_cast<fuse_in_header*>(buffer), &length, &answered, fd, context);
      }
      if (!answered) return static_cast<ssize_t>(length);
    }
  }

  static ssize_t writev(int fd, iovec* vector, int count, void* userdata) {
    auto& device = static_cast<Context*>(userdata)->device;
    const auto* header = static_cast<const fuse_out_header*>(vector[0].iov_base);
    const u64 init = device.init_unique_.load(std::memory_order_relaxed);
    const bool is_init = init != 0 && header->unique == init && header->error == 0 && count == 2 &&
                         vector[1].iov_len >= sizeof(fuse_init_out);
    if (is_init) [[unlikely]] {
      device.init_unique_.store(0);
      auto* out = static_cast<fuse_init_out*>(vector[1].iov_base);
      const u64 wanted = kWanted & device.offered_;
      out->flags |= static_cast<u32>(wanted);
      if ((device.offered_ & abi::kInitExt) != 0) {
        out->flags |= static_cast<u32>(abi::kInitExt);
        out->flags2 |= static_cast<u32>(wanted >> 32);
      }
      device.requested_ = out->flags | u64{out->flags2} << 32;
    }
    const ssize_t n = send_vector(device, fd, vector, count);
    if (is_init && n >= 0 && device.ready_) {
      device.ready_();
      device.ready_ = nullptr;
    }
    // The mount is gone, and with it whoever waited for this reply.
    if (n < 0 && (errno == ENODEV || errno == EPIPE) && header->unique != 0) return header->len;
    return n;
  }
};

int Device::install(fuse_session* session, Context& context, std::function<void()> ready) {
  context.device.ready_ = std::move(ready);
  const fuse_custom_io io{.writev = &DeviceHooks::writev,
                          .read = &DeviceHooks::read,
                          .splice_receive = nullptr,
                          .splice_send = nullptr};
  return ::fuse_session_custom_io(session, &io, ::fuse_session_fd(session));
}

}  // namespace pindax
