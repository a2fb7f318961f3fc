// SPDX-License-Identifier: BSD-3-Clause
#include "client/userfaultfd.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

namespace pindax::client {
namespace {

alignas(kBlockSize) constexpr unsigned char kZeros[16 * kBlockSize] = {};

}  // namespace

int Userfaultfd::negotiate(int fd) {
  if (fd < 0) return errno;
  fd_.reset(fd);
  constexpr u64 kNeeded = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | kFeaturePoison;
  constexpr u64 kForShared = UFFD_FEATURE_MISSING_SHMEM | kFeatureMinorShmem | kFeatureWpShmem;
  for (const u64 more : {kForShared, u64{0}}) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = kNeeded | more;
    shared_ = more != 0;
    if (::ioctl(fd, UFFDIO_API, &api) == 0) return 0;
  }
  const int err = errno;
  fd_.reset();
  return err;
}

int Userfaultfd::open(int device) {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;  // without O_NONBLOCK poll() says POLLERR
  int err = negotiate(static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
  if (err == 0) return 0;
  const UniqueFd own(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  for (const int source : {own.get(), device}) {
    if (source < 0) continue;
    err = negotiate(::ioctl(source, USERFAULTFD_IOC_NEW, kFlags));
    if (err == 0) return 0;
  }
  return err;
}

int Userfaultfd::watch(void* address, u64 length) {
  uffdio_register reg{};
  reg.range = {reinterpret_cast<u64>(address), length};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(fd_.get(), UFFDIO_REGISTER, &reg) == 0 ? 0 : errno;
}

int Userfaultfd::watch_shared(u64 address, u64 length) {
  uffdio_register reg{};
  reg.range = {address, length};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(fd_.get(), UFFDIO_REGISTER, &reg) == 0 ? 0 : errno;
}

int Userfaultfd::enter(u64 address, u64 length) {
  bool filled = false;  // the page at hand
  u64 piece = length;
  for (u64 done = 0; done < length;) {
    uffdio_continue c{};
    c.range = {address + done, std::min(length - done, piece)};
    c.mode = UFFDIO_CONTINUE_MODE_DONTWAKE;
    const int err = ::ioctl(fd_.get(), UFFDIO_CONTINUE, &c) == 0 ? 0 : errno;
    if (err == 0 || c.mapped > 0 || err == EEXIST) {
      done += err == 0 ? c.range.len : c.mapped > 0 ? static_cast<u64>(c.mapped) : kBlockSize;
      filled = false;
    } else if (err == ENOENT && c.range.len > kBlockSize) {  // neighbours that the kernel did not merge
      piece = kBlockSize;
    } else if (err == EFAULT && !filled) {  // a hole of the pool's file
      uffdio_zeropage zero{};
      zero.range = {address + done, kBlockSize};
      zero.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE;
      if (::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero) != 0 && errno != EEXIST && errno != EAGAIN) return errno;
      filled = true;
    } else if (err != EAGAIN) {
      return err;
    }
  }
  return 0;
}

// A copy must lie within one mapping of the kernel's (ENOENT), and placeholders that were moved into place are mappings of
// their own: then page by page.
int Userfaultfd::fill_zeros(u64 address, u64 length) { return fill(address, length, nullptr); }

int Userfaultfd::fill(u64 address, u64 length, const void* source) {
  u64 piece = source == nullptr ? sizeof(kZeros) : length;
  for (u64 done = 0; done < length;) {
    uffdio_copy copy{};
    copy.dst = address + done;
    copy.src = source == nullptr ? reinterpret_cast<u64>(kZeros) : reinterpret_cast<u64>(source) + done;
    copy.len = std::min<u64>(length - done, piece);
    copy.mode = UFFDIO_COPY_MODE_WP | UFFDIO_COPY_MODE_DONTWAKE;
    if (::ioctl(fd_.get(), UFFDIO_COPY, &copy) == 0) {
      done += copy.len;
      continue;
    }
    if (copy.copy > 0) done += static_cast<u64>(copy.copy);
    else if (errno == EEXIST) done += kBlockSize;
    else if (errno == ENOENT && copy.len > kBlockSize) piece = kBlockSize;
    else if (errno != EAGAIN) return errno;
  }
  return 0;
}

int Userfaultfd::poison(u64 address, u64 length) {
  for (u64 done = 0; done < length;) {
    UffdioPoison poison{};
    poison.range = {address + done, length - done};
    poison.mode = 1;  // DONTWAKE
    if (::ioctl(fd_.get(), kUffdioPoison, &poison) == 0) return 0;
    if (poison.updated > 0) done += static_cast<u64>(poison.updated);
    else if (errno == EEXIST) done += kBlockSize;
    else if (errno != EAGAIN) return errno;
  }
  return 0;
}

void Userfaultfd::wake(u64 address, u64 length) {
  uffdio_range range{address, length};
  (void)::ioctl(fd_.get(), UFFDIO_WAKE, &range);
}

}  // namespace pindax::client
