// SPDX-License-Identifier: BSD-3-Clause
//
// Pins by message and who passes a waiting break: P3, A1-A4, R3-R5, R35, R37.
#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

namespace {

constexpr int code(Errc e) { return static_cast<int>(e); }

}  // namespace

TEST_CASE("slow pin: the slot is active before the answer, and a scan that comes then finds it (P3)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  auto request = c->ask(1, pages(3, 1));
  CHECK(f.punch(pages(3, 1))->done());  // asked: skipped by scans
  auto p = f.pin(m, request);
  CHECK(p->ended == 1);
  CHECK((c->slot(request.slot).state & proto::kSlotStateMask) == static_cast<u64>(proto::SlotState::kActive));
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  c->unpin(request.slot);
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("slow pin: a client without shared memory pins by message, and death or unpin ends it") {
  Fixture f;
  auto c = f.client(100, false);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  PinRequest r;
  r.range = pages(3, 1);
  r.thread = 5;
  auto p = f.pin(m, r);
  REQUIRE(p->code == 0);
  CHECK(f.clients().list_pins().size() == 1);
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  SECTION("unpin") {
    CHECK(f.clients().unpin(*c, p->id).ok());
    CHECK(f.clients().unpin(*c, p->id).code() == Errc::kInvalid);
  }
  SECTION("death") { f.clients().client_gone(*c); }
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("slow pin: a new episode queues behind a waiting break and is served when it ends (A3, R5)") {
  Fixture f;
  const bool shared = GENERATE(true, false);
  auto holder = f.client(100);
  auto c = f.client(200, shared);
  f.map(*holder, 1, pages(0, 16));
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u32 slot = holder->try_pin(1, pages(3, 1));
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  auto request = [&](u32 thread) {
    if (shared) return c->ask(1, pages(4, 1), thread);
    PinRequest r;
    r.range = pages(4, 1);
    r.thread = thread;
    return r;
  };
  auto tried = request(1);
  tried.try_only = true;
  CHECK(f.pin(m, tried)->code == code(Errc::kTryAgain));
  auto queued = f.pin(m, request(1));
  auto interrupted = f.pin(m, request(2));
  f.settle();
  CHECK(queued->ended == 0);
  interrupted->handle->interrupt();
  CHECK(interrupted->wait());
  CHECK(interrupted->code == code(Errc::kInterrupted));
  holder->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
  CHECK(queued->wait());
  CHECK(queued->code == 0);
}

TEST_CASE("listing: a pin that queues behind a break is shown with the break") {
  Fixture f;
  auto a = f.client(100), b = f.client(200);
  f.map(*a, 1, pages(0, 16));
  Mapping* m = f.map(*b, 1, pages(0, 16));
  const u32 slot = a->try_pin(1, pages(1, 1));
  auto punch = f.punch(pages(0, 4));
  REQUIRE(f.waiting(1));
  auto pin = f.pin(m, b->ask(1, pages(2, 1), 77));
  REQUIRE(f.waiting(1, "queued behind a change"));
  const auto rows = f.clients().list_changes();
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].operation == "pin");
  CHECK(rows[1].requester.pid == 200);
  CHECK(rows[1].requester.tid == 77);
  CHECK(rows[1].behind == std::vector<u64>{rows[0].id});
  a->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
  CHECK(pin->wait());
}

TEST_CASE("slow pin: an episode older than the break passes it (A3a), also by a sibling (A3c), and again once it passed (A3b)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u64 old_age = c->age();
  const u32 first = c->try_pin(1, pages(3, 1), 101);
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  CHECK(c->age() > old_age);  // A1: shown before the gate closed
  auto own = c->ask(1, pages(4, 1), 101, old_age);
  CHECK(f.pin(m, own)->code == 0);
  auto sibling = c->ask(1, pages(5, 1), 102);
  CHECK(f.pin(m, sibling)->code == 0);
  // The elder lets go; the sibling is in mid-episode and passes by (b). A third thread finds nobody old.
  c->unpin(first);
  c->unpin(own.slot);
  auto sibling_again = c->ask(1, pages(6, 1), 102);
  CHECK(f.pin(m, sibling_again)->code == 0);
  auto third = f.pin(m, c->ask(1, pages(7, 1), 103));
  f.settle();
  CHECK(third->ended == 0);
  CHECK(punch->applied == 0);
  c->unpin(sibling.slot);
  c->unpin(sibling_again.slot);
  CHECK(punch->result() == Errc::kOk);
  CHECK(third->wait());
}

