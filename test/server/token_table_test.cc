// SPDX-License-Identifier: BSD-3-Clause
#include "catch.h"
#include "server/token_table.h"

using namespace pindax;

namespace {
TokenTable::Grant grant_for(u32 pid) { return {.inode = nullptr, .access = 2, .pid = pid}; }
}  // namespace

TEST_CASE("server: a token is good for one use by the process that asked for it") {
  TokenTable table;
  const Token token = table.issue(grant_for(7)).value();
  auto used = table.redeem(token, 7);
  REQUIRE(used.ok());
  CHECK(used->access == 2);
  CHECK(table.redeem(token, 7).code() == Errc::kAccess);
}

TEST_CASE("server: a token that another process tries is lost for both") {
  TokenTable table;
  const Token token = table.issue(grant_for(7)).value();
  CHECK(table.redeem(token, 8).code() == Errc::kAccess);
  CHECK(table.redeem(token, 7).code() == Errc::kAccess);
}

TEST_CASE("server: a token ends after ten seconds") {
  TokenTable table;
  const auto start = TokenTable::Clock::now();
  const Token early = table.issue(grant_for(7), start).value();
  const Token late = table.issue(grant_for(7), start).value();
  CHECK(table.redeem(early, 7, start + kTokenLifetime - std::chrono::milliseconds(1)).ok());
  CHECK(table.redeem(late, 7, start + kTokenLifetime).code() == Errc::kAccess);
  REQUIRE(table.issue(grant_for(7), start).ok());
  table.expire(start + kTokenLifetime);
  CHECK(table.size() == 0);
}

TEST_CASE("server: tokens of one process are bounded, the oldest goes first") {
  TokenTable table;
  const Token first = table.issue(grant_for(7)).value();
  for (std::size_t i = 0; i < kMaxTokensPerProcess; ++i) REQUIRE(table.issue(grant_for(7)).ok());
  CHECK(table.size() == kMaxTokensPerProcess);
  CHECK(table.redeem(first, 7).code() == Errc::kAccess);
}

TEST_CASE("server: a process of a foreign pid namespace gets no token") {
  TokenTable table;
  CHECK(table.issue(grant_for(0)).code() == Errc::kInvalid);
}
