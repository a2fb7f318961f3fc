// SPDX-License-Identifier: BSD-3-Clause
//
// Media in memory that fails as a host's disk does: the nth call that makes something durable, or the nth store, is refused
// with kIo, and the media counts as failed from then on, as PoolMedia does.
#pragma once

#include <atomic>
#include <memory>

#include "pmem/pool_media.h"

namespace pindax::test {

class FaultyMedia final : public Media {
 public:
  enum class Fails { kNothing, kSync, kStore };
  FaultyMedia(u64 size, Granularity g) : inner_(make_memory_media(size, g)) {}
  // From now on the nth call (counted from 1) fails, and all later ones.
  void arm(Fails what, u64 nth) { what_ = what, left_ = static_cast<i64>(nth); }
  // The host is well again: what the next mount finds.
  void heal() { what_ = Fails::kNothing, failed_ = false; }

  u64 size() const override { return inner_->size(); }
  Granularity granularity() const override { return inner_->granularity(); }
  const std::byte* view(PoolOffset at, u64 length) const override { return inner_->view(at, length); }
  Status read(PoolOffset at, void* out, u64 length) const override { return inner_->read(at, out, length); }
  Status write(PoolOffset at, const void* data, u64 length) override {
    return may(Fails::kStore) ? inner_->write(at, data, length) : lost();
  }
  Status write_nt(PoolOffset at, const void* data, u64 length) override {
    return may(Fails::kStore) ? inner_->write_nt(at, data, length) : lost();
  }
  Status zero(PoolOffset at, u64 length) override { return may(Fails::kStore) ? inner_->zero(at, length) : lost(); }
  Status flush(PoolOffset at, u64 length) override { return may(Fails::kSync) ? inner_->flush(at, length) : lost(); }
  Status drain() override { return inner_->drain(); }
  Status punch(PoolOffset at, u64 length) override { return inner_->punch(at, length); }
  Status sync_all() override { return may(Fails::kSync) ? inner_->sync_all() : lost(); }
  bool failed() const override { return failed_; }

 private:
  bool may(Fails what) { return what_ != what || --left_ > 0; }
  Status lost() {
    failed_ = true;
    return Status(Errc::kIo, "the host could not do it");
  }

  std::unique_ptr<Media> inner_;
  std::atomic<Fails> what_{Fails::kNothing};
  std::atomic<i64> left_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace pindax::test
