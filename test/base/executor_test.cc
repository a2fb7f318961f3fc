// SPDX-License-Identifier: BSD-3-Clause
#include "base/executor.h"

#include <atomic>

#include "catch.h"

using namespace pindax;

TEST_CASE("executor: every posted task runs before drain returns") {
  Executor ex(2);
  std::atomic<int> ran{0};
  for (int i = 0; i < 1000; ++i) ex.post([&] { ran.fetch_add(1); });
  ex.drain();
  CHECK(ran == 1000);
}

TEST_CASE("executor: a cancelled timer never runs, another does") {
  Executor ex(1);
  std::atomic<int> ran{0};
  std::atomic<bool> second{false};
  auto soon = Executor::Clock::now() + std::chrono::milliseconds(20);
  auto id = ex.post_at(soon, [&] { ran.fetch_add(1); });
  ex.post_at(soon, [&] { second = true; });
  CHECK(ex.cancel(id));
  CHECK_FALSE(ex.cancel(id));
  while (!second) std::this_thread::yield();
  CHECK(ran == 0);
}
