// SPDX-License-Identifier: BSD-3-Clause
//
// Revocation without the client's help: what may go without an answer, and what may not.
#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

namespace {

LayoutOptions hurried() {
  LayoutOptions o = Fixture::quick();
  o.recall_bound = 10ms;
  o.recall_deadline = 60s;
  return o;
}

struct Revoking : Fixture {
  explicit Revoking(LayoutOptions options = hurried()) : Fixture(options) {
    c = client(100);
    c->watched = true;
    m = map(*c, 1, pages(0, 4096));
  }
  // The client has carried out all that was sent.
  void settle_client() { c->carried_out = c->sent().size(); }
  static ChangeRequest freeing(ByteRange range) {
    auto r = request(range);
    r.reports_freed = true;
    return r;
  }
  // Frees what is claimed of [first, first + count), blocks numbered like the pages from 1000.
  std::function<void(const ChangeGrant&)> frees(u64 first, u64 count) {
    return [=](const ChangeGrant& g) {
      for (const ByteRange& r : g.claimed) {
        const ByteRange part = intersect(r, pages(first, count));
        if (!part.empty()) g.freed(part, 1000 + part.begin / kPage, part.length() / kPage);
      }
    };
  }
  std::shared_ptr<FakeClient> c;
  Mapping* m = nullptr;
};

}  // namespace

TEST_CASE("revoke: [R12] [R20] freed blocks of a watched client are punched before the change is over, without a message") {
  Revoking f;
  CHECK(f.fault(f.m, pages(3, 2)) == Errc::kOk);
  f.settle_client();
  auto punch = f.change(f.freeing(pages(0, 8)), f.frees(0, 8));
  CHECK(punch->result() == Errc::kOk);
  CHECK(f.c->recalls() == 0);
  REQUIRE(f.quarantine.punched() == std::vector<std::pair<u64, u64>>{{1003, 2}});
  CHECK(punch->grant.to_quarantine.empty());
  CHECK(f.clients().totals().revoked == 1);
  // The books know that nothing is translated any more.
  auto again = f.change(f.freeing(pages(0, 8)), f.frees(0, 8));
  CHECK(again->result() == Errc::kOk);
  CHECK(f.quarantine.punched().size() == 1);
}

TEST_CASE("revoke: shared blocks are recalled before a change gives them up, and held back if nobody answers (F4)") {
  LayoutOptions options = hurried();
  options.recall_deadline = 40ms;
  Revoking f(options);
  f.layout->set_shared(*f.inode, pages(0, 4), true);
  CHECK(f.fault(f.m, pages(3, 1)) == Errc::kOk);
  f.settle_client();
  auto punch = f.change(f.freeing(pages(0, 8)), [](const ChangeGrant& g) {
    for (const ByteRange& r : g.to_quarantine) g.quarantined(r, 1000 + r.begin / kPage, r.length() / kPage);
  });
  CHECK(punch->result() == Errc::kOk);
  CHECK(f.c->recalls() == 1);
  CHECK(punch->grant.claimed.empty());
  REQUIRE(punch->grant.to_quarantine.size() == 1);
  f.settle();
  CHECK(f.quarantine.released().empty());
  f.c->acknowledge_next();
  CHECK(eventually([&] { return f.quarantine.released() == std::vector<std::pair<u64, u64>>{{1003, 1}}; }));
}

TEST_CASE("revoke: [R20] a grant that the client has not carried out yet is recalled: it would come into place after the punch") {
  auto options = hurried();
  options.rescan_period = 30ms;
  Revoking f(options);
  CHECK(f.fault(f.m, pages(3, 2)) == Errc::kOk);
  auto punch = f.change(f.freeing(pages(0, 8)), f.frees(0, 8));
  REQUIRE(eventually([&] { return f.c->recalls() == 1; }));
  std::this_thread::sleep_for(100ms);  // far beyond the bound
  CHECK_FALSE(punch->done());
  CHECK(f.quarantine.punched().empty());
  SECTION("it answers") { f.c->acknowledge_next(); }
  SECTION("it carried the grant out, but does not answer") { f.settle_client(); }
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("revoke: what the change does not free is recalled after it, and its answer awaited for the bound only") {
  Revoking f;
  CHECK(f.fault(f.m, pages(3, 2)) == Errc::kOk);
  f.settle_client();
  SECTION("answered") {
    f.c->auto_ack = true;
    auto punch = f.change(f.freeing(pages(0, 8)), f.frees(3, 1));
    CHECK(punch->result() == Errc::kOk);
    REQUIRE(f.c->recalls() == 1);
    CHECK(f.c->sent().back().range == pages(4, 1));
  }
  SECTION("not answered") {
    auto punch = f.change(f.freeing(pages(0, 8)), f.frees(3, 1));
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->applied == 1);
    // The next one over that page waits for it.
    auto r = f.request(pages(4, 1));
    r.only_frees = false;
    r.policy = BusyPolicy::kRefuse;
    r.deadline = 1ms;
    CHECK(f.change(r)->result() == Errc::kTextBusy);
  }
  SECTION("the punch failed: a pinned part of a large page") {
    f.quarantine.punch_fails = true;
    f.c->auto_ack = true;
    auto punch = f.change(f.freeing(pages(0, 8)), f.frees(0, 8));
    CHECK(punch->result() == Errc::kOk);
    CHECK(f.c->recalls() == 1);
  }
}

