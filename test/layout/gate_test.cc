// SPDX-License-Identifier: BSD-3-Clause
//
// Gates and the fast path: G1-G6, P1, P2, U1, and the race R6.
#include "layout/gate.h"

#include <cstdio>
#include <set>

#include "fixture.h"
#include "layout/slot_scan.h"

using namespace pindax;
using namespace pindax::layout_test;

namespace {

struct Ids {
  int a = 0, b = 0;
};

}  // namespace

TEST_CASE("gate: closings are counted, so one break cannot open another's gate (G1)") {
  proto::Gate gate{};
  GateWriter writer(&gate);
  Ids ids;
  writer.open(5, false, 0);
  CHECK(proto::open_gate_word(gate, 0, 100) != proto::kNoGateWord);
  writer.close(&ids.a, {0, 100});
  writer.close(&ids.b, {50, 60});
  CHECK(writer.count_out(&ids.a, 0));
  CHECK_FALSE(writer.count_out(&ids.a, 0));
  CHECK(proto::open_gate_word(gate, 55, 56) == proto::kNoGateWord);
  CHECK(proto::open_gate_word(gate, 0, 50) != proto::kNoGateWord);
  CHECK(proto::open_gate_word(gate, 60, 100) != proto::kNoGateWord);
  CHECK(writer.count_out(&ids.b, 7));
  CHECK(gate.generation == 7);
  CHECK((gate.word & (proto::kGateClosed | proto::kGateChanging)) == 0);
}

TEST_CASE("gate: what only copies bytes out passes a gate that is slow for sharing, not one that is closed or whose file has lost bytes (P4)") {
  proto::Gate gate{};
  GateWriter writer(&gate);
  Ids ids;
  writer.open(5, false, 0);
  const auto passes = [&](u32 passable) { return proto::open_gate_word(gate, 0, 100, passable) != proto::kNoGateWord; };
  writer.set_slow(proto::kGateShared);
  CHECK_FALSE(passes(0));
  CHECK(passes(proto::kGateShared));
  writer.set_slow(proto::kGateShared | proto::kGateLost);
  CHECK_FALSE(passes(proto::kGateShared));
  writer.set_slow(proto::kGateShared);
  writer.close(&ids.a, {50, 60});
  CHECK_FALSE(passes(proto::kGateShared));
}

TEST_CASE("gate: generations are never repeated, not by a daemon that starts again either (G2)") {
  GenerationSource first;
  std::set<u64> seen;
  for (int i = 0; i < 1000; ++i) CHECK(seen.insert(first.next()).second);
  std::this_thread::sleep_for(1ms);
  GenerationSource after_restart;
  for (int i = 0; i < 1000; ++i) CHECK(seen.insert(after_restart.next()).second);
  CHECK(*seen.rbegin() < u64{1} << 63);
  CHECK(*seen.begin() > 0);
}

TEST_CASE("gate: a word never comes back, whatever closes and opens, also when a mapping's id is used again") {
  proto::Gate gate{};
  std::set<u64> words;
  Ids ids;
  for (int life = 0; life < 3; ++life) {
    GateWriter writer(&gate);
    writer.open(1, false, 0);
    CHECK(words.insert(gate.word).second);
    for (int i = 0; i < 10; ++i) {
      writer.close(&ids.a, {0, 10});
      CHECK(words.insert(gate.word).second);
      writer.count_out(&ids.a, 0);
      CHECK(words.insert(gate.word).second);
    }
    writer.retire();
    CHECK(words.insert(gate.word).second);
    CHECK(proto::open_gate_word(gate, 0, 1) == proto::kNoGateWord);
  }
}

