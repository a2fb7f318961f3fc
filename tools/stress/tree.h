// SPDX-License-Identifier: BSD-3-Clause
//
// What the processes of pindax-stress share, and what each kind of them does. The memory is made before they are forked.
//
//   gardener  owns a folder: random namespace and data operations there, contents known; and collides with the others in a
//             folder that all share, where every file proves its own contents
//   client    maps a file of its own, pins it and stores into it until it is killed; each word that it stores names file, place and
//             count, and the count is published here after the store: what is published must be found
//   breaker   truncates and punches the clients' second files, which waits for their pins and ends with their deaths
#pragma once

#include <array>
#include <atomic>
#include <string>

#include "base/types.h"

namespace pindax::stress {

inline constexpr u32 kProcessesMax = 32;
inline constexpr u64 kClientFileBytes = 256 << 10;
inline constexpr u64 kWords = kClientFileBytes / sizeof(u64);

enum class Phase : u32 { kRun, kCrashing, kVerify, kEnd };

struct ClientFile {
  std::array<std::atomic<u32>, kWords> stored{};  // the count that was surely stored; only the first file of a client
};

struct Shared {
  std::atomic<Phase> phase{Phase::kRun};
  std::atomic<u32> life{0};      // of the daemon: grows with each mount
  std::atomic<u32> verified{0};  // gardeners that have held everything against what they know
  std::atomic<u64> operations{0}, pins{0}, changes{0}, verified_bytes{0}, client_lives{0}, lost_updates{0};
  std::atomic<u32> failures{0};
  std::array<char, 4096> failure{};
  std::array<ClientFile, kProcessesMax> client_files{};

  // The first failure is told.
  void fail(const std::string& text);
};

struct Place {
  Shared* shared = nullptr;
  std::string folder;
  u32 number = 0;
  u64 seed = 0;
};

// Each returns when the phase says so. A failure is in `shared`.
void run_gardener(const Place& place);
void run_client(const Place& place);   // for ever: it is killed
void run_breaker(const Place& place, u32 clients);

std::string client_file(const Place& place, u32 client, bool broken);  // second files are truncated and punched by the breaker
constexpr u64 client_word(u32 client, bool broken, u64 index, u32 count) {
  // Upper half: file and place. Lower half: count.
  return ((u64{client} * 2 + (broken ? 1 : 0) + 1) << 48) | ((index & 0xffff) << 32) | count;
}
// What a client's files hold, against what they published. Called while no client lives.
void verify_client(const Place& place, u32 client);

}  // namespace pindax::stress
