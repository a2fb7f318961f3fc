// SPDX-License-Identifier: BSD-3-Clause
#include "server/token_table.h"

#include <sys/random.h>

#include <algorithm>
#include <vector>

namespace pindax {

Result<Token> TokenTable::issue(Grant grant, Clock::time_point now) {
  if (grant.pid == 0)
    return Status(Errc::kInvalid, "the caller's process is in a foreign pid namespace: use the mount itself");
  Token token;
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
    return Status(Errc::kIo, "getrandom gave no bytes for a token");
  Grant dropped;  // an InodeRef may take other locks when it goes: outside ours
  MutexLock lock(mutex_);
  auto [first, last] = by_process_.equal_range(grant.pid);
  if (static_cast<std::size_t>(std::distance(first, last)) >= kMaxTokensPerProcess) {
    auto oldest = tokens_.find(first->second);
    PINDAX_ASSERT(oldest != tokens_.end());
    dropped = std::move(oldest->second.grant);
    tokens_.erase(oldest);
    by_process_.erase(first);
  }
  by_process_.emplace(grant.pid, token);
  tokens_.emplace(token, Entry{std::move(grant), now + kTokenLifetime});
  return token;
}

Result<TokenTable::Grant> TokenTable::redeem(const Token& token, u32 pid, Clock::time_point now) {
  Entry entry;
  {
    MutexLock lock(mutex_);
    auto it = tokens_.find(token);
    if (it == tokens_.end()) return Status(Errc::kAccess, "unknown or used token: ask the mount for a new one");
    entry = std::move(it->second);
    auto [first, last] = by_process_.equal_range(entry.grant.pid);
    auto mine = std::find_if(first, last, [&](const auto& e) { return e.second == token; });
    PINDAX_ASSERT(mine != last);
    by_process_.erase(mine);
    tokens_.erase(it);
  }
  if (entry.grant.pid != pid) return Status(Errc::kAccess, "the token belongs to another process");
  if (entry.until <= now) return Status(Errc::kAccess, "the token is too old: ask the mount for a new one");
  return std::move(entry.grant);
}

void TokenTable::expire(Clock::time_point now) {
  std::vector<Grant> dropped;
  MutexLock lock(mutex_);
  for (auto it = by_process_.begin(); it != by_process_.end();) {
    auto entry = tokens_.find(it->second);
    PINDAX_ASSERT(entry != tokens_.end());
    if (entry->second.until > now) {
      ++it;
      continue;
    }
    dropped.push_back(std::move(entry->second.grant));
    tokens_.erase(entry);
    it = by_process_.erase(it);
  }
}

std::size_t TokenTable::size() const {
  MutexLock lock(mutex_);
  return tokens_.size();
}

}  // namespace pindax
