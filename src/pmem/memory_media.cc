// SPDX-License-Identifier: BSD-3-Clause
//
// A pool in anonymous memory, for tests: sparse, every store succeeds, nothing survives.
#include <sys/mman.h>

#include <cstring>

#include "pmem/media.h"
#include "pmem/pool_media.h"

namespace pindax {
namespace {

class MemoryMedia final : public Media {
 public:
  MemoryMedia(std::byte* base, u64 size, Granularity granularity)
      : base_(base), size_(size), granularity_(granularity) {}
  ~MemoryMedia() override { ::munmap(base_, size_); }
  MemoryMedia(const MemoryMedia&) = delete;
  MemoryMedia& operator=(const MemoryMedia&) = delete;

  u64 size() const override { return size_; }
  Granularity granularity() const override { return granularity_; }
  const std::byte* view(PoolOffset at, u64 length) const override {
    return inside(at, length) ? base_ + at.value : nullptr;
  }
  Status read(PoolOffset at, void* out, u64 length) const override {
    if (!inside(at, length)) return outside();
    std::memcpy(out, base_ + at.value, length);
    return {};
  }
  Status write(PoolOffset at, const void* data, u64 length) override {
    if (!inside(at, length)) return outside();
    std::memcpy(base_ + at.value, data, length);
    return {};
  }
  Status write_nt(PoolOffset at, const void* data, u64 length) override { return write(at, data, length); }
  Status zero(PoolOffset at, u64 length) override {
    if (!inside(at, length)) return outside();
    std::memset(base_ + at.value, 0, length);
    return {};
  }
  Status flush(PoolOffset at, u64 length) override { return inside(at, length) ? Status() : outside(); }
  Status drain() override { return {}; }
  Status punch(PoolOffset at, u64 length) override { return zero(at, length); }
  Status sync_all() override { return {}; }
  bool failed() const override { return false; }

 private:
  bool inside(PoolOffset at, u64 length) const { return at.value <= size_ && length <= size_ - at.value; }
  static Status outside() { return Status(Errc::kInvalid, "range outside the pool"); }

  std::byte* const base_;
  const u64 size_;
  const Granularity granularity_;
};

}  // namespace

std::unique_ptr<Media> make_memory_media(u64 size, Granularity granularity) {
  PINDAX_ASSERT(size != 0 && size % kBlockSize == 0);
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PINDAX_ASSERT(base != MAP_FAILED);
  return std::make_unique<MemoryMedia>(static_cast<std::byte*>(base), size, granularity);
}

}  // namespace pindax
