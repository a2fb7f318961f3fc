// SPDX-License-Identifier: BSD-3-Clause
//
// Recalls, deadlines, policies, and what a change leaves behind: B3, B4, F1, F4, D1, R12, R18, R40.
#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

namespace {

LayoutOptions hurried() {
  LayoutOptions o;
  o.rescan_period = 60s;
  o.recall_bound = 2ms;
  o.recall_deadline = 40ms;
  return o;
}

// Acknowledgements are slow, but no deadline passes however loaded the machine is.
LayoutOptions slow() {
  LayoutOptions o = hurried();
  o.recall_deadline = 60s;
  return o;
}

}  // namespace

TEST_CASE("recall: the change waits until the translation is gone, and its grant is recalled exactly once (B3)") {
  Fixture f;
  auto a = f.client(100), b = f.client(200);
  Mapping* ma = f.map(*a, 1, pages(0, 16));
  Mapping* mb = f.map(*b, 1, pages(4, 4));
  CHECK(f.fault(ma, pages(2, 4)) == Errc::kOk);
  CHECK(f.fault(mb, pages(5, 1)) == Errc::kOk);
  CHECK(f.layout->ever_mapped(*f.inode));
  auto punch = f.punch(pages(4, 2));
  CHECK(eventually([&] { return a->recalls() == 1 && b->recalls() == 1; }));
  CHECK(a->sent().back().range == pages(4, 2));
  CHECK(a->acknowledge_next());
  CHECK(punch->applied == 0);
  CHECK(b->acknowledge_next());
  CHECK(punch->result() == Errc::kOk);
  CHECK(punch->grant.was_mapped);
  CHECK(f.punch(pages(4, 2))->done());  // nothing is translated there any more
  auto rest = f.punch(pages(0, 4));
  CHECK(eventually([&] { return a->recalls() == 2; }));
  CHECK(a->sent().back().range == pages(2, 2));
  a->acknowledge_next();
  CHECK(rest->result() == Errc::kOk);
}

TEST_CASE("recall: a slow acknowledgement costs the lock, and what was granted meanwhile is recalled too (B4)") {
  Fixture f(slow());
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto punch = f.punch(pages(0, 8));
  REQUIRE(eventually([&] { return f.clients().list_changes().at(0).retries > 0; }));
  CHECK(f.fault(m, pages(4, 1)) == Errc::kOk);  // the lock is free
  CHECK(c->acknowledge_next());
  CHECK(eventually([&] { return c->recalls() == 2; }));
  CHECK(punch->applied == 0);
  CHECK(c->acknowledge_next());
  CHECK(punch->result() == Errc::kOk);
  CHECK(punch->grant.to_quarantine.empty());
}

TEST_CASE("recall: an acknowledgement does not cover what was granted after the recall (F1)") {
  Fixture f(slow());
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto punch = f.punch(pages(3, 1));
  REQUIRE(eventually([&] { return f.clients().list_changes().at(0).retries > 0; }));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);  // in the FIFO: grant, recall, grant
  const auto sent = c->sent();
  REQUIRE(sent.size() == 3);
  CHECK(c->acknowledge_next());
  CHECK(eventually([&] { return c->recalls() == 2; }));
  CHECK(punch->applied == 0);
  CHECK(c->acknowledge_next());
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("recall: an interrupt in the recall phase counts out with a new generation, nothing done (B4, G2)") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  const u64 generation = f.clients().generation(*m);
  auto punch = f.punch(pages(3, 1));
  REQUIRE(eventually([&] { return c->recalls() == 1; }));
  punch->handle->interrupt();
  CHECK(punch->result() == Errc::kInterrupted);
  CHECK(punch->applied == 0);
  CHECK(f.clients().generation(*m) != generation);
  CHECK(c->try_pin(1, pages(3, 1), 1, generation) == proto::kMaxSlots);
  // The translation may still be there: the next break waits for the old recall.
  auto next = f.punch(pages(3, 1));
  f.settle();
  CHECK(next->applied == 0);
  CHECK(c->recalls() == 1);
  c->acknowledge_next();
  CHECK(next->result() == Errc::kOk);
}

