// SPDX-License-Identifier: BSD-3-Clause
#include "server/session.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/proc.h"

namespace pindax {

namespace {

#if !defined(SO_PEERPIDFD)
constexpr int SO_PEERPIDFD = 77;
#endif

// True: the process has no memory left although its pid still exists (a zombie, or an exit that hangs in the kernel).
bool memory_is_empty(u32 pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/statm");
  u64 pages = 1;
  return static_cast<bool>(in >> pages) && pages == 0;
}

// An ioctl that changes nothing but says ESRCH exactly when the address space is gone.
bool address_space_gone(int userfaultfd) {
  struct uffdio_writeprotect wp = {};
  wp.range.start = (u64{1} << 47) - 2 * kBlockSize;  // the last page a process may have
  wp.range.len = kBlockSize;
  return ::ioctl(userfaultfd, UFFDIO_WRITEPROTECT, &wp) != 0 && errno == ESRCH;
}

// For the log: a process chooses its own name.
std::string printable(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return text;
}

constexpr int kMessagesPerTurn = 64;
constexpr std::size_t kMaxReceivedDescriptors = 4;

}  // namespace

Result<Peer> identify_peer(int socket) {
  Peer peer;
  struct ucred cred = {};
  socklen_t length = sizeof(cred);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &cred, &length) != 0)
    return Status(from_errno(errno), std::string("SO_PEERCRED: ") + std::strerror(errno));
  peer.pid = static_cast<u32>(cred.pid);
  peer.uid = cred.uid;
  peer.gid = cred.gid;
  peer.groups.resize(64);
  for (int tries = 0; tries < 2; ++tries) {
    length = static_cast<socklen_t>(peer.groups.size() * sizeof(u32));
    const int r = ::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &length);
    peer.groups.resize(length / sizeof(u32));
    if (r == 0) break;
    if (errno != ERANGE) peer.groups.clear();
  }
  if (peer.pid == 0) return peer;
  int pidfd = -1;
  length = sizeof(pidfd);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0)
    pidfd = static_cast<int>(::syscall(SYS_pidfd_open, cred.pid, 0));
  peer.pidfd = UniqueFd(pidfd);
  if (!peer.pidfd) return Status(Errc::kNotConnected, "the process ended before it was served");
  ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  peer.command = command_of(peer.pid);
  return peer;
}

Session::Session(ServerContext& context, u64 id, UniqueFd socket, Peer peer)
    : context_(context),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      identity_{.session = id, .pid = peer_.pid, .uid = peer_.uid, .gid = peer_.gid, .command = peer_.command},
      outbox_(socket_.get(), context.epoll_fd, watch_tag(id, WatchKind::kSocket)) {}

Session::~Session() = default;

// ---- Receiving ----

Status Session::receive() {
  thread_local std::vector<std::byte> buffer(proto::kMaxMessageBytes);
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    struct iovec part = {buffer.data(), buffer.size()};
    alignas(struct cmsghdr) char control[CMSG_SPACE(kMaxReceivedDescriptors * sizeof(int))];
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    // Only the message that attaches brings descriptors. Everywhere else the kernel drops them unseen.
    if (phase_ == Phase::kWelcomed && !control_only_) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
    }
    const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return {};
      return Status(Errc::kNotConnected, std::strerror(errno));
    }
    Packet packet;
    for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t k = 0; k < count; ++k) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + k * sizeof(int), sizeof(int));
        packet.descriptors.emplace_back(fd);
      }
    }
    packet.lost_control = (message.msg_flags & MSG_CTRUNC) != 0;
    Status status;
    if (n == 0) {
      status = Status(Errc::kNotConnected, "hang-up");
    } else if ((message.msg_flags & MSG_TRUNC) != 0 || static_cast<std::size_t>(n) < sizeof(proto::Header)) {
      status = Status(Errc::kProtocol, "a packet of the wrong size");
    } else {
      std::memcpy(&packet.header, buffer.data(), sizeof(packet.header));
      packet.body = std::span(buffer).subspan(sizeof(proto::Header), static_cast<std::size_t>(n) - sizeof(proto::Header));
      status = packet.header.size == static_cast<u32>(n) ? dispatch(packet)
                                                         : Status(Errc::kProtocol, "a packet that lies about its size");
    }
    for (auto& fd : packet.descriptors) context_.undertaker.bury(std::move(fd));  // what nobody took
    if (!status.ok()) return status;
  }
  return {};
}

u64 Session::send(proto::Type type, u64 request, std::span<const std::byte> body) {
  proto::Header header{.type = type, .size = static_cast<u32>(sizeof(proto::Header) + body.size()), .request = request};
  const struct iovec parts[] = {{&header, sizeof(header)}, {const_cast<std::byte*>(body.data()), body.size()}};
  return outbox_.send(parts);
}

