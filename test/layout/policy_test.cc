// SPDX-License-Identifier: BSD-3-Clause
//
// What is done about what is in the way: evict, leases, long-term and transferable pins, stuck ones.
#include "fixture.h"
#include "layout/wait_graph.h"

using namespace pindax;
using namespace pindax::layout_test;

namespace {

constexpr u32 kLease = static_cast<u32>(proto::PinKind::kLease);
constexpr u32 kLongterm = static_cast<u32>(proto::PinKind::kLongterm);

ChangeRequest with_policy(ByteRange range, BusyPolicy policy, std::optional<std::chrono::milliseconds> deadline = {}) {
  ChangeRequest r = Fixture::request(range);
  r.policy = policy;
  r.deadline = deadline;
  return r;
}

LayoutOptions short_lived() {
  LayoutOptions o = Fixture::quick();
  o.recall_bound = 1ms;
  o.recall_deadline = 30ms;
  o.lease_deadline = 30ms;
  return o;
}

// A client whose process ends when it is killed: pins first, memory when the test says so.
std::shared_ptr<FakeClient> mortal(Fixture& f, u32 pid) {
  auto c = f.client(pid);
  c->on_evict = [&f, weak = std::weak_ptr<FakeClient>(c)] {
    f.executor.post([&f, weak] {
      if (auto strong = weak.lock()) f.clients().client_gone(*strong);
    });
  };
  return c;
}

}  // namespace

TEST_CASE("policy: [R12] evict kills the holder at once, and goes on when his memory is gone (D1)") {
  Fixture f;
  auto c = mortal(f, 100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  c->try_pin(1, pages(3, 1));
  auto r = with_policy(pages(3, 1), BusyPolicy::kEvict);
  r.evict_as = 17;
  auto punch = f.change(r);
  CHECK(eventually([&] { return c->evictions == 1; }));
  CHECK(c->evicted_as == 17u);
  CHECK(f.waiting(1, "recalling"));  // its pins are gone, its translations are not
  CHECK(punch->applied == 0);
  CHECK(f.clients().list_changes().at(0).recalls.at(0).client.pid == 100);
  f.clients().client_memory_gone(*c);
  CHECK(punch->result() == Errc::kOk);
  CHECK(punch->grant.to_quarantine.empty());
  CHECK(c->evictions == 1);
  CHECK(f.clients().totals().evictions == 1);
}

TEST_CASE("policy: [R12] evict with a deadline lets the holder end his pin first") {
  Fixture f;
  auto c = mortal(f, 100);
  f.map(*c, 1, pages(0, 16));
  const u32 slot = c->try_pin(1, pages(3, 1));
  SECTION("he does") {
    auto punch = f.change(with_policy(pages(3, 1), BusyPolicy::kEvict, 60s));
    REQUIRE(f.waiting(1));
    CHECK(c->evictions == 0);
    c->unpin(slot);
    CHECK(punch->result() == Errc::kOk);
    CHECK(c->evictions == 0);
  }
  SECTION("he does not") {
    auto punch = f.change(with_policy(pages(3, 1), BusyPolicy::kEvict, 20ms));
    CHECK(eventually([&] { return c->evictions == 1; }));
    CHECK(punch->applied == 0);
    // What was pinned may still be stored to, by a device or by a thread that has not ended, although nothing is mapped.
    CHECK(f.waiting(1, "recalling"));
    CHECK(punch->applied == 0);
    f.clients().client_memory_gone(*c);
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine.empty());
  }
}

TEST_CASE("policy: [R9] where evict may not kill, quarantine applies; never is it the caller's own process") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto r = with_policy(pages(3, 1), BusyPolicy::kEvict);
  SECTION("no permission") {
    c->evict_result = Errc::kPermission;
    auto punch = f.change(r);
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(c->evictions == 1);
    CHECK(f.clients().totals().evictions_refused == 1);
  }
  SECTION("no permission, and blocks would move: ETXTBSY at the deadline") {
    c->evict_result = Errc::kPermission;
    r.only_frees = false;
    r.deadline = 10ms;
    auto collapse = f.change(r);
    CHECK(collapse->result() == Errc::kTextBusy);
    CHECK(collapse->applied == 0);
  }
  SECTION("the caller's own") {
    r.requester = {100, 9, 0, "self"};
    auto punch = f.change(r);
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(c->evictions == 0);
  }
  SECTION("one of two may not be killed: the other's end is awaited first") {
    auto d = mortal(f, 200);
    c->evict_result = Errc::kPermission;
    f.map(*d, 1, pages(0, 16));
    d->try_pin(1, pages(3, 1));
    auto punch = f.change(r);
    CHECK(eventually([&] { return d->evictions == 1; }));
    CHECK(punch->applied == 0);
    f.clients().client_memory_gone(*d);
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(c->evictions == 1);  // asked once
  }
}