TEST_CASE("recall: [R12] nobody acknowledges: refuse says ETXTBSY, otherwise the blocks stay quarantined until it does (F4)") {
  Fixture f(hurried());
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 2)) == Errc::kOk);
  auto r = f.request(pages(0, 8));
  SECTION("refuse") {
    r.policy = BusyPolicy::kRefuse;
    auto punch = f.change(r);
    CHECK(punch->result() == Errc::kTextBusy);
    CHECK(punch->applied == 0);
  }
  SECTION("blocks would move: the acknowledgement is needed") {
    r.only_frees = false;
    CHECK(f.change(r)->result() == Errc::kTextBusy);
  }
  SECTION("blocks only vanish") {
    auto punch = f.change(r, [](const ChangeGrant& g) {
      g.quarantined(pages(3, 1), 77, 1);
      g.quarantined(pages(4, 1), 90, 1);
    });
    CHECK(punch->result() == Errc::kOk);
    REQUIRE(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 2)});
    f.settle();
    CHECK(f.quarantine.released().empty());
    SECTION("acknowledged at last") { c->acknowledge_next(); }
    SECTION("unmapped") { f.clients().remove_mapping(m); }
    SECTION("dead, and then its memory is gone (D1)") {
      f.clients().client_gone(*c);
      f.settle();
      CHECK(f.quarantine.released().empty());
      f.clients().client_memory_gone(*c);
    }
    CHECK(eventually([&] { return f.quarantine.released().size() == 2; }));
  }
}

TEST_CASE("recall: a deadline of the wait holds in the recall phase, too (B4)") {
  auto options = hurried();
  options.recall_deadline = 60s;
  Fixture f(options);
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto r = f.request(pages(0, 8));
  r.policy = BusyPolicy::kRefuse;
  r.deadline = 20ms;
  CHECK(f.change(r)->result() == Errc::kTextBusy);
}

TEST_CASE("policy: refuse without a deadline refuses at once, and changes nothing") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto r = f.request(pages(0, 8));
  r.policy = BusyPolicy::kRefuse;
  auto punch = f.change(r);
  CHECK(punch->done());
  CHECK(punch->result() == Errc::kTextBusy);
  CHECK(punch->applied == 0);
}

TEST_CASE("policy: [R12] quarantine completes now; pinned blocks are released when pin and translation are gone") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(0, 8)) == Errc::kOk);
  const u32 slot = c->try_pin(1, {3 * kPage + 10, 3 * kPage + 20});
  c->auto_ack = true;
  auto r = f.request(pages(0, 8));
  r.policy = BusyPolicy::kQuarantine;
  auto punch = f.change(r, [](const ChangeGrant& g) {
    g.quarantined(pages(3, 1), 33, 1);
    g.quarantined(pages(6, 1), 66, 1);  // one that nothing holds back
  });
  CHECK(punch->result() == Errc::kOk);
  REQUIRE(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
  CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
  CHECK(f.quarantine.released()[0].first == 66);
  // The pin keeps its promise: its page was not recalled.
  for (const auto& s : c->sent())
    if (s.recall) CHECK_FALSE(s.range.overlaps(pages(3, 1)));
  c->auto_ack = false;
  const std::size_t before = c->recalls();
  SECTION("unpinned, then acknowledged") {
    c->unpin(slot);
    CHECK(c->rings == 1);
    CHECK(eventually([&] { return c->recalls() == before + 1; }));
    CHECK(c->sent().back().range == pages(3, 1));
    CHECK(f.quarantine.released().size() == 1);
    c->acknowledge(c->sent().back().id);
  }
  SECTION("killed (D1)") {
    f.clients().client_gone(*c);
    f.settle();
    CHECK(f.quarantine.released().size() == 1);
    f.clients().client_memory_gone(*c);
  }
  SECTION("unpinned and killed before the bell was heard: the page is translated still (D1)") {
    proto::fast_unpin(c->slot(slot), [] {});
    f.clients().client_gone(*c);
    f.settle();
    CHECK(f.quarantine.released().size() == 1);
    f.clients().client_memory_gone(*c);
  }
  CHECK(eventually([&] { return f.quarantine.released().size() == 2; }));
  CHECK(f.quarantine.released()[1].first == 33);
}

