// SPDX-License-Identifier: BSD-3-Clause
#include "server/outbox.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace pindax {

namespace {
constexpr std::size_t kMaxDescriptors = 4;  // in one packet
}

Outbox::Sent Outbox::transmit(std::span<const struct iovec> parts, const std::vector<UniqueFd>& descriptors) {
  struct msghdr message = {};
  message.msg_iov = const_cast<struct iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  alignas(struct cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  if (!descriptors.empty()) {
    PINDAX_ASSERT(descriptors.size() <= kMaxDescriptors);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    struct cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    int numbers[kMaxDescriptors];
    std::transform(descriptors.begin(), descriptors.end(), numbers, [](const UniqueFd& fd) { return fd.get(); });
    std::memcpy(CMSG_DATA(c), numbers, descriptors.size() * sizeof(int));
  }
  for (;;) {
    if (::sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return Sent::kYes;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? Sent::kFull : Sent::kBroken;
  }
}

u64 Outbox::send(std::span<const struct iovec> parts, std::vector<UniqueFd> descriptors) {
  MutexLock lock(mutex_);
  const u64 number = ++packets_;
  if (closed_) return number;
  if (queue_.empty()) {
    const Sent sent = transmit(parts, descriptors);
    if (sent == Sent::kBroken) give_up();
    if (sent != Sent::kFull) return number;
  }
  Packet packet;
  std::size_t bytes = 0;
  for (const auto& p : parts) bytes += p.iov_len;
  packet.bytes.resize(bytes);
  std::size_t at = 0;
  for (const auto& p : parts) {
    if (p.iov_len != 0) std::memcpy(packet.bytes.data() + at, p.iov_base, p.iov_len);
    at += p.iov_len;
  }
  packet.descriptors = std::move(descriptors);
  queued_bytes_ += bytes;
  queue_.push_back(std::move(packet));
  if (queued_bytes_ > kMaxQueuedBytes || queue_.size() > kMaxQueuedPackets) give_up();
  else watch_for_room(true);
  return number;
}

void Outbox::flush() {
  MutexLock lock(mutex_);
  while (!closed_ && !queue_.empty()) {
    const Packet& packet = queue_.front();
    const struct iovec part = {const_cast<std::byte*>(packet.bytes.data()), packet.bytes.size()};
    const Sent sent = transmit({&part, 1}, packet.descriptors);
    if (sent == Sent::kFull) return;
    if (sent == Sent::kBroken) return give_up();
    queued_bytes_ -= packet.bytes.size();
    queue_.pop_front();
  }
  if (!closed_) watch_for_room(false);
}

void Outbox::watch_for_room(bool on) {
  if (watching_ == on) return;
  watching_ = on;
  struct epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP | (on ? EPOLLOUT : 0u);
  event.data.u64 = epoll_data_;
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, socket_, &event);
}

void Outbox::give_up() {
  closed_ = true;
  queue_.clear();
  ::shutdown(socket_, SHUT_RDWR);  // the loop sees the hang-up and ends the session
}

void Outbox::close() {
  MutexLock lock(mutex_);
  closed_ = true;
  queue_.clear();
}

std::size_t Outbox::queued_packets() const {
  MutexLock lock(mutex_);
  return queue_.size();
}

}  // namespace pindax
