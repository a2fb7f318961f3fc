// SPDX-License-Identifier: BSD-3-Clause
//
// Bad blocks without bad hardware, for tests of a real daemon on a real mount. Only in builds with step points.
//
// PINDAX_POISON=FILE names a file of block numbers, one a line, that may grow at any time. A number alone: from now on a touch of
// that block by this process, or by the kernel on its behalf, is what a memory error is: SIGBUS, EFAULT or EHWPOISON
// (userfaultfd's poison over this process's own mappings; the pool itself is not harmed). A number behind a '+': the
// host's list of bad blocks has it. FILE.done says how many lines have been carried out. A thread looks at the file; nothing is
// done where the variable is not set.
#pragma once

#if defined(PINDAX_STEPS)

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace pindax {

class PoisonInjector {
 public:
  static std::unique_ptr<PoisonInjector> from_environment();  // null: nothing is asked for
  explicit PoisonInjector(std::string path);
  ~PoisonInjector() { stop(); }
  void stop();

  // A piece of the pool was mapped, for good.
  void mapped(std::byte* base, u64 begin, u64 length);
  std::vector<ByteRange> listed();
  // Whether some block of the range is poisoned: kernels without memory failure handling call it a lost page.
  bool covers(u64 at, u64 length);

 private:
  struct Piece {
    std::byte* base;
    u64 begin, length;
  };
  void run();
  void look();
  void poison(const Piece& piece, u64 block);

  const std::string path_;
  UniqueFd uffd_;
  Mutex mutex_{LockRank::kLeaf};
  std::vector<Piece> pieces_ GUARDED_BY(mutex_);
  std::set<u64> poisoned_ GUARDED_BY(mutex_), listed_ GUARDED_BY(mutex_);
  std::size_t lines_ GUARDED_BY(mutex_) = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace pindax

#endif
