// SPDX-License-Identifier: BSD-3-Clause
//
// Requests under way. A caller takes an entry, sends its packet with the entry's id, and sleeps on the entry's futex word; the service
// thread finds the entry by the id of the reply and copies the reply into storage that the caller provided.
//
// The service thread takes no lock here and allocates nothing (F3): entries live in segments that only grow, reached
// through atomic pointers. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "proto/messages.h"

namespace pindax::client {

// One reply, in the caller's storage.
struct Reply {
  i64 status = 0;              // of proto::ReplyBody
  std::size_t length = 0;      // of what follows it, cut to the room
  std::array<std::byte, 512> bytes;
  // Where the contents of a success go instead, unless it is empty. Not memory of a mapping: the service thread fills it.
  std::span<std::byte> large;
  std::atomic<u32> done{0};    // futex word: 1 when the rest is filled
};

class Requests {
 public:
  Requests() = default;
  ~Requests();
  Requests(const Requests&) = delete;
  Requests& operator=(const Requests&) = delete;

  // An id for a request whose reply goes to `reply`, which must live until wait() has returned. 0: too many, or no memory for
  // one more.
  u64 begin(Reply& reply) EXCLUDES(mutex_);
  // Sleeps until the reply is there or the connection is lost (status -ENOTCONN). Gives the id back.
  void wait(u64 id, Reply& reply) EXCLUDES(mutex_);
  // Service thread only.
  void deliver(u64 id, i64 status, const std::byte* data, std::size_t length);
  void connection_lost();

 private:
  static constexpr u32 kSegmentEntries = 256;
  static constexpr u32 kSegments = 4096;
  struct Entry {
    std::atomic<Reply*> reply{nullptr};
    std::atomic<u64> id{0};
  };
  using Segment = std::array<Entry, kSegmentEntries>;
  static void finish(Reply& reply, i64 status, const std::byte* data, std::size_t length);

  Mutex mutex_{LockRank::kLeaf};
  std::vector<u32> free_ GUARDED_BY(mutex_);
  u32 entries_ GUARDED_BY(mutex_) = 0;
  u64 sequence_ GUARDED_BY(mutex_) = 1;
  std::array<std::atomic<Segment*>, kSegments> segments_{};
  std::atomic<bool> lost_{false};
};

}  // namespace pindax::client
