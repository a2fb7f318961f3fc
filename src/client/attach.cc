// SPDX-License-Identifier: BSD-3-Clause
//
// The beginning and the end of a session.
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/steps.h"
#include "client/client.h"
#include "client/error.h"
#include "client/leases.h"
#include "client/mapping.h"
#include "client/slots.h"
#include "proto/mount_ioctl.h"
#include "proto/packet.h"

using namespace pindax;
using namespace pindax::client;

namespace {

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &old_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t old_;
};

int connect_to(pindax_client& c, const std::string& path) {
  const int err = proto::connect_socket(path, c.socket);
  if (err == 0) return 0;
  if (err == ENOENT || err == ECONNREFUSED) return fail(ENOTCONN, "no daemon listens at " + path);
  errno = err;
  return fail_errno(path);
}

// Connects, and gets the token that proves access to a mount (zeros without one).
int find_daemon(pindax_client& c, const char* where, proto::TokenReply& token) {
  struct stat st{};
  if (::stat(where, &st) != 0) return fail_errno(where);
  if (S_ISSOCK(st.st_mode)) return connect_to(c, where);
  const UniqueFd fd(::open(where, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(where);
  proto::MountInfo info{};
  if (::ioctl(fd.get(), proto::kIocMountInfo, &info) != 0) return fail(ENOTCONN, std::string(where) + " is not on a Pindax mount");
  if (::ioctl(fd.get(), proto::kIocToken, &token) != 0) return fail_errno("asking the mount for a token");
  info.socket_path[sizeof(info.socket_path) - 1] = '\0';
  return connect_to(c, info.socket_path);
}

// The first exchange, before there is a service thread.
int receive_welcome(pindax_client& c, std::string& pool_path) {
  std::vector<char> packet(proto::kMaxMessageBytes);
  UniqueFd passed[proto::kMaxDescriptors];
  const long n = proto::receive_packet(c.socket.get(), packet.data(), packet.size(), passed);
  if (n <= 0) return fail(ENOTCONN, "the daemon closed the connection");
  constexpr std::size_t kFront = sizeof(proto::Header) + sizeof(proto::ReplyBody);
  const auto length = static_cast<std::size_t>(n);
  if (length < kFront) return fail(EPROTO, "the daemon's welcome is too short");
  proto::ReplyBody reply;
  std::memcpy(&reply, packet.data() + sizeof(proto::Header), sizeof(reply));
  if (reply.status < 0) return fail(static_cast<int>(-reply.status), {packet.data() + kFront, length - kFront});
  if (length < kFront + sizeof(c.welcome)) return fail(EPROTO, "the daemon's welcome is too short");
  std::memcpy(&c.welcome, packet.data() + kFront, sizeof(c.welcome));
  if (c.welcome.version != proto::kProtocolVersion)
    return fail(EPROTONOSUPPORT, "the library and the daemon speak different protocol versions: install both from the same release");
  const std::size_t texts = length - kFront - sizeof(c.welcome);
  if (c.welcome.pool_path_bytes > texts || c.welcome.mount_path_bytes > texts - c.welcome.pool_path_bytes)
    return fail(EPROTO, "the daemon's welcome contradicts itself");
  const char* text = packet.data() + kFront + sizeof(c.welcome);
  pool_path.assign(text, c.welcome.pool_path_bytes);
  c.mount_path.assign(text + c.welcome.pool_path_bytes, c.welcome.mount_path_bytes);
  if (!passed[0]) return fail(EPROTO, "the daemon sent no gates");
  c.gate_memory = std::move(passed[0]);
  if ((c.welcome.flags & proto::kWelcomeShareUserfaultfd) != 0) c.passed_device = std::move(passed[1]);
  return 0;
}

int make_shared_memory(pindax_client& c) {
  void* gates = ::mmap(nullptr, proto::kGateAreaBytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, c.gate_memory.get(), 0);
  if (gates == MAP_FAILED) return fail_errno("mapping the gates");
  c.gates = static_cast<std::byte*>(gates);
  (void)::madvise(gates, proto::kGateAreaBytes, MADV_DONTFORK);
  c.slot_memory.reset(::memfd_create("pindax-slots", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!c.slot_memory || ::ftruncate(c.slot_memory.get(), static_cast<off_t>(proto::kSlotAreaBytes)) != 0)
    return fail_errno("making the slots");
  void* slots = ::mmap(nullptr, proto::kSlotAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c.slot_memory.get(), 0);
  if (slots == MAP_FAILED) return fail_errno("mapping the slots");
  c.slots = static_cast<std::byte*>(slots);
  (void)::madvise(slots, proto::kSlotAreaBytes, MADV_DONTFORK);
  if (::fcntl(c.slot_memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) return fail_errno("sealing the slots");
  c.slot_pool = std::make_unique<SlotPool>(c.slots);
  c.doorbell.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  c.stop.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!c.doorbell || !c.stop) return fail_errno("eventfd");
  return 0;
}

// Opens the pool by ourselves: the kernel's open() is the judge of who may. Says why not.
void open_pool(pindax_client& c, const std::string& daemon_path) {
  const std::string path = c.options.pool_path != nullptr ? c.options.pool_path : daemon_path;
  if (path.empty()) {
    c.why_indirect = "the daemon names no pool";
    return;
  }
  c.pool.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  c.pool_writable = static_cast<bool>(c.pool);
  if (!c.pool) c.pool.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!c.pool) {
    c.why_indirect = "this process may not open the pool " + path + ": " + std::strerror(errno);
    return;
  }
  struct stat st{};
  if (::fstat(c.pool.get(), &st) != 0 || st.st_dev != c.welcome.pool_device || st.st_ino != c.welcome.pool_inode) {
    c.pool.reset();
    c.why_indirect = path + " is not the daemon's pool as this process sees it (another mount namespace?)";
  }
}

// On DAX a store is durable once its cache line is flushed only if what the host's file system knows about the block is durable
// before the store: MAP_SYNC. Elsewhere the kernel refuses the flag, and persist calls msync.
int sharing_flags(int pool, bool writable) {
  constexpr int kSynchronous = MAP_SHARED_VALIDATE | MAP_SYNC;
  const int prot = PROT_READ | (writable ? PROT_WRITE : 0);
  void* p = ::mmap(nullptr, kBlockSize, prot, kSynchronous, pool, 0);
  if (p == MAP_FAILED) return MAP_SHARED;
  ::munmap(p, kBlockSize);
  return kSynchronous;
}

// Chooses how a touch of memory that is not translated is noticed: by userfaultfd, or else by SIGSEGV. False: not at all.
bool watch_faults(pindax_client& c) {
  const char* wish = std::getenv("PINDAX_FAULTS");
  const bool forced = (c.options.flags & PINDAX_ATTACH_SIGNALS) != 0 || (wish != nullptr && std::strcmp(wish, "signals") == 0);
  const int err = forced ? 0 : c.uffd.open(c.passed_device.get());
  if (err == 0 && !forced) return true;
  const std::string why = forced ? "the program asked for signals" : std::string("no userfaultfd: ") + std::strerror(err) + " (mount with -o share_userfaultfd)";
  if ((c.options.flags & PINDAX_ATTACH_NO_SIGNALS) == 0 && c.signals.start(c) == 0) {
    c.why_signals = why + ": faults come as SIGSEGV, and system calls on memory that was not touched yet fail with EFAULT";
    return true;
  }
  c.why_indirect = why;
  return false;
}

int attach_pool(pindax_client& c, const std::string& pool_path) {
  if ((c.options.flags & PINDAX_ATTACH_INDIRECT) != 0) {
    c.why_indirect = "the program asked for the mount";
  } else if (watch_faults(c)) {
    open_pool(c, pool_path);
  }
  int descriptors[4];
  unsigned count = 0;
  if (c.pool) descriptors[count++] = c.pool.get();
  descriptors[count++] = c.slot_memory.get();
  descriptors[count++] = c.doorbell.get();
  if (c.uffd) descriptors[count++] = c.uffd.fd();
  // A file that is open for reading only cannot be watched (userfaultfd wants VM_MAYWRITE).
  c.revocable = c.uffd && c.uffd.can_watch_shared() && c.pool_writable && (c.welcome.flags & proto::kWelcomeWatchPool) != 0 &&
                (c.options.flags & PINDAX_ATTACH_COOPERATIVE) == 0;
  const proto::AttachPoolBody body{c.pool ? 1u : 0u, c.pool_writable ? 1u : 0u, c.uffd ? 1u : 0u, c.revocable ? 1u : 0u};
  Reply reply;
  if (const int error = c.call(proto::Type::kAttachPool, &body, sizeof(body), reply, {}, descriptors, count); error != 0) return error;
  proto::AttachPoolReply answer{};
  if (reply.length < sizeof(answer)) return fail(EPROTO, "short reply to attach");
  std::memcpy(&answer, reply.bytes.data(), sizeof(answer));
  c.direct = answer.direct == 1 && c.pool;
  if (c.direct) c.map_flags = sharing_flags(c.pool.get(), c.pool_writable);
  if (!c.direct && c.why_indirect.empty())
    c.why_indirect.assign(reinterpret_cast<const char*>(reply.bytes.data()) + sizeof(answer), reply.length - sizeof(answer));
  return 0;
}

// Builds for tests only, and not in programs that run with more rights than their user.
void arm_steps() {
#if defined(PINDAX_STEPS)
  static const bool once = [] {
    if (::secure_getenv("PINDAX_STEPS") == nullptr) return true;
    const std::string wrong = steps::arm_from_environment();
    if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
    return true;
  }();
  (void)once;
#endif
}

int attach(pindax_client& c, const char* where) {
  arm_steps();
  c.where = where;
  proto::TokenReply token{};
  if (const int error = find_daemon(c, where, token); error != 0) return error;
  proto::HelloBody hello{};
  hello.version = proto::kProtocolVersion;
  std::memcpy(hello.token, token.token, sizeof(hello.token));
  if (const int error = c.send(proto::Type::kHello, 1, &hello, sizeof(hello)); error != 0) return error;
  std::string pool_path;
  if (const int error = receive_welcome(c, pool_path); error != 0) return error;
  PINDAX_STEP("client.welcomed");
  if (const int error = make_shared_memory(c); error != 0) return error;
  c.leases = std::make_unique<Leases>(c);
  // The application's signal handlers run on its own threads: one that touches a mapping would deadlock ours.
  const SignalsBlocked blocked;
  c.service = std::thread([&c] { c.run_service(); });
  if (const int error = attach_pool(c, pool_path); error != 0) return error;
  PINDAX_STEP("client.attached");
  if (c.direct && c.uffd) c.faults = std::thread([&c] { c.run_faults(); });
  c.leases->start();
  return 0;
}

}  // namespace

pindax_client::pindax_client() {
  install_fork_handler();
  fork_list_add(*this);
}

pindax_client::~pindax_client() {
  fork_list_remove(*this);
  if (signals.on()) signals.stop(*this);
  const bool ours = born == fork_generation.load();
  ending.store(true);
  if (socket && ours) ::shutdown(socket.get(), SHUT_RDWR);
  if (stop && ours) {
    const u64 one = 1;
    (void)!::write(stop.get(), &one, sizeof(one));
  }
  for (std::thread* t : {&service, &faults}) {
    if (!t->joinable()) continue;
    if (ours) t->join();
    else t->detach();  // it stayed in the parent
  }
  if (ours) leases.reset();
  else (void)leases.release();  // its thread stayed in the parent
  slot_pool.reset();
  if (gates != nullptr && ours) ::munmap(gates, proto::kGateAreaBytes);
  if (slots != nullptr && ours) ::munmap(slots, proto::kSlotAreaBytes);
}

proto::Gate& pindax_client::gate(u32 mapping) const {
  return *reinterpret_cast<proto::Gate*>(gates + proto::kGateOffset + u64{mapping} * sizeof(proto::Gate));
}

extern "C" {

PINDAX_API int pindax_attach(const char* where, const struct pindax_attach_options* opt, struct pindax_client** out) try {
  if (where == nullptr || out == nullptr) return fail(EINVAL, "attach needs a mount point or socket, and a place for the client");
  *out = nullptr;
  auto c = std::make_unique<pindax_client>();
  if (opt != nullptr) std::memcpy(&c->options, opt, std::min(opt->size, sizeof(c->options)));
  if (const int error = attach(*c, where); error != 0) return error;
  c->options.pool_path = nullptr;  // the caller's memory
  *out = c.release();
  return 0;
} catch (const std::bad_alloc&) {
  return fail(ENOMEM, "out of memory in attach");
} catch (const std::exception& e) {
  return fail(EAGAIN, e.what());  // std::thread: no more threads
}

PINDAX_API int pindax_detach(struct pindax_client* c) {
  if (c == nullptr) return 0;
  for (std::size_t id = 0;; ++id) {  // a loop without a list: this is a call that cannot fail
    pindax_mapping* m;
    {
      MutexLock lock(c->mappings_mutex);
      if (id >= c->by_id.size()) break;
      m = c->by_id[id];
    }
    (void)pindax_unmap(m);
  }
  {
    MutexLock lock(c->mappings_mutex);
    for (pindax_mapping* m : c->unmapped) delete m;
    c->unmapped.clear();
  }
  delete c;
  return 0;
}

PINDAX_API int pindax_is_direct(struct pindax_client* c, const char** why) {
  if (why != nullptr) *why = c->direct ? c->why_signals.c_str() : c->why_indirect.c_str();
  return c->direct ? 1 : 0;
}

}  // extern "C"
