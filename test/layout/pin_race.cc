// SPDX-License-Identifier: BSD-3-Clause
//
// [R6] The client's fast pin against the daemon's close-and-scan, ten million rounds: never both "pin granted" and "range idle".
// A program by itself, since it is of use only with optimisation and two cores that are left alone.
//
// Usage: pin_race [ROUNDS [SECONDS]]
//
// First ROUNDS attempts to pin while the other thread closes, scans and opens without pause; each raises a flag while it believes
// itself alone. Then, for at most SECONDS, in lock step: a round has one pin and one closing, a little further apart each
// time, and both outcomes are compared when both are known: this finds a missing fence. Exit code 1: both in one round.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "layout/gate.h"
#include "layout/slot_scan.h"
#include "proto/pin_fast_path.h"

using namespace pindax;

namespace {

struct alignas(64) Counter {
  std::atomic<u64> value{0};
  void reach(u64 v) { value.store(v, std::memory_order_release); }
  void wait_for(u64 v, const std::atomic<bool>& stop) const {
    for (unsigned spins = 0; value.load(std::memory_order_acquire) < v && !stop.load(std::memory_order_relaxed); ++spins)
      if (spins > 20'000) std::this_thread::yield();
  }
};

u64 free_running(u64 rounds) {
  constexpr int kLook = 16;  // long enough for the other side's flag to leave its store buffer
  proto::Gate gate{};
  auto slots = std::make_unique<proto::Slot[]>(1);
  GateWriter writer(&gate);
  writer.open(1, false, 0);
  Counter idle, pinned;
  std::atomic<u64> violations{0}, breaks{0};
  std::atomic<bool> stop{false};
  std::thread breaker([&] {
    const int me = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      writer.close(&me, {0, kBlockSize});
      if (!read_slot(slots.get(), 0)) {
        idle.value.store(1, std::memory_order_relaxed);
        for (int k = 0; k < kLook; ++k) violations += pinned.value.load(std::memory_order_relaxed);
        idle.value.store(0, std::memory_order_relaxed);
        ++breaks;
      }
      writer.count_out(&me, 0);
      for (int k = 0; k < 200 && pinned.value.load(std::memory_order_relaxed) == 0; ++k) {
      }
    }
  });
  proto::PinFields fields;
  fields.end = kBlockSize;
  u64 pins = 0;
  for (u64 round = 0; round < rounds; ++round) {
    if (!proto::fast_pin(gate, slots[0], fields, [] {})) continue;
    ++pins;
    pinned.value.store(1, std::memory_order_relaxed);
    for (int k = 0; k < kLook; ++k) violations += idle.value.load(std::memory_order_relaxed);
    pinned.value.store(0, std::memory_order_relaxed);
    proto::fast_unpin(slots[0], [] {});
  }
  stop = true;
  breaker.join();
  std::printf("R6: %llu rounds, %llu pinned, %llu breaks, %llu both\n", static_cast<unsigned long long>(rounds),
              static_cast<unsigned long long>(pins), static_cast<unsigned long long>(breaks.load()),
              static_cast<unsigned long long>(violations.load()));
  return violations;
}

u64 in_lock_step(u64 rounds, std::chrono::seconds seconds) {
  const auto end = std::chrono::steady_clock::now() + seconds;
  proto::Gate gate{};
  auto slots = std::make_unique<proto::Slot[]>(1);
  GateWriter writer(&gate);
  writer.open(1, false, 0);
  Counter start, finished;
  std::atomic<bool> stop{false};
  bool pinned = false;  // handed over by `finished`
  std::thread client([&] {
    proto::PinFields fields;
    fields.end = kBlockSize;
    for (u64 round = 1;; ++round) {
      start.wait_for(round, stop);
      if (stop) return;
      pinned = proto::fast_pin(gate, slots[0], fields, [] {});
      finished.reach(round);
    }
  });
  const int breaker = 0;
  u64 violations = 0, pins = 0, idles = 0, round = 0;
  while (round < rounds && (round % 4096 != 0 || std::chrono::steady_clock::now() < end)) {
    start.reach(++round);
    for (u64 k = 0; k < round % 256; ++k) (void)finished.value.load(std::memory_order_acquire);
    writer.close(&breaker, {0, kBlockSize});
    const bool idle = !read_slot(slots.get(), 0);
    finished.wait_for(round, stop);
    violations += pinned && idle ? 1 : 0;
    pins += pinned ? 1 : 0;
    idles += idle ? 1 : 0;
    if (pinned) proto::fast_unpin(slots[0], [] {});
    writer.count_out(&breaker, 0);
  }
  stop = true;
  client.join();
  std::printf("R6 in lock step: %llu rounds, %llu pinned, %llu idle, %llu both\n", static_cast<unsigned long long>(round),
              static_cast<unsigned long long>(pins), static_cast<unsigned long long>(idles), static_cast<unsigned long long>(violations));
  return violations;
}

}  // namespace

int main(int argc, char** argv) {
  const u64 rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 0) : 10'000'000;
  const u64 violations = free_running(rounds) + in_lock_step(rounds, std::chrono::seconds(argc > 2 ? std::atol(argv[2]) : 30));
  return violations == 0 ? 0 : 1;
}
