// SPDX-License-Identifier: BSD-3-Clause
//
// What each granularity is called and what it promises, in plain words; what media have in common.
#include "pmem/media.h"

namespace pindax {

const char* granularity_name(Granularity g) {
  switch (g) {
    case Granularity::kVolatile: return "volatile";
    case Granularity::kPage: return "page";
    case Granularity::kCacheLine: return "cache-line";
    case Granularity::kByte: return "byte";
  }
  return "unknown";
}

const char* granularity_promise(Granularity g) {
  switch (g) {
    case Granularity::kVolatile:
      return "The pool lives in memory: everything survives the daemon, nothing survives a restart of the host.";
    case Granularity::kPage:
      return "What was synced survives a crash of the host and, as far as its disk keeps its word, power loss; "
             "everything acknowledged survives the daemon.";
    case Granularity::kCacheLine:
      return "Every acknowledged change of metadata and all persisted data survive power loss.";
    case Granularity::kByte:
      return "Every acknowledged change of metadata and every store that has become visible survive power loss.";
  }
  return "unknown";
}

void Media::set_poison_listener(std::function<void(BlockNo)> listener) {
  MutexLock lock(listener_mutex_);
  poison_listener_ = std::move(listener);
}

void Media::report_poison(BlockNo block) const {
  std::function<void(BlockNo)> listener;
  {
    MutexLock lock(listener_mutex_);
    listener = poison_listener_;
  }
  if (listener) listener(block);
}

Status Media::flush_ranges(std::span<const ByteRange> ranges) {
  for (const ByteRange& r : ranges) PINDAX_TRY(flush(PoolOffset(r.begin), r.length()));
  return {};
}

}  // namespace pindax
