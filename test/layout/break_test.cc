// SPDX-License-Identifier: BSD-3-Clause
//
// Breaks against pins: the races R1-R5, R7, R9, R13-R16, R26, R34, R36, R37 of the protocol.
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
