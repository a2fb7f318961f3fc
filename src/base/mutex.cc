// SPDX-License-Identifier: BSD-3-Clause
#include "base/mutex.h"

#include <array>
#include <cstdio>
#include <cstdlib>

namespace pindax::lock_check {
namespace {

// Deep enough for a rename of directories (four inodes) plus one lock of every inner rank.
constexpr unsigned kMaxHeld = 32;
struct Held {
  LockRank rank;
  const void* lock;
};
thread_local std::array<Held, kMaxHeld> held;
thread_local unsigned held_count = 0;

[[noreturn]] void die(const char* what, LockRank rank) {
  std::fprintf(stderr, "pindax: lock order: %s, rank %d; held:", what, static_cast<int>(rank));
  for (unsigned i = 0; i < held_count; ++i) std::fprintf(stderr, " %d", static_cast<int>(held[i].rank));
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace

bool is_ordered_by_key(LockRank rank) { return rank == LockRank::kInode || rank == LockRank::kAllocGroup; }

void before_acquire(LockRank rank, const void* lock) {
  for (unsigned i = 0; i < held_count; ++i) {
    if (held[i].lock == lock) die("taken twice by one thread", rank);
    if (held[i].rank > rank || (held[i].rank == rank && !is_ordered_by_key(rank))) die("inverted", rank);
  }
}

void acquired(LockRank rank, const void* lock) {
  if (held_count == kMaxHeld) die("too many locks held", rank);
  held[held_count++] = {rank, lock};
}

void released(LockRank rank, const void* lock) {
  for (unsigned i = held_count; i-- > 0;) {
    if (held[i].lock != lock) continue;
    for (unsigned k = i + 1; k < held_count; ++k) held[k - 1] = held[k];
    --held_count;
    return;
  }
  die("released but not held", rank);
}

void assert_none_held() {
  if (held_count != 0) die("held across a wait", held[0].rank);
}

}  // namespace pindax::lock_check