TEST_CASE("gate: a list that is too long closes everything, and merged neighbours do not count (G6)") {
  proto::Gate gate{};
  GateWriter writer(&gate);
  writer.open(1, false, 0);
  int closers[proto::kClosedRanges + 1];
  for (u32 i = 0; i < proto::kClosedRanges; ++i) writer.close(&closers[i], {i * 10, i * 10 + 5});
  CHECK(proto::open_gate_word(gate, 5, 10) != proto::kNoGateWord);
  CHECK(proto::open_gate_word(gate, 5, 11) == proto::kNoGateWord);
  writer.close(&closers[proto::kClosedRanges], {5, 10});
  CHECK(proto::open_gate_word(gate, 15, 20) != proto::kNoGateWord);  // 0-15 is one range now
  writer.count_out(&closers[proto::kClosedRanges], 0);
  writer.close(&closers[proto::kClosedRanges], {1000, 1001});
  CHECK(proto::open_gate_word(gate, 5, 10) == proto::kNoGateWord);
  CHECK(proto::open_gate_word(gate, 5000, 5001) == proto::kNoGateWord);
  writer.count_out(&closers[0], 0);
  CHECK(proto::open_gate_word(gate, 5000, 5001) != proto::kNoGateWord);
}

TEST_CASE("pin: a closed gate publishes nothing (P1), a gate that closes in between undoes with unpin's code (P2)") {
  proto::Gate gate{};
  proto::Slot slot{};
  GateWriter writer(&gate);
  Ids ids;
  writer.open(3, false, 0);
  int rings = 0;
  auto ring = [&] { ++rings; };
  proto::PinFields fields;
  fields.end = 4096;
  CHECK(proto::fast_pin(gate, slot, fields, ring, 3));
  CHECK(slot.state == proto::kSlotSequenceUnit + 2);
  slot.state |= proto::kSlotAwaited;
  proto::fast_unpin(slot, ring);
  CHECK(rings == 1);
  CHECK(slot.state == proto::kSlotSequenceUnit);
  CHECK_FALSE(proto::fast_pin(gate, slot, fields, ring, 4));  // G5: another generation
  writer.close(&ids.a, {0, 1});
  CHECK_FALSE(proto::fast_pin(gate, slot, fields, ring));
  CHECK(slot.state == proto::kSlotSequenceUnit);  // P1: no transient
  fields.begin = 1;
  CHECK(proto::fast_pin(gate, slot, fields, ring));
}

// The gate's protocol as one thread of a client and one break live it, without the rest of the daemon: what a
// violation would be is exact here. The pin's owner and the breaker each hold a flag while they believe "mine".
TEST_CASE("pin: [R6] a million fast pins race the closing of the gate and no range is pinned and idle at once") {
  constexpr u64 kRounds = 1'000'000;
  constexpr int kLook = 16;  // long enough for the other side's flag to leave its store buffer
  proto::Gate gate{};
  auto slots = std::make_unique<proto::Slot[]>(1);
  GateWriter writer(&gate);
  writer.open(1, false, 0);
  std::atomic<u64> idle{0}, pinned{0}, violations{0}, pins{0}, refused{0}, breaks{0};
  std::atomic<bool> stop{false};
  std::thread breaker([&] {
    Ids ids;
    while (!stop) {
      writer.close(&ids.a, {0, 4096});
      if (!read_slot(slots.get(), 0)) {
        idle.store(1, std::memory_order_relaxed);
        for (int k = 0; k < kLook; ++k)
          if (pinned.load(std::memory_order_relaxed) != 0) ++violations;
        idle.store(0, std::memory_order_relaxed);
        ++breaks;
      }
      writer.count_out(&ids.a, 0);
      for (int k = 0; k < 200 && pinned.load(std::memory_order_relaxed) == 0; ++k) {
      }
    }
  });
  proto::PinFields fields;
  fields.end = 4096;
  u64 round = 0;
  for (; pins < kRounds || breaks < 1000; ++round) {
    if (!proto::fast_pin(gate, slots[0], fields, [] {})) {
      ++refused;
      continue;
    }
    pinned.store(1, std::memory_order_relaxed);
    for (int k = 0; k < kLook; ++k)
      if (idle.load(std::memory_order_relaxed) != 0) ++violations;
    pinned.store(0, std::memory_order_relaxed);
    proto::fast_unpin(slots[0], [] {});
    ++pins;
  }
  stop = true;
  breaker.join();
  CHECK(violations == 0);
  CHECK(pins > 0);
  CHECK(breaks > 0);
  std::printf("R6: %llu rounds, %llu pins, %llu refused, %llu breaks\n", static_cast<unsigned long long>(round),
              static_cast<unsigned long long>(pins.load()), static_cast<unsigned long long>(refused.load()),
              static_cast<unsigned long long>(breaks.load()));
}