TEST_CASE("slow pin: an endless episode gets EDEADLK after a bounded number of passes (A4)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u64 age = c->age();
  u32 held = c->try_pin(1, pages(0, 1), 101);
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  int passes = 0;
  for (;; ++passes) {
    REQUIRE(passes < 200);
    auto next = c->ask(1, pages(static_cast<u64>(passes + 1) % 8, 1), 101, age);
    auto p = f.pin(m, next);
    REQUIRE(p->wait());
    if (p->code == code(Errc::kDeadlock)) break;
    REQUIRE(p->code == 0);
    c->unpin(held);
    held = next.slot;
  }
  CHECK(passes == 64);
  CHECK(punch->applied == 0);
  c->unpin(held);
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("slow pin: a wait that would close a cycle is EDEADLK at once (A6)") {
  Fixture f;
  auto c = f.client(100), d = f.client(200), e = f.client(300);
  f.map(*c, 1, pages(0, 16));
  f.map(*d, 1, pages(0, 16));
  Mapping* me = f.map(*e, 1, pages(0, 16));
  // 201 holds a pin and truncates elsewhere, where 101 holds one: 201 waits for 101.
  const u32 p101 = c->try_pin(1, pages(0, 1), 101), p201 = d->try_pin(1, pages(8, 1), 201);
  auto r = f.request(pages(0, 1));
  r.requester = {200, 201, 0, ""};
  auto by_201 = f.change(r);
  REQUIRE(f.waiting(1));
  // 301 asks for a pin behind that break: no cycle, it queues.
  auto behind = f.pin(me, e->ask(1, pages(0, 1), 301));
  // 101 truncates what 201 holds: 101 -> 201 -> 101.
  r = f.request(pages(8, 1));
  r.requester = {100, 101, 0, ""};
  CHECK(f.change(r)->result() == Errc::kDeadlock);
  CHECK(behind->ended == 0);
  c->unpin(p101);
  CHECK(by_201->result() == Errc::kOk);
  CHECK(behind->wait());
  d->unpin(p201);
}

TEST_CASE("slow pin: [R37] who ended the pin that a break waits for may queue behind it before the bell is heard (A6)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u32 held = c->try_pin(1, pages(0, 1), 101);
  auto punch = f.punch(pages(0, 1));
  REQUIRE(f.waiting(1));
  proto::fast_unpin(c->slot(held), [] {});
  auto next = f.pin(m, c->ask(1, pages(0, 1), 101));
  CHECK(next->ended == 0);
  c->ring();
  CHECK(punch->result() == Errc::kOk);
  REQUIRE(next->wait());
  CHECK(next->code == 0);
}

TEST_CASE("slow pin: over shared blocks every pin takes the slow path, also through mappings made later (P4)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  f.map(*c, 2, pages(16, 16));
  auto clone = f.change(f.request(pages(4, 2), "clone"), [&](const ChangeGrant&) { f.layout->set_shared(*f.inode, pages(4, 2), true); });
  REQUIRE(clone->result() == Errc::kOk);
  f.map(*c, 3, pages(5, 4));
  CHECK(c->try_pin(1, pages(4, 1)) == proto::kMaxSlots);
  CHECK(c->try_pin(1, pages(0, 1)) == proto::kMaxSlots);  // one word a mapping
  CHECK(c->try_pin(3, pages(5, 1)) == proto::kMaxSlots);
  CHECK(c->try_pin(2, pages(16, 1)) != proto::kMaxSlots);
  auto p = f.pin(m, c->ask(1, pages(4, 1)));
  CHECK(p->wait());
  CHECK(p->code == 0);
  // Unshared again, range by range.
  f.layout->set_shared(*f.inode, pages(4, 1), false);
  CHECK(c->try_pin(1, pages(4, 1)) == proto::kMaxSlots);
  f.layout->set_shared(*f.inode, pages(5, 1), false);
  CHECK(c->try_pin(1, pages(0, 1)) != proto::kMaxSlots);
  CHECK(c->try_pin(3, pages(5, 1)) != proto::kMaxSlots);
}

TEST_CASE("slow pin: [R35] empty, foreign and forbidden requests have defined results") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(4, 8));
  auto result = [&](PinRequest r) {
    auto p = f.pin(m, r);
    REQUIRE(p->wait());
    return p->code.load();
  };
  PinRequest r;
  r.range = {5 * kPage, 5 * kPage};
  CHECK(result(r) == code(Errc::kInvalid));
  r.range = pages(3, 2);
  CHECK(result(r) == code(Errc::kInvalid));
  r.range = {pages(5, 1).begin, kMaxOffset};
  CHECK(result(r) == code(Errc::kInvalid));
  r.range = pages(5, 1);
  r.kind = static_cast<u32>(proto::PinKind::kLongterm);
  CHECK(result(r) == code(Errc::kNotSupported));
  r.kind = 99;
  CHECK(result(r) == code(Errc::kInvalid));
  r.kind = 0;
  r.slot = 5;  // beyond the high-water mark
  CHECK(result(r) == code(Errc::kProtocol));
  auto asked = c->ask(1, pages(5, 1));
  c->slot(asked.slot).begin = 0;  // changed after it was asked
  CHECK(result(asked) == code(Errc::kProtocol));
  r.slot = asked.slot;
  c->unpin(asked.slot);  // not asked any more
  CHECK(result(r) == code(Errc::kProtocol));
}

TEST_CASE("slow pin: a queued pin ends when its client or its mapping goes") {
  Fixture f;
  auto holder = f.client(100), c = f.client(200), d = f.client(300);
  f.map(*holder, 1, pages(0, 16));
  Mapping* mc = f.map(*c, 1, pages(0, 16));
  Mapping* md = f.map(*d, 1, pages(0, 16));
  const u32 slot = holder->try_pin(1, pages(3, 1));
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  auto pc = f.pin(mc, c->ask(1, pages(4, 1))), pd = f.pin(md, d->ask(1, pages(4, 1)));
  f.settle();
  f.clients().client_gone(*c);
  CHECK(pc->wait());
  CHECK(pc->code == code(Errc::kNotConnected));
  f.clients().remove_mapping(md);
  CHECK(pd->wait());
  CHECK(pd->code == code(Errc::kNotConnected));
  holder->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
}
