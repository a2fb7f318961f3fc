// SPDX-License-Identifier: BSD-3-Clause
//
// Tokens: how a process proves to the daemon that it holds a descriptor of the mount.
//
// The fuse room issues one per ioctl (proto/mount_ioctl.h); the client sends it in a message, where it names the file.
//
// Invariants
//  1. A token is 128 random bits, good for one use and for ten seconds, by the process that asked for it.
//  2. Redeeming a token removes it, also when the wrong process tried: a guess is not worth a second one.
//  3. A process holds at most kMaxTokensPerProcess; the oldest goes first.
// Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <map>

#include "base/mutex.h"
#include "base/result.h"
#include "fs/inode.h"
#include "proto/messages.h"

namespace pindax {

inline constexpr std::chrono::seconds kTokenLifetime{10};
inline constexpr std::size_t kMaxTokensPerProcess = 1024;

using Token = std::array<u8, proto::kTokenBytes>;

class TokenTable {
 public:
  using Clock = std::chrono::steady_clock;
  struct Grant {
    InodeRef inode;
    int access = 0;  // O_ACCMODE bits recorded at open
    u32 pid = 0;     // process (not thread)
  };

  // A new token for this inode, access mode and process. kInvalid for pid 0: that process lives in a foreign pid
  // namespace and cannot be told from others. kIo if the host has no random bytes.
  Result<Token> issue(Grant grant, Clock::time_point now = Clock::now()) EXCLUDES(mutex_);
  // What the token stands for. kAccess if it is unknown, used, too old, or another process's.
  Result<Grant> redeem(const Token& token, u32 pid, Clock::time_point now = Clock::now()) EXCLUDES(mutex_);
  // Drops what is too old; called now and then so that an unused token does not keep its inode in memory.
  void expire(Clock::time_point now = Clock::now()) EXCLUDES(mutex_);
  std::size_t size() const EXCLUDES(mutex_);

 private:
  struct Entry {
    Grant grant;
    Clock::time_point until;
  };

  mutable Mutex mutex_{LockRank::kLeaf};
  std::map<Token, Entry> tokens_ GUARDED_BY(mutex_);
  std::multimap<u32, Token> by_process_ GUARDED_BY(mutex_);  // in order of issue for each process
};

}  // namespace pindax