// In lock step: every round has one pin and one closing at the same moment, and both outcomes are compared afterwards, so
// that nothing depends on seeing the overlap while it lasts. This is what finds a missing fence.
TEST_CASE("pin: [R6] a pin that stands and a scan that finds nothing never come out of one round") {
  proto::Gate gate{};
  auto slots = std::make_unique<proto::Slot[]>(1);
  GateWriter writer(&gate);
  writer.open(1, false, 0);
  std::atomic<u64> ready{0}, start{0}, finished{0};
  std::atomic<bool> stop{false};
  std::atomic<u64> head_start{0};
  bool pinned = false;  // handed over by `finished`
  auto wait_for = [&](const std::atomic<u64>& counter, u64 value) {
    for (int spins = 0; counter.load(std::memory_order_acquire) < value && !stop; ++spins)
      if (spins > 2000) std::this_thread::yield();
  };
  std::thread client([&] {
    proto::PinFields fields;
    fields.end = 4096;
    for (u64 round = 1; !stop; ++round) {
      ready.store(round, std::memory_order_release);
      wait_for(start, round);
      if (stop) return;
      pinned = proto::fast_pin(gate, slots[0], fields, [] {});
      finished.store(round, std::memory_order_release);
    }
  });
  Ids ids;
  u64 violations = 0, pins = 0, idles = 0, round = 0;
  const auto end = std::chrono::steady_clock::now() + 3s;
  while (round < 1'000'000 && (round % 256 != 0 || std::chrono::steady_clock::now() < end)) {
    wait_for(ready, ++round);  // both run
    start.store(round, std::memory_order_release);
    for (u64 k = 0; k < round % 256; ++k) (void)head_start.load(std::memory_order_acquire);  // meets every moment
    writer.close(&ids.a, {0, 4096});
    const bool idle = !read_slot(slots.get(), 0);
    wait_for(finished, round);
    violations += pinned && idle ? 1 : 0;
    pins += pinned ? 1 : 0;
    idles += idle ? 1 : 0;
    if (pinned) proto::fast_unpin(slots[0], [] {});
    writer.count_out(&ids.a, 0);
  }
  stop = true;
  client.join();
  CHECK(violations == 0);
  std::printf("R6 in lock step: %llu rounds, %llu pinned, %llu idle\n", static_cast<unsigned long long>(round),
              static_cast<unsigned long long>(pins), static_cast<unsigned long long>(idles));
}

// The same through the whole daemon, with several clients and layout changes that move "blocks".
TEST_CASE("pin: [R6] pins through the whole daemon never see their block move") {
  Fixture f;
  constexpr u32 kClients = 2;
  std::atomic<u64> version{0};  // of the layout: changes only while the range is idle
  std::atomic<u64> moved{0}, pins{0};
  std::atomic<bool> stop{false};
  std::vector<std::shared_ptr<FakeClient>> clients;
  std::vector<std::thread> threads;
  for (u32 i = 0; i < kClients; ++i) {
    auto c = f.client(100 + i);
    clients.push_back(c);
    f.map(*c, 1, pages(0, 16));
    threads.emplace_back([&, c] {
      const u32 index = c->new_slot();
      while (!stop) {
        auto fields = c->fields(1, pages(0, 4), 1);
        if (!proto::fast_pin(*c->gate(1), c->slot(index), fields, [&] { c->ring(); })) {
          std::this_thread::yield();
          continue;
        }
        const u64 before = version.load(std::memory_order_relaxed);
        for (int k = 0; k < 20; ++k)
          if (version.load(std::memory_order_relaxed) != before) ++moved;
        ++pins;
        proto::fast_unpin(c->slot(index), [&] { c->ring(); });
      }
    });
  }
  for (int i = 0; i < 300 || pins < 1000; ++i) {
    auto o = f.change(f.request(pages(2, 4)), [&](const ChangeGrant&) { version.fetch_add(1); });
    REQUIRE(o->result() == Errc::kOk);
  }
  stop = true;
  for (auto& t : threads) t.join();
  CHECK(moved == 0);
  CHECK(pins > 0);
}
