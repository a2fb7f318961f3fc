// SPDX-License-Identifier: BSD-3-Clause
//
// The outgoing FIFO of one client (F1, F2).
//
// Invariants
//  1. Packets leave in the order of the calls to send(), whatever threads they come from.
//  2. Nothing here blocks: what the socket does not take at once waits in memory and leaves when epoll says so.
//  3. The memory is bounded: a client that lets more than kMaxQueuedBytes or kMaxQueuedPackets pile up does not read its socket
//     and has its session ended. Grants and recalls are bounded by what it maps, replies by what it asks for.
// Thread-safe. The mutex (rank kClientQueue) is held over a sendmsg that does not wait.
#pragma once

#include <sys/uio.h>

#include <deque>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace pindax {

class Outbox {
 public:
  static constexpr std::size_t kMaxQueuedBytes = std::size_t{64} << 20;
  static constexpr std::size_t kMaxQueuedPackets = std::size_t{1} << 18;

  // The socket belongs to the session, which calls close() before it closes it. `epoll_fd` watches the socket with
  // `epoll_data`; this class changes the events of that entry.
  Outbox(int socket, int epoll_fd, u64 epoll_data) : socket_(socket), epoll_fd_(epoll_fd), epoll_data_(epoll_data) {}

  // One packet, gathered from the parts. The descriptors travel with it. Returns its number in the FIFO, from 1.
  u64 send(std::span<const struct iovec> parts, std::vector<UniqueFd> descriptors = {}) EXCLUDES(mutex_);
  // The socket can take more.
  void flush() EXCLUDES(mutex_);
  // Nothing is sent from here on.
  void close() EXCLUDES(mutex_);
  std::size_t queued_packets() const EXCLUDES(mutex_);

 private:
  struct Packet {
    std::vector<std::byte> bytes;
    std::vector<UniqueFd> descriptors;
  };
  enum class Sent { kYes, kFull, kBroken };
  Sent transmit(std::span<const struct iovec> parts, const std::vector<UniqueFd>& descriptors) REQUIRES(mutex_);
  void watch_for_room(bool on) REQUIRES(mutex_);
  void give_up() REQUIRES(mutex_);

  mutable Mutex mutex_{LockRank::kClientQueue};
  const int socket_;
  const int epoll_fd_;
  const u64 epoll_data_;
  std::deque<Packet> queue_ GUARDED_BY(mutex_);
  std::size_t queued_bytes_ GUARDED_BY(mutex_) = 0;
  u64 packets_ GUARDED_BY(mutex_) = 0;
  bool watching_ GUARDED_BY(mutex_) = false;
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace pindax
