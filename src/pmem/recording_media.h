// SPDX-License-Identifier: BSD-3-Clause
//
// A pool in memory that writes down every store, flush and fence, for crash tests: from the log of events, a test makes every
// image that the media may hold after a crash.
//
// The pool begins as a copy of an image that the caller owns. Changed pages are remembered, so that going back to the
// image costs what was changed, not the size of the pool.
//
// Thread-safe as every Media; events are logged in the order in which they happened. The calls of the class itself (load,
// revert, record, poke) are for one thread while nobody uses the media.
#pragma once

#include <functional>
#include <vector>

#include "base/mutex.h"
#include "pmem/media.h"

namespace pindax {

struct MediaEvent {
  enum class Kind : u8 {
    kStore,
    kStoreNt,  // past the cache: reaches the media in any order until the next fence
    kFlush,    // at page granularity durable when it returns
    kFence,
    kSyncAll,  // everything stored so far is durable
    kMark,     // of the test: `at` is its number
  };
  Kind kind = Kind::kStore;
  u64 at = 0;      // bytes in the pool
  u64 length = 0;  // bytes
  u64 data = 0;    // stores: where the bytes lie in MediaLog::bytes
};

struct MediaLog {
  std::vector<MediaEvent> events;
  std::vector<std::byte> bytes;
  const std::byte* stored(const MediaEvent& e) const { return bytes.data() + e.data; }
  void clear() {
    events.clear();
    bytes.clear();
  }
};

class RecordingMedia final : public Media {
 public:
  // All zeros, not recording.
  RecordingMedia(u64 size, Granularity granularity);
  ~RecordingMedia() override;
  RecordingMedia(const RecordingMedia&) = delete;
  RecordingMedia& operator=(const RecordingMedia&) = delete;

  // Becomes a copy of `image` (size() bytes), which must stay where it is while revert() is used.
  void load(const std::byte* image);
  // Takes the image's bytes back wherever the two may differ: stores and poke() say where.
  void revert();
  // Bytes appear without an event; for images put together by a test.
  void poke(u64 at, const void* data, u64 length);
  const std::byte* bytes() const { return base_; }

  // Appends events to `log` from now on; null ends that. The caller keeps the log.
  void record(MediaLog* log);
  void mark(u64 number);
  // Stores vanish and nothing is logged, as for a process that was killed.
  void set_dead(bool dead);
  // Sees each event instead of the log and passes on what shall be logged: nothing, or others before or after it. The
  // bytes in memory change all the same. A store's bytes are in the log already; data says where.
  using Emit = std::function<void(const MediaEvent&)>;
  using Filter = std::function<void(const MediaEvent&, const Emit&)>;
  void set_filter(Filter filter);

  u64 size() const override { return size_; }
  Granularity granularity() const override { return granularity_; }
  const std::byte* view(PoolOffset at, u64 length) const override;
  Status read(PoolOffset at, void* out, u64 length) const override;
  Status write(PoolOffset at, const void* data, u64 length) override;
  Status write_nt(PoolOffset at, const void* data, u64 length) override;
  Status zero(PoolOffset at, u64 length) override;
  Status flush(PoolOffset at, u64 length) override;
  Status drain() override;
  // The zeros reach the media some time later, as after a punch of the host file.
  Status punch(PoolOffset at, u64 length) override;
  Status sync_all() override;
  bool failed() const override { return false; }

 private:
  bool inside(PoolOffset at, u64 length) const { return at.value <= size_ && length <= size_ - at.value; }
  // Null data: zeros.
  Status store(MediaEvent::Kind kind, PoolOffset at, const void* data, u64 length);
  void touch(u64 at, u64 length) REQUIRES(mutex_);
  void log_event(const MediaEvent& e) REQUIRES(mutex_);

  const u64 size_;
  const Granularity granularity_;
  std::byte* base_ = nullptr;
  const std::byte* image_ = nullptr;

  Mutex mutex_{LockRank::kLeaf};
  MediaLog* log_ GUARDED_BY(mutex_) = nullptr;
  Filter filter_ GUARDED_BY(mutex_);
  bool dead_ GUARDED_BY(mutex_) = false;
  std::vector<u64> touched_ GUARDED_BY(mutex_);    // pages
  std::vector<bool> is_touched_ GUARDED_BY(mutex_);  // one a page
};

}  // namespace pindax
