// SPDX-License-Identifier: BSD-3-Clause
#include "server/outbox.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstring>

#include "catch.h"

using namespace pindax;

namespace {

struct Pair {
  Pair() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    ours = UniqueFd(ends[0]);
    theirs = UniqueFd(ends[1]);
    epoll = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = {};
    event.events = EPOLLIN;
    REQUIRE(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, ours.get(), &event) == 0);
  }
  UniqueFd ours, theirs, epoll;
};

void put(Outbox& box, u64 number, std::size_t padding = 1000) {
  std::vector<char> pad(padding);
  const struct iovec parts[] = {{&number, sizeof(number)}, {pad.data(), pad.size()}};
  box.send(parts);
}

}  // namespace

TEST_CASE("server: packets of a full socket wait in memory and leave in order") {
  Pair pair;
  Outbox box(pair.ours.get(), pair.epoll.get(), 0);
  constexpr u64 kCount = 2000;
  for (u64 i = 0; i < kCount; ++i) put(box, i);
  CHECK(box.queued_packets() > 0);
  char buffer[2048];
  for (u64 i = 0; i < kCount; ++i) {
    struct epoll_event event = {};
    if (::epoll_wait(pair.epoll.get(), &event, 1, 0) == 1 && (event.events & EPOLLOUT) != 0) box.flush();
    REQUIRE(::recv(pair.theirs.get(), buffer, sizeof(buffer), MSG_DONTWAIT) == 1008);
    u64 number = 0;
    std::memcpy(&number, buffer, sizeof(number));
    REQUIRE(number == i);
  }
  CHECK(box.queued_packets() == 0);
}

TEST_CASE("server: a client that never reads is hung up on") {
  Pair pair;
  Outbox box(pair.ours.get(), pair.epoll.get(), 0);
  for (std::size_t i = 0; i < Outbox::kMaxQueuedBytes / 60'000 + 100; ++i) put(box, i, 60'000);
  CHECK(box.queued_packets() == 0);
  char byte = 0;
  while (::recv(pair.theirs.get(), &byte, 1, MSG_DONTWAIT) > 0) {
  }
  CHECK(::recv(pair.theirs.get(), &byte, 1, MSG_DONTWAIT) == 0);
}