TEST_CASE("policy: a killed process that does not end leaves its blocks in quarantine") {
  Fixture f(short_lived());
  auto c = f.client(100);  // SIGKILL is under way, but it hangs in the kernel
  f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));
  auto punch = f.change(with_policy(pages(3, 1), BusyPolicy::kEvict));
  CHECK(punch->result() == Errc::kOk);
  CHECK(c->evictions == 1);
  CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
}

TEST_CASE("policy: [R12] evict also ends clients that do not answer a recall") {
  Fixture f(short_lived());
  auto c = mortal(f, 100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(3, 1)) == Errc::kOk);
  auto r = with_policy(pages(0, 8), BusyPolicy::kEvict);
  r.only_frees = false;  // even blocks that move may do so then
  auto collapse = f.change(r);
  CHECK(eventually([&] { return c->evictions == 1; }));
  CHECK(collapse->applied == 0);
  f.clients().client_memory_gone(*c);
  CHECK(collapse->result() == Errc::kOk);
  CHECK(collapse->grant.to_quarantine.empty());
}

TEST_CASE("lease: its holder is asked at once when a break finds it, and the wait ends with it") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  auto lease = f.pin(m, c->ask(1, pages(3, 1), 1, ~u64{0}, kLease));
  REQUIRE(lease->wait());
  const u32 slot = c->header().high_water - 1;
  const auto policy = GENERATE(BusyPolicy::kWait, BusyPolicy::kRefuse, BusyPolicy::kQuarantine, BusyPolicy::kEvict);
  auto punch = f.change(with_policy(pages(0, 8), policy, 60s));
  CHECK(eventually([&] { return c->asked().size() == 1; }));
  CHECK(c->asked()[0].slot == slot);
  CHECK(c->asked()[0].deadline > 4s);
  REQUIRE(f.waiting(1));
  CHECK(f.clients().list_pins().at(0).asked_ns >= 0);
  CHECK_FALSE(f.clients().list_pins().at(0).stuck);
  c->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
  CHECK(c->evictions == 0);
  CHECK(c->asked().size() == 1);
  CHECK(f.clients().totals().lease_recalls == 1);
}

