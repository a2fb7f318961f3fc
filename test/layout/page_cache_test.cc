// SPDX-License-Identifier: BSD-3-Clause
//
// The kernel's page cache as one more mapper: C1-C6, R39, R41.
#include "layout/page_cache.h"

#include "fixture.h"

using namespace pindax;
using namespace pindax::layout_test;

TEST_CASE("page cache: a direct fault takes the page from the cache, a fill takes it back (C1)") {
  Fixture f;
  auto c = f.client(100);
  c->auto_ack = true;
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fill(pages(3, 1), true)->ended == 1);
  CHECK(f.layout->maybe_dirty(*f.inode) == std::vector<ByteRange>{pages(3, 1)});
  CHECK(f.fault(m, pages(2, 3)) == Errc::kOk);
  CHECK(f.kernel.ranges == std::vector<ByteRange>{pages(3, 1)});  // C2: only what the cache owns
  CHECK(f.layout->maybe_dirty(*f.inode).empty());
  auto fill = f.fill(pages(3, 1), false);
  CHECK(fill->wait());
  CHECK(fill->code == 0);
  CHECK(c->recalls() == 1);
  CHECK(c->sent().back().range == pages(3, 1));
  CHECK(f.layout->maybe_dirty(*f.inode).empty());
  // A change drops the kernel's pages, too.
  CHECK(f.punch(pages(0, 16))->result() == Errc::kOk);
  CHECK(f.kernel.drops() == 2);
}

TEST_CASE("page cache: a fill of a draining page is not answered and ends the draining (C4)") {
  Fixture f;
  auto c = f.client(100);
  c->auto_ack = true;
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fill(pages(2, 3), true)->wait());
  f.kernel.hold = true;
  std::atomic<bool> faulted{false};
  std::thread fault([&] {
    f.fault(m, pages(2, 3));
    faulted = true;
  });
  REQUIRE(eventually([&] { return f.kernel.drops() == 1; }));
  // The notification sticks at page 3, which the kernel locked for a fill: pages 2 and 4 get drops of their own (M5b).
  auto fill = f.fill(pages(3, 1), false);
  CHECK(f.kernel.drops() == 3);
  CHECK(f.kernel.ranges[1] == pages(2, 1));
  CHECK(f.kernel.ranges[2] == pages(4, 1));
  CHECK_FALSE(faulted);
  CHECK(f.kernel.finish(1));
  CHECK(f.kernel.finish(2));
  CHECK(eventually([&] { return faulted.load(); }));
  fault.join();
  // Behind the direct fault the fill recalls in its turn.
  CHECK(fill->wait());
  CHECK(fill->code == 0);
  CHECK(c->recalls() == 1);
  CHECK(f.kernel.finish(0));  // what is stuck reports at last: the page is the cache's again and stays so
  CHECK(f.fault(m, pages(9, 1)) == Errc::kOk);
  f.kernel.hold = false;
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  CHECK(f.kernel.drops() == 4);
}

TEST_CASE("page cache: a fill queues behind a direct fault that dropped its lock while the page drained (C4)") {
  Fixture f;
  auto c = f.client(100);
  c->auto_ack = true;
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fill(pages(3, 1), true)->wait());
  f.kernel.hold = true;
  std::atomic<bool> faulted{false};
  std::thread fault([&] {
    f.fault(m, pages(3, 1));
    faulted = true;
  });
  REQUIRE(eventually([&] { return f.clients().totals().retries == 1; }));  // recall_bound has passed
  StopAt retake("break.retake");
  auto fill = f.fill(pages(3, 1), true);
  CHECK(fill->ended == 0);  // although nobody holds the lock
  CHECK(retake.arrived());
  CHECK_FALSE(faulted);
  retake.release();
  fault.join();
  CHECK(fill->wait());
  CHECK(fill->code == 0);
  CHECK(c->recalls() == 1);  // what the fault was granted
  CHECK(f.kernel.finish(0));
}

TEST_CASE("page cache: a fill that meets a pin waits as a break does and goes on when it ends (C5)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto fill = f.fill(pages(3, 1), false);
  REQUIRE(f.waiting(1));
  CHECK(fill->ended == 0);
  CHECK(c->try_pin(1, pages(3, 1)) == proto::kMaxSlots);
  CHECK(f.fill(pages(4, 1), false)->ended == 1);
  c->unpin(slot);
  CHECK(fill->wait());
  CHECK(fill->code == 0);
}

TEST_CASE("page cache: write-backs are refused only while the change is applied (C3)") {
  Fixture f;
  bool inside = true, outside = false;
  CHECK(f.layout->may_write_back(*f.inode, pages(3, 1)));
  auto punch = f.change(f.request(pages(0, 8)), [&](const ChangeGrant&) {
    inside = f.layout->may_write_back(*f.inode, pages(3, 1));
    outside = f.layout->may_write_back(*f.inode, pages(8, 1));
  });
  CHECK(punch->done());
  CHECK_FALSE(inside);
  CHECK(outside);
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto waiting = f.punch(pages(0, 8));
  REQUIRE(f.waiting(1));
  CHECK(f.layout->may_write_back(*f.inode, pages(3, 1)));
  waiting->handle->interrupt();
  CHECK(waiting->result() == Errc::kInterrupted);
}

