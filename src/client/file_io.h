// SPDX-License-Identifier: BSD-3-Clause
//
// What pindax_pread and pindax_pwrite know about a descriptor that pindax_open made: a mapping of the file, made at the first use
// and made anew, larger, when the file outgrows it. Old ones stay until the descriptor is closed, since other threads may be
// inside them. Descriptors are looked up without a lock.
#pragma once

#include <pindax/pindax.h>

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"

namespace pindax::client {

class FileIo {
 public:
  explicit FileIo(int flags) : flags_(flags) {}

  // A direct mapping that covers [0, end), or null: not to be had, or `end` is not worth it.
  pindax_mapping* covering(pindax_client& c, int fd, u64 end);
  bool readable() const;
  bool writable() const;
  // Ends the mappings; nobody uses the descriptor any more.
  void close();

 private:
  pindax_mapping* grow(pindax_client& c, int fd, u64 end) EXCLUDES(mutex_);

  const int flags_;  // of open(2)
  std::atomic<pindax_mapping*> mapping_{nullptr};
  std::atomic<bool> refused_{false};
  Mutex mutex_{LockRank::kDaemon};  // held over a map request: outermost
  std::vector<pindax_mapping*> all_ GUARDED_BY(mutex_);
};

class FileTable {
 public:
  ~FileTable();
  FileIo* find(int fd) const {
    if (static_cast<u32>(fd) >= kRows * kColumns) [[unlikely]] return nullptr;
    const Row* row = rows_[static_cast<u32>(fd) / kColumns].load(std::memory_order_acquire);
    return row == nullptr ? nullptr : (*row)[static_cast<u32>(fd) % kColumns].load(std::memory_order_acquire);
  }
  // Nothing if memory is short: such a descriptor is served by system calls.
  void add(int fd, int flags) EXCLUDES(mutex_);
  std::unique_ptr<FileIo> take(int fd) EXCLUDES(mutex_);

 private:
  static constexpr u32 kRows = 1024, kColumns = 1024;  // a million descriptors; those beyond are served by system calls
  using Row = std::array<std::atomic<FileIo*>, kColumns>;
  Mutex mutex_{LockRank::kLeaf};
  std::array<std::atomic<Row*>, kRows> rows_{};
};

}  // namespace pindax::client
