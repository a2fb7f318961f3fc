// SPDX-License-Identifier: BSD-3-Clause
//
// The socket: packets out from any thread, replies back through Requests.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "client/client.h"
#include "client/error.h"

using namespace pindax;
using namespace pindax::client;

int pindax_client::usable() const {
  if (born != fork_generation.load(std::memory_order_relaxed))
    return fail(ENOTCONN, "this client was attached by the parent process: attach again after fork");
  if (lost.load(std::memory_order_relaxed)) return fail(ENOTCONN, "the daemon is gone: detach, and attach again when it is back");
  return 0;
}

int pindax_client::send(proto::Type type, u64 request, const void* body, std::size_t body_length, std::string_view rest,
                        const int* descriptors, unsigned descriptor_count) {
  proto::Header header{type, static_cast<u32>(sizeof(header) + body_length + rest.size()), request};
  iovec iov[3] = {{&header, sizeof(header)}, {const_cast<void*>(body), body_length}, {const_cast<char*>(rest.data()), rest.size()}};
  msghdr message{};
  message.msg_iov = iov;
  message.msg_iovlen = 3;
  constexpr unsigned kMaxDescriptors = 4;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  if (descriptor_count != 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
    std::memcpy(CMSG_DATA(c), descriptors, descriptor_count * sizeof(int));
  }
  ssize_t sent;
  do sent = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0) return 0;
  return fail_errno("sending to the daemon");
}

int pindax_client::call(proto::Type type, const void* body, std::size_t body_length, Reply& reply, std::string_view rest,
                        const int* descriptors, unsigned descriptor_count) {
  if (const int error = usable(); error != 0) return error;
  const u64 id = requests.begin(reply);
  if (id == 0) return fail(ENOMEM, "no memory for another request");
  if (const int error = send(type, id, body, body_length, rest, descriptors, descriptor_count); error != 0) {
    requests.deliver(id, error, nullptr, 0);
    requests.wait(id, reply);
    return error;
  }
  requests.wait(id, reply);
  if (reply.status >= 0) return 0;
  const auto err = static_cast<int>(-reply.status);
  if (reply.length != 0) return fail(err, {reinterpret_cast<const char*>(reply.bytes.data()), reply.length});
  return fail(err, err == ENOTCONN ? "the daemon is gone" : std::strerror(err));
}

void pindax_client::ring_doorbell() const {
  const u64 one = 1;
  ssize_t n;
  do n = ::write(doorbell.get(), &one, sizeof(one));
  while (n < 0 && errno == EINTR);
}