TEST_CASE("page cache: [R41] a SETATTR over dirty pages never sleeps: quarantine, or ETXTBSY (C6)") {
  LayoutOptions options = Fixture::quick();
  options.recall_bound = options.setattr_recall_bound = 2ms;
  Fixture f(options);
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fill(pages(12, 1), true)->wait());  // anywhere in the inode
  auto r = f.request({0, kMaxOffset}, "truncate");
  r.kernel_setattr = true;
  SECTION("wait becomes quarantine") {
    const u32 slot = c->try_pin(1, pages(3, 1));
    auto truncate = f.change(r, [](const ChangeGrant& g) { g.quarantined(pages(3, 1), 33, 1); });
    CHECK(truncate->done());
    CHECK(truncate->result() == Errc::kOk);
    CHECK(truncate->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(f.kernel.drops() == 0);  // a notification would wait for this very answer
    c->unpin(slot);
    CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
  }
  SECTION("refuse") {
    c->try_pin(1, pages(3, 1));
    r.policy = BusyPolicy::kRefuse;
    r.deadline = 60s;
    CHECK(f.change(r)->result() == Errc::kTextBusy);
  }
  SECTION("a recall that nobody answers ends it after the bound") {
    CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
    auto truncate = f.change(r, [](const ChangeGrant& g) { g.quarantined(pages(3, 1), 33, 1); });
    CHECK(truncate->result() == Errc::kOk);
    CHECK(truncate->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(f.quarantine.released().empty());
    c->acknowledge_next();
    CHECK(eventually([&] { return f.quarantine.released().size() == 1; }));
  }
  SECTION("not a SETATTR: it sleeps") {
    c->try_pin(1, pages(3, 1));
    r.kernel_setattr = false;
    auto truncate = f.change(r);
    REQUIRE(f.waiting(1));
    truncate->handle->interrupt();
    CHECK(truncate->result() == Errc::kInterrupted);
  }
}

TEST_CASE("page cache: a SETATTR over dirty pages waits longer than a break's bound for a client that answers (C6)") {
  LayoutOptions options = Fixture::quick();
  options.recall_bound = 2ms;
  options.setattr_recall_bound = 60s;
  Fixture f(options);
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fill(pages(12, 1), true)->wait());
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto r = f.request({0, kMaxOffset}, "truncate");
  r.kernel_setattr = true;
  auto truncate = f.change(r);
  std::this_thread::sleep_for(50ms);
  CHECK(truncate->applied == 0);
  CHECK(c->acknowledge_next());
  CHECK(truncate->result() == Errc::kOk);
  CHECK(truncate->grant.to_quarantine.empty());
}

namespace {

struct Access {
  std::atomic<int> ended{0};
  std::atomic<int> code{-1};
  SharedHold hold;
};

std::shared_ptr<Access> access(Fixture& f, ByteRange range, Layout::CachedPages which) {
  auto a = std::make_shared<Access>();
  f.layout->with_cache_dropped(*f.inode, range, which, [a](Result<SharedHold> hold) {
    a->code = static_cast<int>(hold.code());
    if (hold.ok()) a->hold = std::move(hold).value();
    ++a->ended;
  });
  return a;
}

}  // namespace

TEST_CASE("page cache: bytes move past the cache only once it holds nothing of them (C7)") {
  using Which = Layout::CachedPages;
  Fixture f;
  CHECK(f.fill(pages(2, 1), false)->wait());
  CHECK(f.fill(pages(3, 1), true)->wait());
  f.kernel.hold = true;
  CHECK(access(f, pages(8, 4), Which::kAll)->ended == 1);         // not cached
  CHECK(access(f, pages(2, 1), Which::kMaybeDirty)->ended == 1);  // a reader sees what the cache has
  CHECK(f.kernel.drops() == 0);
  CHECK(f.layout->first_cached(*f.inode, pages(0, 9)) == pages(2, 1).begin);
  CHECK(f.layout->first_cached(*f.inode, pages(4, 5)) == pages(4, 5).end);
  auto read = access(f, pages(3, 2), Which::kMaybeDirty);
  REQUIRE(eventually([&] { return f.kernel.drops() == 1; }));
  CHECK(read->ended == 0);
  CHECK(f.kernel.finish(0));
  REQUIRE(eventually([&] { return read->ended == 1; }));
  CHECK(read->code == 0);
  auto fill = f.fill(pages(3, 1), true);  // comes back when the reader is done
  CHECK(fill->ended == 0);
  read->hold.release();
  CHECK(fill->wait());
  auto write = access(f, pages(0, 4), Which::kAll);
  REQUIRE(eventually([&] { return f.kernel.drops() == 2; }));
  CHECK(f.kernel.ranges[1] == pages(2, 2));
  CHECK(f.kernel.finish(1));
  CHECK(eventually([&] { return write->ended == 1; }));
  f.kernel.hold = false;
}

