// SPDX-License-Identifier: BSD-3-Clause
//
// Descriptors that a client sent: what are they really? And the shared areas made from them.
//
// A client is hostile until proven otherwise. A descriptor of a FUSE file that it serves itself can hang read, ioctl, fstat
// and even close. So
//  1. The first call on a received descriptor is statx(AT_STATX_DONT_SYNC), which asks the kernel's memory only; its
//     device number cannot be forged, unlike the name in /proc/self/fd.
//  2. Only what proved to be a memfd, an eventfd, a userfaultfd, or the pool itself is used or closed by us. Everything
//     else is closed by the Undertaker's thread, which may hang without harm.
//  3. A memfd is mapped only with seals SHRINK and GROW, at the exact size: a later access cannot be a SIGBUS.
#pragma once

#include <memory>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "proto/shared.h"

namespace pindax {

enum class DescriptorKind { kUnknown, kMemfd, kEventfd, kUserfaultfd, kPool };

struct DescriptorIdentity {
  u64 device = 0;
  u64 inode = 0;
  u32 mode = 0;
  DescriptorKind kind = DescriptorKind::kUnknown;
};

// The identity of the pool that a client's descriptor must match.
struct PoolIdentity {
  u64 device = 0;       // of the file system it lies in
  u64 inode = 0;
  u64 special = 0;      // device number of a character device (devdax), else 0
  u32 mode = 0;         // S_IFMT and permissions
};

// Never blocks, whatever the descriptor is. `pool` may be null.
Result<DescriptorIdentity> identify_descriptor(int fd, const PoolIdentity* pool);

// Closes descriptors that might hang on close. Thread-safe.
class Undertaker {
 public:
  Undertaker();
  ~Undertaker();  // does not wait for a hung close
  Undertaker(const Undertaker&) = delete;
  Undertaker& operator=(const Undertaker&) = delete;
  void bury(UniqueFd fd);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// A shared mapping, unmapped with its owner.
class SharedArea {
 public:
  SharedArea() = default;
  SharedArea(void* at, u64 bytes) : at_(at), bytes_(bytes) {}
  SharedArea(SharedArea&& o) noexcept : at_(std::exchange(o.at_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  SharedArea& operator=(SharedArea&& o) noexcept;
  SharedArea(const SharedArea&) = delete;
  SharedArea& operator=(const SharedArea&) = delete;
  ~SharedArea();
  std::byte* data() const { return static_cast<std::byte*>(at_); }
  explicit operator bool() const { return at_ != nullptr; }

 private:
  void* at_ = nullptr;
  u64 bytes_ = 0;
};

// A new gate area, mapped and then sealed so that nobody else can ever write it. The descriptor is for the client.
struct GateArea {
  SharedArea area;
  UniqueFd fd;
};
Result<GateArea> make_gate_area(u64 session);

// Maps a client's slot area. kProtocol if it is not a memfd of shared memory with the right seals and size.
Result<SharedArea> map_slot_area(int fd);

}  // namespace pindax