TEST_CASE("policy: a block that two clients pin is released by the last") {
  Fixture f;
  auto a = f.client(100), b = f.client(200);
  f.map(*a, 1, pages(0, 16));
  f.map(*b, 1, pages(0, 16));
  const u32 sa = a->try_pin(1, pages(3, 1)), sb = b->try_pin(1, pages(3, 2));
  auto r = f.request(pages(0, 8));
  r.policy = BusyPolicy::kQuarantine;
  f.change(r, [](const ChangeGrant& g) { g.quarantined(pages(3, 1), 33, 1); });
  a->unpin(sa);
  f.settle();
  f.settle();
  CHECK(f.quarantine.released().empty());
  b->unpin(sb);
  CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
}

TEST_CASE("policy: quarantine of an operation that moves blocks waits for the pin (F4)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto r = f.request(pages(0, 8), "collapse");
  r.policy = BusyPolicy::kQuarantine;
  r.only_frees = false;
  auto collapse = f.change(r);
  REQUIRE(f.waiting(1));
  c->unpin(slot);
  CHECK(collapse->result() == Errc::kOk);
}

TEST_CASE("recall: [R18] [R19] blocks that appear in a hole recall zero pages and wait for no pin (P4)") {
  Fixture f;
  auto reader = f.client(100), writer = f.client(200);
  Mapping* mr = f.map(*reader, 1, pages(0, 16));
  Mapping* mw = f.map(*writer, 1, pages(0, 16));
  CHECK(f.fault(mr, pages(3, 1), 0) == Errc::kOk);
  reader->try_pin(1, pages(3, 1));
  SECTION("through the mount") {
    auto r = f.request(pages(3, 1), "write");
    r.recall_only = true;
    auto write = f.change(r);
    CHECK(eventually([&] { return reader->recalls() == 1; }));
    CHECK(write->applied == 0);
    reader->acknowledge_next();
    CHECK(write->result() == Errc::kOk);
  }
  SECTION("by another mapper's write fault") {
    reader->auto_ack = true;
    CHECK(f.fault(mw, pages(3, 1), 5, true) == Errc::kOk);
    CHECK(reader->recalls() == 1);
    CHECK(f.fault(mr, pages(3, 1), 5) == Errc::kOk);
    CHECK(f.fault(mw, pages(3, 1), 5, true) == Errc::kOk);  // no zeros there any more
    CHECK(reader->recalls() == 1);
  }
}

TEST_CASE("recall: a stopped reader of zeros delays a write by the recall's deadline at most") {
  Fixture f(hurried());
  auto reader = f.client(100), writer = f.client(200);
  Mapping* mr = f.map(*reader, 1, pages(0, 16));
  Mapping* mw = f.map(*writer, 1, pages(0, 16));
  CHECK(f.fault(mr, pages(3, 1), 0) == Errc::kOk);
  CHECK(f.fault(mw, pages(3, 1), 5, true) == Errc::kOk);
  f.clients().remove_mapping(mw);
  auto r = f.request(pages(3, 1), "write");
  r.recall_only = true;
  CHECK(f.change(r)->done());  // its deadline has passed: the next write does not wait again
}

