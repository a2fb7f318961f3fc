// SPDX-License-Identifier: BSD-3-Clause
//
// Leases: pins whose holder is asked to end them. The service thread only notes the question; a thread of its own calls the
// application, which may then do whatever it likes, this library included.
#pragma once

#include <pindax/pindax.h>

#include <array>
#include <atomic>
#include <map>
#include <thread>

#include "base/types.h"

namespace pindax::client {

class Leases {
 public:
  explicit Leases(pindax_client& client) : client_(client) {}
  ~Leases() { stop(); }

  void start();  // if the application gave a callback
  void stop();
  // Service thread: allocates nothing, never blocks. A question that finds the ring full is asked again by the daemon.
  void recalled(u32 slot, u32 deadline_ms);

 private:
  void run();
  void ask(u32 slot, u32 deadline_ms);

  struct Question {
    std::atomic<u32> slot{0}, deadline_ms{0};
  };
  static constexpr u32 kRing = 256;
  pindax_client& client_;
  std::array<Question, kRing> ring_;
  std::atomic<u32> head_{0}, tail_{0};
  std::atomic<u32> wake_{0};  // futex word: grows with each question and at the end
  std::atomic<bool> ending_{false};
  std::map<u32, u64> asked_;  // its thread's: the publication of each slot for which the application was called
  std::thread thread_;
};

}  // namespace pindax::client
