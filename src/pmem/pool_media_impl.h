// SPDX-License-Identifier: BSD-3-Clause
//
// Private to the room: PoolMedia over libpmem2. pool_open.cc finds, makes and locks the file; pool_media.cc maps it,
// stores into it and makes stores durable.
//
// The pool is mapped in segments of the size of an AG, each on first use, for good. A segment once mapped is found with one
// load. Before the size is known there is one window over the first 4 MiB.
#pragma once

#include <atomic>

#include <libpmem2.h>

#include "base/mutex.h"
#include "pmem/bus_guard.h"
#include "pmem/poison_injector.h"
#include "pmem/pool_media.h"

namespace pindax {

class PoolMediaImpl final : public PoolMedia {
 public:
  struct Identity {
    std::string path;
    struct stat stat {};
    PoolKind kind = PoolKind::kRegularFile;
    u64 size = 0;  // bytes
    bool read_only = false;
    bool sparse = false;
    bool huge_pages = false;  // tmpfs that gives out 2 MiB pages
  };
  PoolMediaImpl(UniqueFd fd, Identity identity) : fd_(std::move(fd)), identity_(std::move(identity)) {}
  ~PoolMediaImpl() override;
  // Maps the first window and learns the granularity.
  Status attach();

  u64 size() const override { return identity_.size; }
  Granularity granularity() const override { return granularity_; }
  const std::byte* view(PoolOffset at, u64 length) const override;
  Status probe(PoolOffset at, u64 length) const override;
  Status read(PoolOffset at, void* out, u64 length) const override;
  Status write(PoolOffset at, const void* data, u64 length) override;
  Status write_nt(PoolOffset at, const void* data, u64 length) override;
  Status zero(PoolOffset at, u64 length) override;
  Status flush(PoolOffset at, u64 length) override;
  Status drain() override;
  Status flush_ranges(std::span<const ByteRange> ranges) override;
  Status reserve(PoolOffset at, u64 length, u64 spare) override;
  bool gives_back() const override { return identity_.sparse && !identity_.read_only && identity_.kind != PoolKind::kDevdax; }
  Status punch(PoolOffset at, u64 length) override;
  Status sync_all() override;
  bool failed() const override { return failed_.load(std::memory_order_acquire); }
  void give_up() override { failed_.store(true, std::memory_order_release); }
  Status scrub(PoolOffset at, u64 length) const override;
  Result<std::vector<ByteRange>> bad_ranges() const override;

  PoolKind kind() const override { return identity_.kind; }
  const std::string& path() const override { return identity_.path; }
  int fd() const override { return fd_.get(); }
  const struct stat& identity() const override { return identity_.stat; }
  bool huge_pages() const override { return identity_.huge_pages; }
  void set_segment_size(u64 bytes) override;
  Result<bool> witness_held(u32 index) const override;
  Result<std::vector<u32>> witnesses_held() const override;

 private:
  struct Segment {
    pmem2_map* map = nullptr;
    std::byte* base = nullptr;
    u64 begin = 0;
    u64 length = 0;
    bool mapped_here = false;  // not by libpmem2
    ~Segment();
  };
  // The mapped segment that holds `at`; maps it if need be.
  Result<const Segment*> segment(u64 at) const EXCLUDES(map_mutex_);
  Result<std::unique_ptr<Segment>> map(u64 begin, u64 length) const REQUIRES(map_mutex_);
  Result<std::unique_ptr<Segment>> map_plain_file(u64 begin, u64 length) const;
  // Calls f(address, offset in the caller's bytes, length) for each piece that lies in one segment.
  template <class F>
  Status pieces(PoolOffset at, u64 length, F f) const;
  template <class F>
  Status store(PoolOffset at, u64 length, F f);
  // Runs f, which touches [from, from + length): [at, at + length) of the pool.
  template <class F>
  BusFault touching(u64 at, const std::byte* from, u64 length, F f) const;
  Status lost(const char* what);
  Status allocate(off_t offset, off_t bytes);  // of the host file
  bool is_gone(PoolOffset at, u64 length) const;  // after a punch: no page of the host's memory is left of it
  // What a fault at [from, from + length), which is [at, at + length) of the pool, comes to; reports bad blocks.
  Status unreadable(BusFault fault, u64 at, const std::byte* from, u64 length) const;

  const UniqueFd fd_;
  const Identity identity_;
  Granularity granularity_ = Granularity::kPage;
  pmem2_source* source_ = nullptr;
  std::unique_ptr<Segment> window_;
  pmem2_flush_fn flush_ = nullptr;
  pmem2_drain_fn drain_ = nullptr;
  pmem2_memcpy_fn memcpy_ = nullptr;
  u64 segment_bytes_ = 0;  // 0: only the window
  mutable std::vector<std::atomic<const Segment*>> segments_;
  mutable Mutex map_mutex_{LockRank::kPool};
  std::atomic<bool> failed_{false};
#if defined(PINDAX_STEPS)
  // Last: its thread ends before the mappings do.
  const std::unique_ptr<PoisonInjector> injector_ = PoisonInjector::from_environment();
#endif
};

}  // namespace pindax