TEST_CASE("page cache: [R8] a fill that waits for a pin can be interrupted and is then not the owner (C5)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto fill = f.fill(pages(3, 1), true);
  REQUIRE(f.waiting(1));
  fill->handle->interrupt();
  CHECK(fill->wait());
  CHECK(fill->code == static_cast<int>(Errc::kInterrupted));
  CHECK(f.layout->first_cached(*f.inode, pages(0, 16)) == pages(0, 16).end);
}

TEST_CASE("page cache: pins of a client that maps through the mount do not keep fills away, its faults leave the cache its pages (C5)") {
  Fixture f;
  auto direct = f.client(100), through = f.client(101);
  direct->auto_ack = true;
  Mapping* d = f.map(*direct, 1, pages(0, 16));
  Mapping* m = f.clients().add_mapping(*f.inode, *through, 1, pages(0, 16), true, true);
  through->try_pin(1, pages(3, 1));
  CHECK(f.fill(pages(3, 1), true)->wait());
  CHECK(f.fault(d, pages(3, 1), 0) == Errc::kOk);  // a hole
  CHECK(f.kernel.drops() == 1);
  CHECK(f.fill(pages(4, 1), true)->wait());
  auto made = std::make_shared<std::atomic<int>>(-1);
  f.clients().with_fault(*m, pages(3, 2), FaultKind::kWrite, [made](Result<SharedHold> hold) { *made = static_cast<int>(hold.code()); });
  CHECK(eventually([&] { return *made == 0; }));
  CHECK(direct->recalls() == 1);  // its zeros, and nothing else
  CHECK(f.kernel.drops() == 1);
  CHECK(f.layout->first_cached(*f.inode, pages(0, 16)) == pages(4, 1).begin);
}

TEST_CASE("page cache: while a SETATTR sleeps, fills for writable handles are parked (C6)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  auto r = f.request({0, kMaxOffset}, "truncate");
  r.kernel_setattr = true;
  auto truncate = f.change(r);  // no dirty pages: it may sleep
  REQUIRE(f.waiting(1));
  auto writable = f.fill(pages(9, 1), true);
  auto read_only = f.fill(pages(10, 1), false);
  CHECK(read_only->wait());
  CHECK(f.waiting(1, "parked"));
  CHECK(writable->ended == 0);
  CHECK(f.layout->maybe_dirty(*f.inode).empty());
  SECTION("until it is done") {
    c->unpin(slot);
    CHECK(truncate->result() == Errc::kOk);
  }
  SECTION("or interrupted") {
    truncate->handle->interrupt();
    CHECK(truncate->result() == Errc::kInterrupted);
  }
  CHECK(writable->wait());
  CHECK(writable->code == 0);
}

TEST_CASE("page cache: a fill under way when the SETATTR goes to sleep is parked or makes it decide again (C6)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto r = f.request(pages(0, 8), "truncate");
  r.kernel_setattr = true;
  std::shared_ptr<Fixture::Fill> fill;
  OnceAt verdict("break.sleeping", [&] { fill = f.fill(pages(9, 1), true); });
  auto truncate = f.change(r);
  CHECK(truncate->result() == Errc::kOk);
  CHECK(truncate->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
  CHECK(fill->wait());
  CHECK(fill->code == 0);
}

TEST_CASE("page cache: owners merge, split and keep what may be dirty") {
  PageCacheOwners pages_of;
  pages_of.record_fill(pages(0, 4), true);
  pages_of.record_fill(pages(2, 4), false);
  CHECK(pages_of.maybe_dirty() == std::vector<ByteRange>{pages(0, 4)});
  auto drops = pages_of.begin_drop(pages(1, 4));
  REQUIRE(drops.size() == 1);
  CHECK(drops[0].range == pages(1, 4));
  CHECK(pages_of.begin_drop(pages(1, 4)).empty());
  CHECK(pages_of.draining(pages(4, 1)));
  CHECK_FALSE(pages_of.draining(pages(5, 1)));
  pages_of.drop_done(drops[0].id);
  CHECK_FALSE(pages_of.owns(pages(1, 4)));
  CHECK(pages_of.owns(pages(0, 1)));
  CHECK(pages_of.owns(pages(5, 1)));
  CHECK(pages_of.maybe_dirty() == std::vector<ByteRange>{pages(0, 1)});
  CHECK(pages_of.fill_in_hand(pages(0, 1)).empty());
  CHECK_FALSE(pages_of.may_be_dirty());
}
