// SPDX-License-Identifier: BSD-3-Clause
//
// Breaks against pins: who waits for what, how a wait ends, and what goes on meanwhile.
#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

TEST_CASE("layout: [R1] a punch waits for a pin and finishes at once when it ends") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  REQUIRE(slot != proto::kMaxSlots);
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  CHECK(punch->applied == 0);
  c->unpin(slot);
  CHECK(c->rings == 1);
  CHECK(punch->result() == Errc::kOk);
  CHECK(punch->applied == 1);
  CHECK(c->try_pin(1, pages(3, 1)) != proto::kMaxSlots);
}

TEST_CASE("layout: [R3] a pin that appears while the truncater waits is never overlooked") {
  Fixture f;
  auto a = f.client(100), b = f.client(200);
  f.map(*a, 1, pages(0, 16));
  Mapping* m = f.map(*b, 1, pages(0, 16));
  const u32 p1 = a->try_pin(1, pages(1, 1));
  auto punch = f.punch(pages(0, 4));
  REQUIRE(f.waiting(1));
  // The gate is closed: nothing is published (P1), the slow path queues behind the break (A3).
  CHECK(b->try_pin(1, pages(2, 1)) == proto::kMaxSlots);
  auto p2 = f.pin(m, b->ask(1, pages(2, 1)));
  f.settle();
  CHECK(p2->ended == 0);
  std::atomic<bool> pinned_at_apply{false};
  a->unpin(p1);
  CHECK(punch->result() == Errc::kOk);
  CHECK(p2->wait());
  CHECK(p2->code == 0);
  CHECK_FALSE(pinned_at_apply);
  // A mapping that is made while a break sleeps is born with its gate closed.
  auto again = f.punch(pages(2, 1));
  REQUIRE(f.waiting(1));
  f.map(*b, 2, pages(0, 16));
  CHECK(b->try_pin(2, pages(2, 1)) == proto::kMaxSlots);
  CHECK(b->try_pin(2, pages(3, 1)) != proto::kMaxSlots);
  CHECK(again->applied == 0);
  again->handle->interrupt();
  CHECK(again->result() == Errc::kInterrupted);
}

TEST_CASE("layout: [R4] a pin holder's fault on another page of the range does not wait for the sleeping truncate (A5)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(0, 1));
  auto truncate = f.punch({0, kMaxOffset});
  REQUIRE(f.waiting(1));
  CHECK(f.fault(m, pages(1, 1)) == Errc::kOk);  // would hang here if the lock were held
  CHECK(f.fault(m, pages(2, 1), 9, true) == Errc::kOk);
  bool read = false;
  f.layout->with_shared(*f.inode, pages(0, 16), [&](SharedHold) { read = true; });
  CHECK(read);
  CHECK(truncate->applied == 0);
  c->auto_ack = true;
  c->unpin(slot);
  CHECK(truncate->result() == Errc::kOk);
}

TEST_CASE("layout: [R5] a truncate ends although four clients pin and unpin its range without pause") {
  Fixture f;
  std::atomic<bool> stop{false};
  std::atomic<u64> pins{0};
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<FakeClient>> clients;
  for (u32 i = 0; i < 4; ++i) {
    clients.push_back(f.client(100 + i));
    Mapping* m = f.map(*clients.back(), 1, pages(0, 16));
    threads.emplace_back([&f, &stop, &pins, m, c = clients.back()] {
      // Two slots in turn, so that at every moment one of the client's pins overlaps the next (hand over hand).
      const u32 slots[2] = {c->new_slot(), c->new_slot()};
      bool held[2] = {false, false};
      for (u32 turn = 0; !stop; turn ^= 1) {
        auto fields = c->fields(1, pages(0, 4), turn + 1);
        fields.episode = ++c->episode;
        proto::Slot& slot = c->slot(slots[turn]);
        bool ok = proto::fast_pin(*c->gate(1), slot, fields, [&] { c->ring(); });
        if (!ok) {
          proto::publish_slot(slot, fields, proto::SlotState::kAsked);
          PinRequest r;
          r.slot = slots[turn];
          r.range = {fields.begin, fields.end};
          r.age = fields.age;
          r.thread = fields.thread;
          r.episode = fields.episode;
          auto p = f.pin(m, r);
          // The sibling's pin ends while this one waits: it is another thread's and does not depend on us.
          if (held[turn ^ 1]) {
            proto::fast_unpin(c->slot(slots[turn ^ 1]), [&] { c->ring(); });
            held[turn ^ 1] = false;
          }
          ok = p->wait() && p->code == 0;
        }
        if (ok) ++pins;
        if (held[turn ^ 1]) proto::fast_unpin(c->slot(slots[turn ^ 1]), [&] { c->ring(); });
        held[turn ^ 1] = false;
        held[turn] = ok;
      }
      for (u32 i2 = 0; i2 < 2; ++i2)
        if (held[i2]) proto::fast_unpin(c->slot(slots[i2]), [&] { c->ring(); });
    });
  }
  CHECK(eventually([&] { return pins > 1000; }));
  for (int i = 0; i < 5; ++i) CHECK(f.punch(pages(0, 16))->result() == Errc::kOk);
  stop = true;
  for (auto& t : threads) t.join();
}

