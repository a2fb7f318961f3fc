// SPDX-License-Identifier: BSD-3-Clause
//
// Media in memory with bad blocks: whoever touches one gets kPoisoned, and the listener hears of it, as PoolMedia does.
#pragma once

#include <memory>
#include <mutex>
#include <set>

#include "pmem/pool_media.h"

namespace pindax::test {

class PoisonedMedia final : public Media {
 public:
  explicit PoisonedMedia(u64 size, Granularity g = Granularity::kCacheLine) : inner_(make_memory_media(size, g)) {}

  void poison(BlockNo block) {
    std::lock_guard lock(mutex_);
    bad_.insert(block.value);
  }
  // The host's own list says so as well.
  void list(BlockNo block) {
    std::lock_guard lock(mutex_);
    listed_.insert(block.value);
  }
  u64 touches() const { return touches_; }  // of bad blocks

  u64 size() const override { return inner_->size(); }
  Granularity granularity() const override { return inner_->granularity(); }
  const std::byte* view(PoolOffset at, u64 length) const override { return inner_->view(at, length); }
  Status probe(PoolOffset at, u64 length) const override { return touch(at, length); }
  Status read(PoolOffset at, void* out, u64 length) const override {
    PINDAX_TRY(touch(at, length));
    return inner_->read(at, out, length);
  }
  Status write(PoolOffset at, const void* data, u64 length) override {
    PINDAX_TRY(touch(at, length));
    return inner_->write(at, data, length);
  }
  Status write_nt(PoolOffset at, const void* data, u64 length) override {
    PINDAX_TRY(touch(at, length));
    return inner_->write_nt(at, data, length);
  }
  Status zero(PoolOffset at, u64 length) override {
    PINDAX_TRY(touch(at, length));
    return inner_->zero(at, length);
  }
  Status flush(PoolOffset at, u64 length) override { return inner_->flush(at, length); }
  Status drain() override { return inner_->drain(); }
  Status punch(PoolOffset at, u64 length) override { return inner_->punch(at, length); }
  Status sync_all() override { return inner_->sync_all(); }
  bool failed() const override { return false; }
  Result<std::vector<ByteRange>> bad_ranges() const override {
    std::lock_guard lock(mutex_);
    std::vector<ByteRange> all;
    for (const u64 b : listed_) all.push_back({b << kBlockShift, (b + 1) << kBlockShift});
    return all;
  }

 private:
  Status touch(PoolOffset at, u64 length) const {
    std::set<u64> met;
    {
      std::lock_guard lock(mutex_);
      for (auto it = bad_.lower_bound(at.value >> kBlockShift); it != bad_.end() && *it << kBlockShift < at.value + length; ++it) met.insert(*it);
    }
    for (const u64 b : met) {
      ++touches_;
      report_poison(BlockNo(b));
    }
    return met.empty() ? Status() : Status(Errc::kPoisoned, "bad block under the pool");
  }

  std::unique_ptr<Media> inner_;
  mutable std::mutex mutex_;
  std::set<u64> bad_, listed_;
  mutable std::atomic<u64> touches_{0};
};

}  // namespace pindax::test