TEST_CASE("lease: one that outlasts its deadline meets the policy's force, transient pins beside it are still waited for") {
  Fixture f(short_lived());
  auto c = mortal(f, 100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  auto lease = f.pin(m, c->ask(1, pages(3, 1), 1, ~u64{0}, kLease));
  REQUIRE(lease->wait());
  const u32 slot = c->header().high_water - 1;
  SECTION("wait: quarantine") {
    auto punch = f.change(with_policy(pages(0, 8), BusyPolicy::kWait));
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
    CHECK(f.clients().list_stuck_pins().size() == 1);
    c->unpin(slot);
    CHECK(f.clients().list_stuck_pins().empty());
  }
  SECTION("wait, and blocks would move: ETXTBSY") {
    auto r = with_policy(pages(0, 8), BusyPolicy::kWait);
    r.only_frees = false;
    CHECK(f.change(r)->result() == Errc::kTextBusy);
  }
  SECTION("refuse: ETXTBSY") {
    auto punch = f.change(with_policy(pages(0, 8), BusyPolicy::kRefuse, 60s));
    CHECK(punch->result() == Errc::kTextBusy);
    CHECK(punch->applied == 0);
  }
  SECTION("refuse without a deadline: ETXTBSY at once, but the holder was asked") {
    CHECK(f.change(with_policy(pages(0, 8), BusyPolicy::kRefuse))->result() == Errc::kTextBusy);
    CHECK(c->asked().size() == 1);
  }
  SECTION("evict: killed, but not before") {
    auto punch = f.change(with_policy(pages(0, 8), BusyPolicy::kEvict));
    CHECK(c->evictions == 0);
    CHECK(eventually([&] { return c->evictions == 1; }));
    CHECK(eventually([&] { return f.clients().list_pins().empty(); }));
    f.clients().client_memory_gone(*c);
    CHECK(punch->result() == Errc::kOk);
  }
  SECTION("a transient pin beside it") {
    const u32 other = c->try_pin(1, pages(5, 1));
    auto punch = f.change(with_policy(pages(0, 8), BusyPolicy::kWait));
    CHECK(eventually([&] { return f.clients().list_stuck_pins().size() == 1; }));
    REQUIRE(f.waiting(1));
    CHECK(punch->applied == 0);
    c->unpin(other);
    CHECK(punch->result() == Errc::kOk);
    CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
  }
}

TEST_CASE("lease: an overdue one does not end the wait for pins that the scan met before it") {
  Fixture f(short_lived());
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  const u32 other = c->try_pin(1, pages(5, 1));
  auto lease = f.pin(m, c->ask(1, pages(3, 1), 1, ~u64{0}, kLease));
  REQUIRE(lease->wait());
  auto punch = f.change(with_policy(pages(0, 8), BusyPolicy::kWait));
  CHECK(eventually([&] { return f.clients().list_stuck_pins().size() == 1; }));
  CHECK(eventually([&] { return f.clients().totals().scans >= 2; }));  // the second when the lease was due
  REQUIRE(f.waiting(1));
  CHECK(punch->applied == 0);
  c->unpin(other);
  CHECK(punch->result() == Errc::kOk);
  CHECK(punch->grant.to_quarantine == std::vector<ByteRange>{pages(3, 1)});
}

TEST_CASE("lease: one that was asked for by message is asked back by its number") {
  Fixture f;
  auto c = f.client(100, false);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  PinRequest r;
  r.kind = kLease;
  r.range = pages(3, 1);
  r.thread = 5;
  auto lease = f.pin(m, r);
  REQUIRE(lease->wait());
  auto punch = f.punch(pages(0, 8));
  CHECK(eventually([&] { return c->asked().size() == 1; }));
  CHECK(c->asked()[0].slot == proto::kMaxSlots);
  CHECK(c->asked()[0].pin == lease->id);
  CHECK(f.clients().unpin(*c, lease->id).ok());
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("long-term pins: only where the mount allows them, and up to the client's quota; ended ones make room") {
  LayoutOptions o = Fixture::quick();
  SECTION("not allowed") {
    Fixture f(o);
    auto c = f.client(100);
    Mapping* m = f.map(*c, 1, pages(0, 1024));
    auto p = f.pin(m, c->ask(1, pages(0, 1), 1, ~u64{0}, kLongterm));
    CHECK(p->wait());
    CHECK(p->code == static_cast<int>(Errc::kNotSupported));
  }
  SECTION("quota") {
    o.allow_longterm = true;
    o.longterm_quota_bytes = 10 * kPage;
    Fixture f(o);
    auto c = f.client(100), other = f.client(200);
    Mapping* m = f.map(*c, 1, pages(0, 1024));
    Mapping* om = f.map(*other, 1, pages(0, 1024));
    const auto code = [&](FakeClient& client, Mapping* mapping, ByteRange range, u32 kind) {
      auto p = f.pin(mapping, client.ask(1, range, 1, ~u64{0}, kind));
      CHECK(p->wait());
      return static_cast<Errc>(p->code.load());
    };
    CHECK(code(*c, m, pages(0, 11), kLongterm) == Errc::kNoMemory);
    CHECK(code(*c, m, {1, 6 * kPage}, kLongterm) == Errc::kOk);
    const u32 first = c->header().high_water - 1;
    CHECK(code(*c, m, pages(20, 4), kLongterm | proto::kPinWrite) == Errc::kOk);
    CHECK(code(*c, m, pages(30, 1), kLongterm) == Errc::kNoMemory);
    CHECK(code(*c, m, pages(30, 1), 0) == Errc::kOk);            // other kinds are not counted
    CHECK(code(*other, om, pages(0, 10), kLongterm) == Errc::kOk);  // a quota each
    c->unpin(first);
    CHECK(code(*c, m, pages(30, 6), kLongterm) == Errc::kOk);
    CHECK(code(*c, m, pages(40, 1), kLongterm) == Errc::kNoMemory);
    // Many that come and go leave nothing behind.
    const u32 last = c->header().high_water - 2;
    c->unpin(last);
    for (int i = 0; i < 200; ++i) {
      REQUIRE(code(*c, m, pages(50, 6), kLongterm) == Errc::kOk);
      c->unpin(c->header().high_water - 1);
    }
  }
}

TEST_CASE("graph: [R37] a transferable pin counts for its client, so the thread that made it may wait for it (A6)") {
  Fixture f;
  auto c = f.client(100);
  f.map(*c, 1, pages(0, 16));
  auto r = f.request(pages(3, 1));
  r.requester = {100, 7, 0, "self"};
  const u32 plain = c->try_pin(1, pages(3, 1), 7);
  CHECK(f.change(r)->result() == Errc::kDeadlock);
  c->unpin(plain);
  const u32 slot = c->try_pin(1, pages(3, 1), 7, 0, proto::kPinTransferable);
  auto punch = f.change(r);
  REQUIRE(f.waiting(1));
  c->unpin(slot);  // by another thread
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("graph: the kernel's write-back waits for a SETATTR, and who waits for that write-back closes a cycle (A6, C6)") {
  WaitGraph graph;
  const auto kernel = graph.new_node(), setattr = graph.new_node(), punch = graph.new_node(), other = graph.new_node();
  const WaitGraph::Thread holder{100, 7}, truncater{1, 1};
  graph.add(kernel, setattr);
  REQUIRE(graph.sleep(setattr, truncater, {{holder}}, {}));
  // The holder of the pin asks for a punch that needs dirty pages written back: nobody would ever move.
  CHECK_FALSE(graph.sleep(punch, holder, {}, {kernel}));
  CHECK(graph.sleep(other, {100, 8}, {}, {kernel}));  // another thread may
  graph.remove(kernel, setattr);
  CHECK(graph.sleep(punch, holder, {}, {kernel}));
  // The other way round: the SETATTR comes last.
  graph.wake(setattr);
  graph.add(kernel, setattr);
  CHECK_FALSE(graph.sleep(setattr, truncater, {{holder}}, {}));
}

TEST_CASE("listing: a transient pin beyond the soft deadline is stuck, a long-term one never is") {
  LayoutOptions o = Fixture::quick();
  o.allow_longterm = true;
  Fixture f(o);
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  c->try_pin(1, pages(3, 1));   // the fake's pins began when the host booted
  const u32 young = c->try_pin(1, pages(4, 1));
  c->slot(young).since_ns = ~u64{0} >> 2;
  REQUIRE(f.pin(m, c->ask(1, pages(5, 1), 1, ~u64{0}, kLongterm))->wait());
  const auto stuck = f.clients().list_stuck_pins();
  REQUIRE(stuck.size() == 1);
  CHECK(stuck[0].range == pages(3, 1));
  CHECK(stuck[0].slot == 0);
  u64 marked = 0;
  for (const auto& row : f.clients().list_pins()) marked += row.stuck ? 1 : 0;
  CHECK(marked == 1);
  CHECK(f.clients().totals().pins == 3);
  f.clients().client_gone(*c);
  CHECK(f.clients().totals().pins == 3);  // what was, was
}

TEST_CASE("recall: a downgrade asks only for what may be stored to, and a later change takes the rest") {
  Fixture f;
  auto c = f.client(100);
  Mapping* m = f.map(*c, 1, pages(0, 16));
  CHECK(f.fault(m, pages(0, 2), 10, false) == Errc::kOk);
  CHECK(f.fault(m, pages(2, 2), 12, true) == Errc::kOk);
  CHECK(f.fault(m, pages(4, 1), 0) == Errc::kOk);
  auto r = f.request(pages(0, 8), "clone");
  r.downgrade = true;
  auto clone = f.change(r);
  CHECK(eventually([&] { return c->recalls() == 1; }));
  CHECK(c->sent().back().range == pages(2, 2));
  CHECK(c->sent().back().downgrade);
  CHECK(clone->applied == 0);
  auto punch = f.punch(pages(2, 1));  // does not take the downgrade's answer for its own
  f.settle();
  CHECK(c->acknowledge_next());
  CHECK(clone->result() == Errc::kOk);
  CHECK(eventually([&] { return c->recalls() == 2; }));
  CHECK(c->sent().back().range == pages(2, 1));
  CHECK_FALSE(c->sent().back().downgrade);
  CHECK(punch->applied == 0);
  CHECK(c->acknowledge_next());
  CHECK(punch->result() == Errc::kOk);
}

TEST_CASE("page cache: a fill does not wait for pins of those who have the page through the cache themselves (C5)") {
  Fixture f;
  auto c = f.client(100);
  f.clients().add_mapping(*f.inode, *c, 1, pages(0, 16), true, true);
  const u32 slot = c->try_pin(1, pages(3, 1));
  REQUIRE(slot != proto::kMaxSlots);
  CHECK(f.fill(pages(3, 1), true)->ended == 1);
  CHECK(f.clients().list_mappings().at(0).indirect);
  // A change does.
  auto punch = f.punch(pages(3, 1));
  REQUIRE(f.waiting(1));
  c->unpin(slot);
  CHECK(punch->result() == Errc::kOk);
}
