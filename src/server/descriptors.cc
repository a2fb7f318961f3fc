// SPDX-License-Identifier: BSD-3-Clause
#include "server/descriptors.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <new>
#include <string>
#include <thread>

namespace pindax {

namespace {

constexpr std::size_t kMaxBuried = 256;  // closes outstanding; beyond that descriptors are leaked, not waited for

Result<struct statx> stat_without_asking(int fd) {
  struct statx s = {};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MODE | STATX_INO, &s) != 0)
    return Status(Errc::kIo, std::string("statx of a received descriptor: ") + std::strerror(errno));
  return s;
}

u64 device_of(const struct statx& s) { return ::makedev(s.stx_dev_major, s.stx_dev_minor); }

// Devices of the kernel's internal mounts, learnt from descriptors of our own.
struct InternalDevices {
  u64 memfd = 0;
  u64 anonymous = 0;  // eventfd, userfaultfd, …
};

const InternalDevices& internal_devices() {
  static const InternalDevices devices = [] {
    InternalDevices d;
    UniqueFd memory(::memfd_create("pindax-probe", MFD_CLOEXEC));
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    if (memory)
      if (auto s = stat_without_asking(memory.get()); s.ok()) d.memfd = device_of(*s);
    if (event)
      if (auto s = stat_without_asking(event.get()); s.ok()) d.anonymous = device_of(*s);
    return d;
  }();
  return devices;
}

std::string descriptor_name(int fd) {
  char target[256];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), target, sizeof(target));
  return n > 0 ? std::string(target, static_cast<std::size_t>(n)) : std::string();
}

}  // namespace

Result<DescriptorIdentity> identify_descriptor(int fd, const PoolIdentity* pool) {
  PINDAX_ASSIGN(const struct statx s, stat_without_asking(fd));
  DescriptorIdentity id{.device = device_of(s), .inode = s.stx_ino, .mode = s.stx_mode};
  const InternalDevices& internal = internal_devices();
  if (pool != nullptr && id.device == pool->device && id.inode == pool->inode &&
      (id.mode & S_IFMT) == (pool->mode & S_IFMT) &&
      (pool->special == 0 || ::makedev(s.stx_rdev_major, s.stx_rdev_minor) == pool->special)) {
    id.kind = DescriptorKind::kPool;
  } else if (internal.memfd != 0 && id.device == internal.memfd && S_ISREG(id.mode)) {
    id.kind = DescriptorKind::kMemfd;  // System V segments live there too: the seals tell them apart
  } else if (internal.anonymous != 0 && id.device == internal.anonymous) {
    // Names on that device are the kernel's own.
    const std::string name = descriptor_name(fd);
    if (name == "anon_inode:[eventfd]") id.kind = DescriptorKind::kEventfd;
    if (name == "anon_inode:[userfaultfd]") id.kind = DescriptorKind::kUserfaultfd;
  }
  return id;
}

// ---- Undertaker ----

struct Undertaker::Shared {
  Mutex mutex{LockRank::kLeaf};
  CondVar work;
  std::deque<int> queue GUARDED_BY(mutex);
  bool running GUARDED_BY(mutex) = false;
  bool stopping GUARDED_BY(mutex) = false;
};

Undertaker::Undertaker() : shared_(std::make_shared<Shared>()) {}

Undertaker::~Undertaker() {
  MutexLock lock(shared_->mutex);
  shared_->stopping = true;
  shared_->work.notify_all();
}

void Undertaker::bury(UniqueFd fd) {
  if (!fd) return;
  bool start = false;
  {
    MutexLock lock(shared_->mutex);
    if (shared_->queue.size() >= kMaxBuried) {
      (void)fd.release();  // the thread hangs in a close and this client is to blame: leak rather than hang with it
      return;
    }
    shared_->queue.push_back(fd.release());
    shared_->work.notify_one();
    start = !std::exchange(shared_->running, true);
  }
  if (!start) return;
  std::thread([shared = shared_] {
    for (;;) {
      int next = -1;
      {
        MutexLock lock(shared->mutex);
        while (shared->queue.empty() && !shared->stopping) shared->work.wait(shared->mutex);
        if (shared->queue.empty()) return;
        next = shared->queue.front();
        shared->queue.pop_front();
      }
      ::close(next);
    }
  }).detach();
}

// ---- Shared areas ----

SharedArea& SharedArea::operator=(SharedArea&& o) noexcept {
  if (this != &o) {
    if (at_ != nullptr) ::munmap(at_, bytes_);
    at_ = std::exchange(o.at_, nullptr);
    bytes_ = std::exchange(o.bytes_, 0);
  }
  return *this;
}

SharedArea::~SharedArea() {
  if (at_ != nullptr) ::munmap(at_, bytes_);
}

Result<GateArea> make_gate_area(u64 session) {
  UniqueFd fd(::memfd_create("pindax-gates", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(proto::kGateAreaBytes)) != 0)
    return Status(from_errno(errno), std::string("memfd for the gates: ") + std::strerror(errno));
  void* at = ::mmap(nullptr, proto::kGateAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (at == MAP_FAILED) return Status(from_errno(errno), std::string("mapping the gates: ") + std::strerror(errno));
  GateArea gates{SharedArea(at, proto::kGateAreaBytes), std::move(fd)};
  auto* header = ::new (at) proto::GateHeader{};
  header->session.store(session, std::memory_order_relaxed);
  header->version.store(proto::kSharedVersion, std::memory_order_relaxed);
  header->magic.store(proto::kGateMagic, std::memory_order_release);
  // From here on the mapping above is the only writable one that will ever be.
  if (::fcntl(gates.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0)
    return Status(from_errno(errno), std::string("sealing the gates: ") + std::strerror(errno));
  return gates;
}

Result<SharedArea> map_slot_area(int fd) {
  PINDAX_ASSIGN(const DescriptorIdentity id, identify_descriptor(fd, nullptr));
  if (id.kind != DescriptorKind::kMemfd) return Status(Errc::kProtocol, "the slot area is not a memfd");
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) ||
      (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0)
    return Status(Errc::kProtocol, "the slot area needs the seals SHRINK and GROW and no other");
  struct stat s = {};
  if (::fstat(fd, &s) != 0 || static_cast<u64>(s.st_size) != proto::kSlotAreaBytes)
    return Status(Errc::kProtocol, "the slot area has the wrong size");
  void* at = ::mmap(nullptr, proto::kSlotAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) return Status(from_errno(errno), std::string("mapping the slots: ") + std::strerror(errno));
  SharedArea area(at, proto::kSlotAreaBytes);
  const auto* header = reinterpret_cast<const proto::SlotHeader*>(at);
  if (header->magic.load(std::memory_order_acquire) != proto::kSlotMagic ||
      header->version.load(std::memory_order_relaxed) != proto::kSharedVersion)
    return Status(Errc::kProtocol, "the slot area's header is not one of this version");
  return area;
}

}  // namespace pindax