TEST_CASE("layout: [R7] a pin outlives unmap and keeps the range busy until it ends") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  f.clients().remove_mapping(m);
  CHECK(c->try_pin(1, pages(3, 1)) == proto::kMaxSlots);
  CHECK_FALSE(f.clients().id_reusable(*c, 1));
  CHECK(f.layout->in_use(*f.inode));
  auto truncate = f.punch({0, kMaxOffset});
  REQUIRE(f.waiting(1));
  c->unpin(slot);
  CHECK(truncate->result() == Errc::kOk);
  CHECK(f.clients().id_reusable(*c, 1));
  CHECK_FALSE(f.layout->in_use(*f.inode));
}

TEST_CASE("layout: [R8] [R9] an interrupt ends a waiting break promptly, with nothing done and the gate as it was") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  const u64 generation = c->gate(1)->generation;
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  punch->handle->interrupt();
  CHECK(punch->result() == Errc::kInterrupted);
  CHECK(punch->applied == 0);
  punch->handle->interrupt();  // late: nothing happens
  f.settle();
  CHECK(punch->ended == 1);
  CHECK(c->gate(1)->generation == generation);  // G2: no recall was sent
  CHECK(c->try_pin(1, pages(4, 1), 1, generation) != proto::kMaxSlots);
  c->unpin(slot);
}

TEST_CASE("layout: [R8] an interrupt that meets a break in the lock's queue removes it") {
  Fixture f;
  SharedHold held;
  f.layout->with_shared(*f.inode, pages(0, 4), [&](SharedHold h) { held = std::move(h); });
  auto punch = f.punch(pages(0, 4));
  punch->handle->interrupt();
  CHECK(punch->result() == Errc::kInterrupted);
  bool passed = false;
  f.layout->with_shared(*f.inode, pages(0, 4), [&](SharedHold) { passed = true; });
  CHECK(passed);
}

TEST_CASE("layout: [R9] a deadline ends the wait with ETXTBSY and nothing done, after one more scan (U3)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto r = f.request(pages(0, 8));
  r.policy = BusyPolicy::kRefuse;
  r.deadline = 20ms;
  auto punch = f.change(r);
  CHECK(punch->result() == Errc::kTextBusy);
  CHECK(punch->applied == 0);
  CHECK(c->try_pin(1, pages(4, 1)) != proto::kMaxSlots);
  // The pin ends without a bell (the client is stopped between the two): the deadline's scan sees it.
  auto second = f.change(r);
  REQUIRE(f.waiting(1));
  c->slot(1).state = 0;
  c->slot(slot).state = 0;
  CHECK(second->result() == Errc::kOk);
}

TEST_CASE("layout: [R10] a client's death ends its pins at once and frees its translations only with its memory (D1)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  c->try_pin(1, pages(3, 1));
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  f.clients().client_gone(*c);
  REQUIRE(f.waiting(1, "recalling"));
  CHECK(punch->applied == 0);
  f.clients().client_memory_gone(*c);
  CHECK(punch->result() == Errc::kOk);
  CHECK_FALSE(f.layout->in_use(*f.inode));
}

TEST_CASE("layout: [R10] a death that only polling shows wakes the break (D1, U3)") {
  LayoutOptions o;
  o.rescan_period = 5ms;
  o.recall_deadline = 10ms;
  Fixture f(o);
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  const bool unmapped = GENERATE(false, true);
  if (unmapped) f.clients().remove_mapping(m);
  auto punch = f.change(f.request(pages(0, 8)), [](const ChangeGrant& g) { g.quarantined(pages(3, 1), 33, 1); });
  REQUIRE(f.waiting(1));
  c->dead = true;
  CHECK(punch->result() == Errc::kOk);
  // It hangs in its exit, with a device at work perhaps: what it had pinned is not reused.
  CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
  f.settle();
  CHECK(f.quarantine.released().empty());
  f.clients().client_memory_gone(*c);
  CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
}

