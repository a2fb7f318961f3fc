// SPDX-License-Identifier: BSD-3-Clause
//
// What a break sees of pins: when it looks, where, and what slots may do meanwhile.
#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

TEST_CASE("layout: [R2] after a wake-up the whole range is scanned again") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 first = c->try_pin(1, pages(1, 1)), second = c->try_pin(1, pages(2, 1));
  auto punch = f.punch(pages(0, 4));
  REQUIRE(f.waiting(1));
  c->unpin(first);
  CHECK(eventually([&] { return f.clients().list_changes().at(0).scans >= 2; }));
  REQUIRE(f.waiting(1));
  CHECK(punch->applied == 0);
  CHECK(f.clients().list_changes().at(0).busy_offset == 2 * kPage);
  c->unpin(second);
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("layout: [R14] a range to the end of everything scans everything, an empty one nothing") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(1000, 16));
  const u32 slot = c->try_pin(1, pages(1015, 1));
  auto truncate = f.punch({0, kMaxOffset});
  REQUIRE(f.waiting(1));
  auto r = f.request({});
  r.lock_range = pages(0, 1);
  r.break_range = {};
  truncate->handle->interrupt();
  CHECK(truncate->result() == Errc::kInterrupted);
  CHECK(f.change(r)->done());
  // One byte of a block is the block: the gate says what the scan says (R26).
  auto tail = f.punch({1015 * kPage + 100, kMaxOffset});
  REQUIRE(f.waiting(1));
  CHECK(c->try_pin(1, {1015 * kPage, 1015 * kPage + 1}) == proto::kMaxSlots);
  c->unpin(slot);
  CHECK(tail->result() == Errc::kOk);
}

TEST_CASE("layout: [R26] the holder faults again, then unpins: scan and wake use one predicate") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  c->auto_ack = true;
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  // G4: a grant made while the gate is closed does not make pins hold.
  CHECK(c->try_pin(1, pages(3, 1), 1, c->sent().back().generation) == proto::kMaxSlots);
  c->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
  CHECK(c->recalls() == 1);
  CHECK(c->gate(1)->generation != c->sent().front().generation);  // G2
}

TEST_CASE("layout: [R34] a slot that changes under the scan is read again, one reused under the mark is scanned again (U2)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  SECTION("between state and fields") {
    OnceAt reread("layout.slot_read", [&] {
      c->unpin(slot);
      proto::publish_slot(c->slot(slot), c->fields(1, pages(9, 1), 1), proto::SlotState::kActive);
    });
    CHECK(f.punch(pages(9, 1))->done() == false);
    CHECK(reread.happened());
    REQUIRE(f.waiting(1));
    c->unpin(slot);
    CHECK(f.waiting(0));
  }
  SECTION("between scan and mark") {
    OnceAt mark("break.mark", [&] {
      c->unpin(slot);
      proto::publish_slot(c->slot(slot), c->fields(1, pages(9, 1), 1), proto::SlotState::kActive);
    });
    CHECK(f.punch(pages(3, 1))->result() == Errc::kOk);
    CHECK(mark.happened());
    CHECK((c->slot(slot).state & proto::kSlotAwaited) == 0);  // the new pin is nobody's business
    CHECK(c->rings == 0);
  }
}

TEST_CASE("layout: [R33] a slot that never holds still costs a bounded scan and counts as busy") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(9, 1));
  steps::arm("layout.slot_read", [&] { c->slot(slot).state += proto::kSlotSequenceUnit; });
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  steps::disarm("layout.slot_read");
  CHECK(punch->result() == Errc::kOk);  // looked at again soon, without a bell
}

TEST_CASE("layout: [R33] a client's lies about slots harm nobody else") {
  Fixture f;
  auto liar = f.client(100), other = f.client(200);
  f.map(*liar, 1, pages(0, 4));
  f.map(*other, 1, pages(0, 16));
  liar->header().high_water = FakeClient::kSlots;
  auto lie = liar->fields(1, {0, kMaxOffset}, 1);
  proto::publish_slot(liar->slot(0), lie, proto::SlotState::kActive);
  lie.mapping = 77;
  proto::publish_slot(liar->slot(1), lie, proto::SlotState::kActive);
  lie.mapping = 1;
  lie.begin = 9;
  lie.end = 3;
  proto::publish_slot(liar->slot(2), lie, proto::SlotState::kActive);
  liar->slot(3).state = 0x55;  // no such state
  CHECK(f.punch(pages(4, 4))->done());  // clipped to what it mapped
  auto own = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  own->handle->interrupt();
  CHECK(own->result() == Errc::kInterrupted);
}

TEST_CASE("layout: a pin that comes just before the gate closes is seen, one that comes just after fails (G3)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  u32 before = proto::kMaxSlots, after = 0;
  OnceAt closing("break.ticket", [&] { before = c->try_pin(1, pages(3, 1)); });
  OnceAt closed("break.closed", [&] { after = c->try_pin(1, pages(4, 1)); });
  auto punch = f.punch(pages(0, 8));
  REQUIRE(before != proto::kMaxSlots);
  CHECK(after == proto::kMaxSlots);
  REQUIRE(f.waiting(1));
  CHECK(punch->applied == 0);
  c->unpin(before);
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("layout: a lost bell cannot happen: an unpin between scan and sleep is kept") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  const char* where = GENERATE("break.registered", "break.mark", "break.scanned", "break.sleeping");
  OnceAt unpin(where, [&] { c->unpin(slot); });
  CHECK(f.punch(pages(3, 1))->result() == Errc::kOk);
  CHECK(unpin.happened());
}
