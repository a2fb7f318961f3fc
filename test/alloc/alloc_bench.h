// SPDX-License-Identifier: BSD-3-Clause
//
// A formatted pool in memory with journal and allocator, for this room's tests; and a Media that counts and fails punches, and whose
// host may have less space than the pool.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdlib>
#include <random>

#include <set>
#include <vector>

#include "alloc/allocator.h"
#include "catch.h"
#include "pmem/pool_media.h"

namespace pindax::test {

inline u64 seed() {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 value = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  UNSCOPED_INFO("PINDAX_SEED=" << value);
  return value;
}

class PunchMedia final : public Media {
 public:
  explicit PunchMedia(u64 size, Granularity g) : inner_(make_memory_media(size, g)) {}
  u64 size() const override { return inner_->size(); }
  Granularity granularity() const override { return inner_->granularity(); }
  const std::byte* view(PoolOffset at, u64 length) const override { return inner_->view(at, length); }
  Status read(PoolOffset at, void* out, u64 length) const override { return inner_->read(at, out, length); }
  Status write(PoolOffset at, const void* data, u64 length) override { return inner_->write(at, data, length); }
  Status write_nt(PoolOffset at, const void* data, u64 length) override { return inner_->write_nt(at, data, length); }
  Status zero(PoolOffset at, u64 length) override { return inner_->zero(at, length); }
  Status flush(PoolOffset at, u64 length) override { return inner_->flush(at, length); }
  Status drain() override { return inner_->drain(); }
  Status punch(PoolOffset at, u64 length) override {
    if (before_punch) before_punch();
    if (fail_punches) return Status(Errc::kIo, "no punch today");
    if (hold_punches) {
      held = true;
      (void)::poll(nullptr, 0, -1);
      return Status(Errc::kInterrupted, "the kernel uses the pages");
    }
    punched_bytes += length;
    for (u64 i = 0; i < length / kBlockSize; ++i) reserved_.erase(at.value / kBlockSize + i);
    return inner_->zero(at, length);
  }
  Status reserve(PoolOffset at, u64 length, u64 spare) override {
    if (host_blocks == 0) return {};
    std::set<u64> after = reserved_;
    for (u64 i = 0; i < length / kBlockSize; ++i) after.insert(at.value / kBlockSize + i);
    if (after.size() > host_blocks - spare / kBlockSize) return Status(Errc::kNoSpace, "the host is full");
    reserved_ = std::move(after);
    return {};
  }
  bool gives_back() const override { return host_blocks != 0; }
  u64 reserved() const { return reserved_.size(); }
  Status sync_all() override { return inner_->sync_all(); }
  bool failed() const override { return inner_->failed(); }

  std::atomic<bool> fail_punches{false};
  std::atomic<bool> hold_punches{false};  // as the kernel does on fsdax: until a signal comes
  std::atomic<bool> held{false};
  std::atomic<u64> punched_bytes{0};
  u64 host_blocks = 0;                 // what a sparse pool may have of its host; 0: it is not sparse
  std::function<void()> before_punch;  // set while nothing is punched

 private:
  std::unique_ptr<Media> inner_;
  std::set<u64> reserved_;  // blocks; the allocator's calls and its thread take turns here
};

struct AllocBench {
  PunchMedia media;
  format::Geometry geometry;
  SyncMode mode;
  std::unique_ptr<MetaStore> store;
  std::unique_ptr<Allocator> alloc;

  explicit AllocBench(u64 bytes = 64u << 20, SyncMode sync = SyncMode::kStrict)
      : media(bytes, sync == SyncMode::kStrict ? Granularity::kCacheLine : Granularity::kPage),
        geometry(format::plan_geometry(bytes).value()),
        mode(sync) {
    REQUIRE(MetaStore::format_journal(media, geometry).ok());
    REQUIRE(format_allocation(media, geometry).ok());
    reopen();
  }
  void reopen() {
    alloc.reset();
    store.reset();
    auto s = MetaStore::open(media, geometry, mode);
    REQUIRE(s.ok());
    store = std::move(*s);
    auto a = Allocator::open(*store);
    REQUIRE(a.ok());
    alloc = std::move(*a);
  }
  // Allocates and commits.
  BlockRun take(const AllocateRequest& request) {
    Transaction tx(*store);
    auto run = alloc->allocate(tx, request);
    INFO(run.status().message());
    REQUIRE(run.ok());
    REQUIRE(tx.commit().ok());
    return *run;
  }
  BlockRun take(u64 wanted) { return take(AllocateRequest{.wanted = wanted}); }
  // Takes every block that is left, the reserve too.
  void fill(std::vector<BlockRun>& runs) {
    while (alloc->summary().free_blocks != 0) runs.push_back(take({.wanted = 1000, .use = BlockUse::kMetadata}));
  }
  void give(BlockRun run, bool mapped = false) {
    Transaction tx(*store);
    alloc->free(tx, run, mapped);
    REQUIRE(tx.commit().ok());
  }
  u64 free_in_groups() {
    u64 sum = 0;
    for (u32 ag = 0; ag < geometry.ag_count; ++ag) {
      const auto runs = alloc->free_runs(ag);
      REQUIRE(runs.ok());
      for (const BlockRun& r : *runs) sum += r.length;
    }
    return sum;
  }
};

}  // namespace pindax::test