void Session::reply(u64 request, const Status& status, std::span<const std::byte> body, std::span<const std::byte> tail,
                    std::vector<UniqueFd> descriptors) {
  proto::ReplyBody result{.status = -to_errno(status.code())};
  if (!status.ok()) {
    body = std::as_bytes(std::span(status.message().data(), std::min<std::size_t>(status.message().size(), 1024)));
    tail = {};
  }
  proto::Header header{.type = proto::Type::kReply,
                       .size = static_cast<u32>(sizeof(proto::Header) + sizeof(result) + body.size() + tail.size()),
                       .request = request};
  const struct iovec parts[] = {{&header, sizeof(header)},
                                {&result, sizeof(result)},
                                {const_cast<std::byte*>(body.data()), body.size()},
                                {const_cast<std::byte*>(tail.data()), tail.size()}};
  outbox_.send(parts, std::move(descriptors));
}

// ---- ClientPort ----

proto::GateHeader* Session::gate_header() { return reinterpret_cast<proto::GateHeader*>(gates_.area.data()); }

proto::Gate* Session::gate(u32 mapping) {
  if (!gates_.area || mapping >= proto::kMaxMappings) return nullptr;
  return reinterpret_cast<proto::Gate*>(gates_.area.data() + proto::kGateOffset) + mapping;
}

proto::SlotHeader* Session::slot_header() { return reinterpret_cast<proto::SlotHeader*>(slots_.data()); }

proto::Slot* Session::slots() {
  return slots_ ? reinterpret_cast<proto::Slot*>(slots_.data() + proto::kSlotOffset) : nullptr;
}

u64 Session::send_grant(u32 mapping, const GrantPiece& piece, u64 generation) {
  proto::GrantBody body{};
  body.mapping = mapping;
  switch (piece.kind) {
    case GrantPiece::Kind::kBlocks: body.kind = proto::GrantKind::kBlocks; break;
    case GrantPiece::Kind::kHole: body.kind = proto::GrantKind::kHole; break;
    case GrantPiece::Kind::kBeyondEnd: body.kind = proto::GrantKind::kBeyondEnd; break;
    case GrantPiece::Kind::kBad:
    case GrantPiece::Kind::kError: body.kind = proto::GrantKind::kError; break;
  }
  body.offset = piece.range.begin;
  body.length = piece.range.length();
  body.pool_offset = piece.pool_offset;
  body.writable = piece.writable ? 1 : 0;
  body.error = static_cast<u32>(piece.error);
  body.generation = generation;
  return send(proto::Type::kGrant, 0, std::as_bytes(std::span(&body, 1)));
}

u64 Session::processed() {
  const proto::SlotHeader* header = slot_header();
  return header != nullptr ? header->processed.load(std::memory_order_acquire) : 0;
}

void Session::send_recall(u64 recall, u32 mapping, ByteRange range, bool downgrade) {
  const proto::RecallBody body{
      .recall = recall, .mapping = mapping, .downgrade = downgrade ? 1u : 0u, .begin = range.begin, .end = range.end};
  send(proto::Type::kRecall, 0, std::as_bytes(std::span(&body, 1)));
}

void Session::send_pin_recall(u32 slot, u64 pin, std::chrono::milliseconds deadline) {
  const proto::PinRecallBody body{.slot = slot < proto::kMaxSlots ? slot : proto::kNoSlot,
                                  .deadline_ms = static_cast<u32>(std::clamp<i64>(deadline.count(), 0, ~u32{0})),
                                  .pin = pin};
  send(proto::Type::kPinRecall, 0, std::as_bytes(std::span(&body, 1)));
}

