// SPDX-License-Identifier: BSD-3-Clause
#include "layout/range_lock.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>

#include "catch.h"

using namespace pindax;
using Mode = RangeLock::Mode;

namespace {

struct Fixture {
  std::vector<int> order;  // written by the one executor thread, read after drain(); outlives it
  Executor executor{1};
  RangeLock lock{executor};

  bool take(RangeLock::Request& r, ByteRange range, Mode mode, int name = 0) {
    return lock.acquire(r, range, mode, [this, name] { order.push_back(name); });
  }
};

}  // namespace

TEST_CASE("range lock: shared holders overlap, an exclusive one waits for all of them") {
  Fixture f;
  RangeLock::Request a, b, c;
  CHECK(f.take(a, {0, 10}, Mode::kShared));
  CHECK(f.take(b, {5, 20}, Mode::kShared));
  CHECK_FALSE(f.take(c, {8, 30}, Mode::kExclusive, 3));
  f.lock.release(a);
  f.executor.drain();
  CHECK(f.order.empty());
  f.lock.release(b);
  f.executor.drain();
  CHECK(f.order == std::vector<int>{3});
  CHECK(f.lock.held(c));
  f.lock.release(c);
}

TEST_CASE("range lock: new shared holders queue behind a queued writer (B1)") {
  Fixture f;
  RangeLock::Request reader, writer, late, elsewhere;
  CHECK(f.take(reader, {0, 100}, Mode::kShared));
  CHECK_FALSE(f.take(writer, {50, 60}, Mode::kExclusive, 1));
  CHECK_FALSE(f.take(late, {0, 100}, Mode::kShared, 2));
  CHECK(f.take(elsewhere, {60, 100}, Mode::kShared));
  f.lock.release(elsewhere);
  f.lock.release(reader);
  f.executor.drain();
  CHECK(f.order == std::vector<int>{1});
  f.lock.release(writer);
  f.executor.drain();
  CHECK(f.order == std::vector<int>{1, 2});
  f.lock.release(late);
}

TEST_CASE("range lock: a cancelled request lets those behind it pass and never runs") {
  Fixture f;
  RangeLock::Request reader, writer, late;
  CHECK(f.take(reader, {0, 100}, Mode::kShared));
  CHECK_FALSE(f.take(writer, {0, 100}, Mode::kExclusive, 1));
  CHECK_FALSE(f.take(late, {0, 100}, Mode::kShared, 2));
  CHECK(f.lock.queued() == 2);
  CHECK(f.lock.cancel(writer));
  CHECK_FALSE(f.lock.cancel(writer));
  f.executor.drain();
  CHECK(f.order == std::vector<int>{2});
  CHECK_FALSE(f.lock.cancel(late));
  f.lock.release(late);
  f.lock.release(reader);
}

TEST_CASE("range lock: touching ranges and empty ranges do not meet, the end of everything does") {
  Fixture f;
  RangeLock::Request a, b, empty, end;
  CHECK(f.take(a, {0, 4096}, Mode::kExclusive));
  CHECK(f.take(b, {4096, kMaxOffset}, Mode::kExclusive));
  CHECK(f.take(empty, {0, 0}, Mode::kExclusive));
  CHECK_FALSE(f.take(end, {kMaxOffset - 1, kMaxOffset}, Mode::kShared));
  f.lock.release(b);
  f.executor.drain();
  CHECK(f.lock.held(end));
  f.lock.release(end);
  f.lock.release(empty);
  f.lock.release(a);
}

TEST_CASE("range lock: a random schedule never grants a conflict and serves everybody") {
  const char* given = std::getenv("PINDAX_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : 1;
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  Fixture f;
  std::deque<std::unique_ptr<RangeLock::Request>> all;
  std::size_t cancelled = 0;
  for (int step = 0; step < 4000; ++step) {
    const auto what = random() % 4;
    if (what < 2 && all.size() < 40) {
      const u64 begin = random() % 32;
      const ByteRange range{begin, begin + random() % 8};
      all.push_back(std::make_unique<RangeLock::Request>());
      f.take(*all.back(), range, random() % 3 == 0 ? Mode::kExclusive : Mode::kShared);
    } else if (!all.empty()) {
      const auto i = static_cast<std::ptrdiff_t>(random() % all.size());
      auto& r = *all[static_cast<std::size_t>(i)];
      if (f.lock.held(r)) f.lock.release(r);
      else if (random() % 4 == 0 && f.lock.cancel(r)) ++cancelled;
      else continue;
      all.erase(all.begin() + i);
    }
    // The oracle: a request is held exactly if no earlier one conflicts.
    for (std::size_t i = 0; i < all.size(); ++i) {
      bool blocked = false;
      for (std::size_t k = 0; k < i; ++k) {
        const bool shared = all[i]->mode() == Mode::kShared && all[k]->mode() == Mode::kShared;
        const bool empty = all[i]->range().empty() || all[k]->range().empty();
        blocked = blocked || (!shared && !empty && all[i]->range().overlaps(all[k]->range()));
      }
      REQUIRE(f.lock.held(*all[i]) == !blocked);
    }
  }
  CHECK(cancelled > 0);
  f.executor.drain();
  while (!all.empty()) {
    REQUIRE(f.lock.held(*all.front()));
    f.lock.release(*all.front());
    all.pop_front();
  }
}