TEST_CASE("revoke: a large translation is asked for first, and revoked when no answer comes in time") {
  Revoking f;
  CHECK(f.fault(f.m, pages(0, 1024)) == Errc::kOk);
  f.settle_client();
  SECTION("answered") {
    f.c->auto_ack = true;
    auto punch = f.change(f.freeing(pages(0, 1024)), f.frees(0, 1024));
    CHECK(punch->result() == Errc::kOk);
    CHECK(f.quarantine.punched().empty());
  }
  SECTION("[R12] stopped") {
    auto punch = f.change(f.freeing(pages(0, 1024)), f.frees(0, 1024));
    CHECK(punch->result() == Errc::kOk);
    CHECK(f.quarantine.punched().size() == 1);
    CHECK(punch->grant.to_quarantine.empty());
    // Done with: nobody waits for that answer again.
    CHECK(f.change(f.freeing(pages(0, 1024)), f.frees(0, 1024))->result() == Errc::kOk);
    CHECK(f.quarantine.punched().size() == 1);
  }
  CHECK(f.c->recalls() == 1);
}

TEST_CASE("revoke: only what frees blocks and says which may revoke; moved blocks need the answer (F4)") {
  Revoking f;
  CHECK(f.fault(f.m, pages(3, 2)) == Errc::kOk);
  f.settle_client();
  auto r = f.freeing(pages(0, 8));
  SECTION("moves") { r.only_frees = false; }
  SECTION("does not say") { r.reports_freed = false; }
  SECTION("a client that is not watched") { f.c->watched = false; }
  auto change = f.change(r);
  REQUIRE(eventually([&] { return f.c->recalls() == 1; }));
  CHECK(change->applied == 0);  // asked before the change, not after it
  f.c->acknowledge_next();
  CHECK(change->result() == Errc::kOk);
  CHECK(f.c->recalls() == 1);
  CHECK(f.quarantine.punched().empty());
}

TEST_CASE("revoke: [R12] a pin that quarantine leaves keeps its translation; what lies around it is punched") {
  Revoking f;
  CHECK(f.fault(f.m, pages(0, 8)) == Errc::kOk);
  f.settle_client();
  f.c->auto_ack = true;
  CHECK(f.c->try_pin(1, pages(3, 1)) != proto::kMaxSlots);
  auto r = f.freeing(pages(0, 8));
  r.policy = BusyPolicy::kQuarantine;
  auto punch = f.change(r, f.frees(0, 8));
  CHECK(punch->result() == Errc::kOk);
  CHECK(f.c->recalls() == 0);
  CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
  CHECK(f.quarantine.punched() == std::vector<std::pair<u64, u64>>{{1000, 3}, {1004, 4}});
}

TEST_CASE("revoke: zeros and copies of shared blocks are recalled: a punch does not reach them") {
  Revoking f;
  const bool copied = GENERATE(false, true);
  CHECK(f.fault(f.m, pages(3, 2), copied ? 1 : 0, false, copied) == Errc::kOk);
  f.settle_client();
  SECTION("by this change") {
    f.c->auto_ack = true;
    CHECK(f.change(f.freeing(pages(0, 8)), f.frees(0, 8))->result() == Errc::kOk);
  }
  SECTION("by an earlier one that was interrupted: its recall is still awaited") {
    auto r = f.request(pages(0, 8));
    r.only_frees = false;
    auto first = f.change(r);
    REQUIRE(eventually([&] { return f.c->recalls() == 1; }));
    first->handle->interrupt();
    CHECK(first->result() == Errc::kInterrupted);
    auto punch = f.change(f.freeing(pages(0, 8)), f.frees(0, 8));
    std::this_thread::sleep_for(50ms);  // beyond the bound
    CHECK_FALSE(punch->done());
    f.c->acknowledge_next();
    CHECK(punch->result() == Errc::kOk);
  }
  CHECK(f.c->recalls() == 1);
  CHECK(f.quarantine.punched().empty());
}