// By pidfd: the number cannot have changed hands. After a hang-up the process may have become something else by exec, or detached
// in good order: it is nobody's client any more.
Status Session::evict(const std::string& why, std::optional<u32> as) {
  Status status;
  if (gone_.load(std::memory_order_acquire)) return Status(Errc::kNotConnected, "the client has hung up");
  if (!peer_.pidfd) {
    status = Status(Errc::kNotSupported, "its process is in a foreign pid namespace");
  } else if (as && *as != 0 && *as != context_.options.owner_uid && *as != peer_.uid) {
    status = Status(Errc::kPermission, "it is another user's");
  } else if (::syscall(SYS_pidfd_send_signal, peer_.pidfd.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH) {
    status = Status(from_errno(errno), std::string("the daemon may not signal it: ") + std::strerror(errno));
  }
  if (status.ok())
    spdlog::warn("client {} (pid {}, uid {}, {}) is killed: {}", id(), peer_.pid, peer_.uid, printable(peer_.command), why);
  else if (!evict_refused_.exchange(true))
    spdlog::warn("client {} (pid {}, uid {}, {}) cannot be killed ({}), quarantine applies: {}", id(), peer_.pid, peer_.uid,
                 printable(peer_.command), status.message(), why);
  return status;
}

void Session::drain_doorbell() {
  if (!doorbell_) return;
  u64 count = 0;
  struct iovec part = {&count, sizeof(count)};
  // The client shares the description and may have made it blocking: ask for this call only.
  (void)!::preadv2(doorbell_.get(), &part, 1, -1, RWF_NOWAIT);
}

bool Session::poll_dead() {
  if (gone_.load(std::memory_order_acquire) || process_ended_.load(std::memory_order_acquire)) return true;
  if (userfaultfd_ && address_space_gone(userfaultfd_.get())) return true;
  if (!peer_.pidfd) return false;
  struct pollfd p = {peer_.pidfd.get(), POLLIN, 0};
  if (::poll(&p, 1, 0) == 1) return true;
  return memory_is_empty(peer_.pid) && ::poll(&p, 1, 0) == 0;  // the pid is still this process
}

void Session::on_doorbell() {
  drain_doorbell();
  if (in_layout_) context_.clients().doorbell(*this);
}

// ---- The end ----

void Session::hang_up() {
  if (phase_ == Phase::kGone) return;
  phase_ = Phase::kGone;
  gone_.store(true, std::memory_order_release);
  outbox_.close();
  ::shutdown(socket_.get(), SHUT_RDWR);
  if (doorbell_) ::epoll_ctl(context_.epoll_fd, EPOLL_CTL_DEL, doorbell_.get(), nullptr);
  std::vector<std::shared_ptr<Change>> waiting;
  {
    MutexLock lock(mutex_);
    for (auto& [request, pending] : pending_) {
      pending.cancelled = true;
      if (pending.change) waiting.push_back(pending.change);
    }
  }
  for (auto& change : waiting) change->interrupt();
  files_.clear();
  if (in_layout_) context_.clients().client_gone(*this);
}

bool Session::idle() {
  MutexLock lock(mutex_);
  return work_ == 0 && pending_.empty();
}

bool Session::try_bury() {
  if (buried_) return true;
  sweep();
  if (!idle()) return false;
  if (in_layout_) {
    // A process that unmapped everything and detached may live on; every other one must have lost its memory.
    const bool mapped = std::any_of(mappings_.begin(), mappings_.end(), [](const auto& m) { return !m.second->indirect; });
    if (mapped) {
      if (!peer_.pidfd) return false;
      struct pollfd p = {peer_.pidfd.get(), POLLIN, 0};
      if (::poll(&p, 1, 0) == 1) process_ended();
      if (!process_ended_.load(std::memory_order_acquire)) return false;
      if (userfaultfd_ && !address_space_gone(userfaultfd_.get())) return false;
    }
    if (const i64 w = witness_.load(); w >= 0) {
      auto held = context_.options.pool->witness_held(static_cast<u32>(w));
      if (!held.ok() || *held) return false;
    }
    context_.clients().client_memory_gone(*this);
  }
  buried_ = true;
  if (const i64 w = witness_.exchange(-1); w >= 0) context_.witnesses.release(static_cast<u32>(w));
  if (peer_.pidfd) ::epoll_ctl(context_.epoll_fd, EPOLL_CTL_DEL, peer_.pidfd.get(), nullptr);
  mappings_.clear();
  retired_.clear();
  return true;
}

void Session::sweep() {
  std::vector<EntryPtr> unmapped;
  {
    MutexLock lock(mutex_);
    unmapped.swap(unmapped_);
  }
  for (const auto& entry : unmapped) {
    mappings_.erase(entry->id);
    if (in_layout_ && !context_.clients().id_reusable(*this, entry->id)) retired_.emplace(entry->id, entry->inode);
  }
  if (in_layout_ && phase_ != Phase::kGone)
    std::erase_if(retired_, [this](const auto& r) { return context_.clients().id_reusable(*this, r.first); });
}

Session::Summary Session::summary() const {
  Summary s;
  s.direct = direct_.load();
  s.faults_by_signals = faults_by_signals_.load();
  s.attached = attached_.load();
  s.age_ms = static_cast<u64>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - since_).count());
  s.witness = witness_.load();
  s.queued_packets = outbox_.queued_packets();
  return s;
}

// ---- Requests that wait, continuations under way ----

bool Session::begin_pending(u64 request) {
  {
    MutexLock lock(mutex_);
    if (pending_.size() < kMaxPendingRequests && pending_.try_emplace(request).second) return true;
  }
  reply(request, Status(Errc::kTryAgain, "too many requests of this client wait already"));
  return false;
}

void Session::set_pending_change(u64 request, std::shared_ptr<Change> change) {
  bool interrupt = false;
  {
    MutexLock lock(mutex_);
    auto it = pending_.find(request);
    if (it == pending_.end()) return;  // done before we came back
    it->second.change = change;
    interrupt = it->second.cancelled;
  }
  if (interrupt && change) change->interrupt();
}

void Session::end_pending(u64 request) {
  std::shared_ptr<Change> dropped;
  MutexLock lock(mutex_);
  auto it = pending_.find(request);
  if (it == pending_.end()) return;
  dropped = std::move(it->second.change);
  pending_.erase(it);
}

void Session::end_work() {
  MutexLock lock(mutex_);
  PINDAX_ASSERT(work_ > 0);
  --work_;
}

}  // namespace pindax