TEST_CASE("layout: [R13] pins next to the range do not block, the last page does") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  c->try_pin(1, pages(8, 1));
  CHECK(f.punch(pages(4, 4))->done());
  const u32 last = c->try_pin(1, {8 * kPage - 1, 8 * kPage});
  REQUIRE(last != proto::kMaxSlots);
  auto punch = f.punch(pages(4, 4));
  REQUIRE(f.waiting(1));
  c->unpin(last);
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("layout: [R15] [R16] a translation is looked up and queued under one hold, so no change comes in between (F1)") {
  Fixture f;
  auto c = f.client(100);
  c->auto_ack = true;
  Mapping* m = f.map(*c, 1, pages(0, 16));
  std::atomic<u64> layout_version{1};  // what a lookup would find
  StopAt grant("layout.grant");
  std::thread fault([&] { f.fault(m, pages(3, 1), layout_version); });
  REQUIRE(grant.arrived());
  auto punch = f.change(f.request(pages(3, 1)), [&](const ChangeGrant&) { layout_version = 2; });
  CHECK_FALSE(punch->done());
  grant.release();
  fault.join();
  CHECK(punch->result() == Errc::kOk);
  // The grant went out first and was recalled: nothing is translated by the time of the change.
  const auto sent = c->sent();
  REQUIRE(sent.size() == 2);
  CHECK_FALSE(sent[0].recall);
  CHECK(sent[1].recall);
  CHECK(f.fault(m, pages(3, 1), layout_version) == Errc::kOk);
  CHECK(c->sent().back().piece.pool_offset == 2 * kPage);
}

TEST_CASE("layout: [R36] a thousand waiting changes park no thread") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 2000));
  const u32 slot = c->try_pin(1, pages(0, 2000));
  std::vector<std::shared_ptr<Outcome>> all;
  for (u64 i = 0; i < 1000; ++i) all.push_back(f.punch(i % 2 == 0 ? pages(0, 2000) : pages(i, 1)));
  REQUIRE(f.waiting(1000));
  // Both executor threads are free, and so is everything else.
  f.settle();
  CHECK(f.fault(m, pages(5, 1)) == Errc::kOk);
  c->auto_ack = true;
  bool read = false;
  f.layout->with_shared(*f.inode, {0, kMaxOffset}, [&](SharedHold) { read = true; });
  CHECK(read);
  all[17]->handle->interrupt();
  CHECK(all[17]->result() == Errc::kInterrupted);
  c->unpin(slot);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (i != 17) REQUIRE(all[i]->result() == Errc::kOk);
  CHECK(f.clients().list_changes().empty());
  CHECK(c->try_pin(1, pages(0, 2000)) != proto::kMaxSlots);
}

TEST_CASE("layout: [R37] who truncates while holding the pin himself gets EDEADLK, another thread waits") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1), 101);
  auto r = f.request(pages(0, 8), "truncate");
  r.requester = {100, 101, 0, "self"};
  auto own = f.change(r);
  CHECK(own->result() == Errc::kDeadlock);
  CHECK(own->applied == 0);
  r.requester.tid = 102;
  auto sibling = f.change(r);
  REQUIRE(f.waiting(1));
  c->unpin(slot);
  CHECK(sibling->result() == Errc::kOk);
}

TEST_CASE("layout: [R28] two threads that each pin what the other truncates: the last comer gets EDEADLK (A6)") {
  Fixture f;
  InodeLayoutPtr second = f.layout->attach(InodeNo(8));
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  f.clients().add_mapping(*second, *c, 2, pages(0, 16), true);
  const u32 a = c->try_pin(1, pages(0, 1), 101), b = c->try_pin(2, pages(0, 1), 102);
  auto r = f.request(pages(0, 1));
  r.requester = {100, 102, 0, ""};
  auto first = f.change(r);  // thread 102 waits for 101's pin
  REQUIRE(f.waiting(1));
  std::atomic<int> code{-1};
  r.requester.tid = 101;
  f.layout->change(*second, r, [](const ChangeGrant&) { return Status(); },
                   [&](Status s) { code = static_cast<int>(s.code()); });
  CHECK(eventually([&] { return code == static_cast<int>(Errc::kDeadlock); }));
  c->unpin(a);
  CHECK(first->result() == Errc::kOk);
  c->unpin(b);
  CHECK_FALSE(f.layout->in_use(*f.inode) == false);
  f.clients().client_memory_gone(*c);
}

TEST_CASE("layout: [R38] everything outside the range of a blocked change goes on") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 64));
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto blocked = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  CHECK(f.punch(pages(4, 8))->done());
  CHECK(f.fault(m, pages(5, 1)) == Errc::kOk);
  CHECK(c->try_pin(1, pages(4, 60)) != proto::kMaxSlots);  // G6: through the fast path
  CHECK(blocked->applied == 0);
  c->unpin(slot);
  CHECK(blocked->result() == Errc::kOk);
}