TEST_CASE("recall: a stopped reader of shared blocks delays their copying by the recall's deadline; what the file gave up is held until he answers (F4, V7)") {
  Fixture f(hurried());
  auto reader = f.client(100), writer = f.client(200);
  Mapping* mr = f.map(*reader, 1, pages(0, 16));
  Mapping* mw = f.map(*writer, 1, pages(0, 16));
  const bool copied = GENERATE(false, true), fault = GENERATE(false, true);
  CHECK(f.fault(mr, pages(3, 1), 5, false, copied) == Errc::kOk);
  const auto give_up = [](const ChangeGrant& grant) {
    for (const ByteRange& r : grant.to_quarantine) grant.quarantined(r, 5, r.length() / kPage);
  };
  std::size_t held = 0;
  if (fault) {
    std::atomic<int> ended{-1};
    f.clients().with_fault(*mw, pages(3, 1), FaultKind::kCopy, [&](Result<SharedHold> hold) {
      if (hold.ok()) {
        held = hold->grant().to_quarantine.size();
        give_up(hold->grant());
        hold->release();
      }
      ended = static_cast<int>(hold.code());
    });
    CHECK(eventually([&] { return ended != -1; }));
    CHECK(ended == 0);
  } else {
    auto r = f.request(pages(3, 1), "write");
    r.recall_only = r.moves_blocks = true;
    r.only_frees = false;
    auto write = f.change(r, give_up);
    CHECK(write->result() == Errc::kOk);
    held = write->grant.to_quarantine.size();
  }
  CHECK(held == (copied ? 0 : 1));  // copies are the reader's own
  f.settle();
  CHECK(f.quarantine.released().empty());
  reader->acknowledge_next();
  if (!copied) {
    CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
    CHECK(f.quarantine.released().front() == std::pair<u64, u64>(5, 1));
  }
}

TEST_CASE("layout: an inode that is destroyed in mid-break leaves nothing behind, and no callback runs") {
  Fixture f;
  auto c = f.client(100), d = f.client(200);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  Mapping* md = f.map(*d, 1, pages(0, 16));
  CHECK(f.fault(m, pages(1, 1)) == Errc::kOk);
  c->try_pin(1, pages(9, 1));
  auto recalling = f.punch(pages(1, 1));
  auto sleeping = f.punch(pages(9, 1));
  auto queued = f.pin(md, d->ask(1, pages(9, 1)));
  f.settle();
  f.inode.reset();
  f.settle();
  CHECK(recalling->ended == 0);
  CHECK(sleeping->ended == 0);
  CHECK(queued->ended == 0);
}

TEST_CASE("recall: [R40] unmapping answers every recall, and unknown acknowledgements are ignored") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto punch = f.punch(pages(3, 1));
  REQUIRE(eventually([&] { return c->recalls() == 1; }));
  c->acknowledge(4711);
  f.settle();
  CHECK(punch->applied == 0);
  f.clients().remove_mapping(m);
  CHECK(punch->result() == Errc::kOk);
  c->acknowledge_next();  // late
  CHECK(f.clients().list_mappings().empty());
}

TEST_CASE("listing: mappings, pins and changes name file, range, client and who waits for whom") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 3, pages(0, 16));
  CHECK(f.fault(m, pages(3, 2)) == Errc::kOk);
  CHECK(f.fault(m, pages(9, 1), 0) == Errc::kOk);
  auto rows = f.clients().list_mappings();
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].ino == InodeNo(7));
  CHECK(rows[0].mapping == 3);
  CHECK(rows[0].granted_bytes == 2 * kPage);
  c->try_pin(3, pages(3, 1), 42);
  auto punch = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  auto pins = f.clients().list_pins();
  REQUIRE(pins.size() == 1);
  CHECK(pins[0].thread == 42);
  CHECK(pins[0].range == pages(3, 1));
  auto changes = f.clients().list_changes();
  REQUIRE(changes.size() == 1);
  CHECK(pins[0].waiting_changes == std::vector<u64>{changes[0].id});
  CHECK(changes[0].operation == "punch");
  REQUIRE(changes[0].waits_for.size() == 1);
  CHECK(changes[0].waits_for[0].client.pid == 100);
  punch->handle->interrupt();
  CHECK(punch->result() == Errc::kInterrupted);
}
