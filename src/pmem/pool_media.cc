// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/pool_media.h"

#include <fcntl.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fmt/format.h"

#include "base/addresses.h"
#include "base/fail_points.h"
#include "pmem/pool_locks.h"
#include "pmem/pool_media_impl.h"

namespace pindax {
namespace {

constexpr u64 kFirstWindowBytes = u64{4} << 20;

void touch(const std::byte* at, u64 length) {
  for (u64 i = 0; i < length; i += kCacheLineSize) (void)*static_cast<const volatile std::byte*>(at + i);
  (void)*static_cast<const volatile std::byte*>(at + length - 1);
}

Status pmem2_error(const char* what) {
  return Status(Errc::kIo, fmt::format("{}: {}", what, pmem2_errormsg()));
}

// What libpmem2 would make of a file that is not DAX.
pmem2_granularity granularity_of_a_file() {
  const char* forced = std::getenv("PMEM2_FORCE_GRANULARITY");
  if (forced != nullptr && ::strcasecmp(forced, "BYTE") == 0) return PMEM2_GRANULARITY_BYTE;
  if (forced != nullptr && ::strcasecmp(forced, "CACHE_LINE") == 0) return PMEM2_GRANULARITY_CACHE_LINE;
  return PMEM2_GRANULARITY_PAGE;
}

// Maps [begin, begin + length) of a file where no other thread maps anything, 2 MiB-aligned. Null: errno says why. A reservation
// for which mmap failed may be gone already: it is left alone.
std::byte* map_file(int fd, u64 begin, u64 length, bool writable) {
  const u64 at = reserve_addresses(length);
  if (at == 0) return nullptr;
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* base = ::mmap(reinterpret_cast<void*>(at), length, protection, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(begin));
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

}  // namespace

PoolMediaImpl::Segment::~Segment() {
  if (map != nullptr) pmem2_map_delete(&map);
  if (mapped_here) ::munmap(base, length);
}

PoolMediaImpl::~PoolMediaImpl() {
#if defined(PINDAX_STEPS)
  if (injector_) injector_->stop();
#endif
  for (auto& segment : segments_) delete segment.load();
  window_.reset();
  if (source_ != nullptr) pmem2_source_delete(&source_);
}

// pmem2_map_new() asks for MAP_SYNC first, with MAP_FIXED over addresses that it has reserved, and without MAP_SYNC afterwards. ext4 and
// xfs refuse MAP_SYNC so late that the reservation is gone by then: what another thread has mapped there meanwhile, a
// stack or a part of the heap, would be mapped over. So files that are not DAX are mapped here.
Result<std::unique_ptr<PoolMediaImpl::Segment>> PoolMediaImpl::map_plain_file(u64 begin, u64 length) const {
  auto out = std::make_unique<Segment>();
  out->begin = begin;
  out->length = round_up(length, kBlockSize);
  out->base = map_file(fd_.get(), begin, out->length, !identity_.read_only);
  if (out->base == nullptr) return Status(Errc::kIo, fmt::format("cannot map the pool: {}", std::strerror(errno)));
  out->mapped_here = true;
  out->length = length;
  if (pmem2_map_from_existing(&out->map, source_, out->base, length, granularity_of_a_file()) != 0) {
    out->map = nullptr;
    return pmem2_error("cannot map the pool");
  }
  return out;
}

Result<std::unique_ptr<PoolMediaImpl::Segment>> PoolMediaImpl::map(u64 begin, u64 length) const {
  if (identity_.kind == PoolKind::kRegularFile) return map_plain_file(begin, length);
  pmem2_config* raw = nullptr;
  if (pmem2_config_new(&raw) != 0) return pmem2_error("cannot map the pool");
  struct Delete {
    void operator()(pmem2_config* c) const { pmem2_config_delete(&c); }
  };
  const std::unique_ptr<pmem2_config, Delete> config(raw);
  const unsigned protection = PMEM2_PROT_READ | (identity_.read_only ? 0 : PMEM2_PROT_WRITE);
  auto out = std::make_unique<Segment>();
  if (pmem2_config_set_required_store_granularity(raw, PMEM2_GRANULARITY_PAGE) != 0 ||
      pmem2_config_set_offset(raw, begin) != 0 || pmem2_config_set_length(raw, length) != 0 ||
      pmem2_config_set_protection(raw, protection) != 0 || pmem2_map_new(&out->map, raw, source_) != 0)
    return pmem2_error("cannot map the pool");
  out->base = static_cast<std::byte*>(pmem2_map_get_address(out->map));
  out->begin = begin;
  out->length = length;
#if defined(PINDAX_STEPS)
  if (injector_) injector_->mapped(out->base, begin, length);
#endif
  return out;
}

Status PoolMediaImpl::attach() {
  bus_guard::install();
  if (pmem2_source_from_fd(&source_, fd_.get()) != 0) return pmem2_error("cannot use the pool");
  MutexLock lock(map_mutex_);
  PINDAX_ASSIGN(window_, map(0, std::min(kFirstWindowBytes, size())));
  flush_ = pmem2_get_flush_fn(window_->map);
  drain_ = pmem2_get_drain_fn(window_->map);
  memcpy_ = pmem2_get_memcpy_fn(window_->map);
  switch (pmem2_map_get_store_granularity(window_->map)) {
    case PMEM2_GRANULARITY_BYTE: granularity_ = Granularity::kByte; break;
    case PMEM2_GRANULARITY_CACHE_LINE: granularity_ = Granularity::kCacheLine; break;
    case PMEM2_GRANULARITY_PAGE:
      // A forced granularity is believed: tests of page granularity run on tmpfs, too.
      granularity_ = identity_.kind == PoolKind::kRamFile && std::getenv("PMEM2_FORCE_GRANULARITY") == nullptr
                         ? Granularity::kVolatile
                         : Granularity::kPage;
      break;
  }
  return {};
}

void PoolMediaImpl::set_segment_size(u64 bytes) {
  PINDAX_ASSERT(segment_bytes_ == 0 && bytes >= kFirstWindowBytes && bytes % kBlockSize == 0);
  segments_ = std::vector<std::atomic<const Segment*>>((size() + bytes - 1) / bytes);
  segment_bytes_ = bytes;
}

Result<const PoolMediaImpl::Segment*> PoolMediaImpl::segment(u64 at) const {
  if (at >= size()) return Status(Errc::kInvalid, "range outside the pool");
  if (segment_bytes_ == 0) {
    if (at < window_->length) return window_.get();
    return Status(Errc::kInvalid, "range beyond the first 4 MiB of a pool whose layout is not known yet");
  }
  auto& slot = segments_[at / segment_bytes_];
  if (const Segment* s = slot.load(std::memory_order_acquire)) return s;
  MutexLock lock(map_mutex_);
  if (const Segment* s = slot.load(std::memory_order_acquire)) return s;
  const u64 begin = round_down(at, segment_bytes_);
  PINDAX_ASSIGN(auto mapped, map(begin, std::min(segment_bytes_, size() - begin)));
  slot.store(mapped.get(), std::memory_order_release);
  return mapped.release();
}

const std::byte* PoolMediaImpl::view(PoolOffset at, u64 length) const {
  auto found = segment(at.value);
  if (!found.ok()) return nullptr;
  const Segment& s = **found;
  const u64 within = at.value - s.begin;
  return length <= s.length - within ? s.base + within : nullptr;
}

template <class F>
Status PoolMediaImpl::pieces(PoolOffset at, u64 length, F f) const {
  if (at.value > size() || length > size() - at.value) return Status(Errc::kInvalid, "range outside the pool");
  for (u64 done = 0; done < length;) {
    PINDAX_ASSIGN(const Segment* s, segment(at.value + done));
    const u64 within = at.value + done - s->begin;
    const u64 n = std::min(length - done, s->length - within);
    PINDAX_TRY(f(s->base + within, done, n));
    done += n;
  }
  return {};
}

template <class F>
BusFault PoolMediaImpl::touching([[maybe_unused]] u64 at, const std::byte* from, u64 length, F f) const {
  const BusFault fault = guarded(from, length, f);
#if defined(PINDAX_STEPS)
  if (fault == BusFault::kLost && injector_ && injector_->covers(at, length)) return BusFault::kPoisoned;
#endif
  return fault;
}

Status PoolMediaImpl::read(PoolOffset at, void* out, u64 length) const {
  auto* bytes = static_cast<std::byte*>(out);
  return pieces(at, length, [&](const std::byte* from, u64 done, u64 n) -> Status {
    const auto copy = [&] { std::memcpy(bytes + done, from, n); };
    return unreadable(touching(at.value + done, from, n, copy), at.value + done, from, n);
  });
}

// The kernel names the page, which may be a large one, and the first one only: what is bad shows block by block.
Status PoolMediaImpl::unreadable(BusFault fault, u64 at, const std::byte* from, u64 length) const {
  switch (fault) {
    case BusFault::kNone: return {};
    case BusFault::kPoisoned: {
      bool found = false;
      for (u64 done = 0; done < length;) {
        const u64 n = std::min(kBlockSize - (at + done) % kBlockSize, length - done);
        if (touching(at + done, from + done, n, [&] { touch(from + done, n); }) == BusFault::kPoisoned) {
          report_poison(offset_block(PoolOffset(at + done)));
          found = true;
        }
        done += n;
      }
      if (!found) report_poison(offset_block(PoolOffset(at)));
      return Status(Errc::kPoisoned, "bad block under the pool");
    }
    case BusFault::kLost: break;
  }
  return Status(Errc::kIo, fmt::format("{} cannot be read: was it truncated?", path()));
}

Status PoolMediaImpl::probe(PoolOffset at, u64 length) const {
  return pieces(at, length, [&](const std::byte* from, u64 done, u64 n) -> Status {
    return unreadable(touching(at.value + done, from, n, [&] { touch(from, n); }), at.value + done, from, n);
  });
}

Status PoolMediaImpl::scrub(PoolOffset at, u64 length) const {
  if (identity_.kind == PoolKind::kDevdax || !identity_.sparse) return probe(at, length);
  for (u64 begin = at.value, end = at.value + length; begin < end;) {
    const off_t data = ::lseek(fd_.get(), static_cast<off_t>(begin), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    const u64 from = data < 0 ? begin : static_cast<u64>(data);
    if (from >= end) return {};
    const off_t hole = data < 0 ? -1 : ::lseek(fd_.get(), data, SEEK_HOLE);
    const u64 to = std::min(end, hole < 0 ? end : static_cast<u64>(hole));
    PINDAX_TRY(probe(PoolOffset(from), to - from));
    begin = to;
  }
  return {};
}

Result<std::vector<ByteRange>> PoolMediaImpl::bad_ranges() const {
  std::vector<ByteRange> all;
#if defined(PINDAX_STEPS)
  if (injector_) all = injector_->listed();
#endif
  pmem2_badblock_context* context = nullptr;
  int error = pmem2_badblock_context_new(&context, source_);
  if (error == PMEM2_E_NO_BAD_BLOCK_FOUND) return all;
  if (error != 0) return Status(Errc::kNotSupported, fmt::format("the host has no list of bad blocks: {}", pmem2_errormsg()));
  pmem2_badblock bad{};
  while ((error = pmem2_badblock_next(context, &bad)) == 0) {
    const ByteRange r = block_aligned({bad.offset, bad.offset + bad.length});
    if (r.begin < size()) all.push_back({r.begin, std::min(r.end, size())});
  }
  pmem2_badblock_context_delete(&context);
  if (error == PMEM2_E_NO_BAD_BLOCK_FOUND) return all;
  return Status(Errc::kNotSupported, fmt::format("the host has no list of bad blocks: {}", pmem2_errormsg()));
}

Status PoolMediaImpl::lost(const char* what) {
  failed_.store(true, std::memory_order_release);
  return Status(Errc::kIo, fmt::format("{}: {}", path(), what));
}

template <class F>
Status PoolMediaImpl::store(PoolOffset at, u64 length, F f) {
  if (identity_.read_only) return Status(Errc::kReadOnly, "the pool is open for reading only");
  return pieces(at, length, [&](std::byte* to, u64 done, u64 n) -> Status {
    const BusFault fault = touching(at.value + done, to, n, [&] { f(to, done, n); });
    if (fault == BusFault::kNone) return {};
    if (fault == BusFault::kPoisoned) return unreadable(fault, at.value + done, to, n);
    return lost("a store was lost: the host's file system is full or the file was truncated");
  });
}

Status PoolMediaImpl::write(PoolOffset at, const void* data, u64 length) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return store(at, length, [&](std::byte* to, u64 done, u64 n) { std::memcpy(to, bytes + done, n); });
}

Status PoolMediaImpl::write_nt(PoolOffset at, const void* data, u64 length) {
  if (granularity_ == Granularity::kVolatile || granularity_ == Granularity::kPage) return write(at, data, length);
  const auto* bytes = static_cast<const std::byte*>(data);
  return store(at, length, [&](std::byte* to, u64 done, u64 n) {
    memcpy_(to, bytes + done, n, PMEM2_F_MEM_NONTEMPORAL | PMEM2_F_MEM_NODRAIN);
  });
}

Status PoolMediaImpl::zero(PoolOffset at, u64 length) {
  return store(at, length, [&](std::byte* to, u64, u64 n) { std::memset(to, 0, n); });
}

Status PoolMediaImpl::flush(PoolOffset at, u64 length) {
  if (granularity_ == Granularity::kVolatile || identity_.read_only) return {};
  if (granularity_ != Granularity::kPage)
    return pieces(at, length, [&](const std::byte* p, u64, u64 n) { return flush_(p, n), Status(); });
  const u64 begin = round_down(at.value, kBlockSize);
  const u64 end = round_up(at.value + length, kBlockSize);
  // Not libpmem2's flush: that one keeps a failing msync to itself.
  return pieces(PoolOffset(begin), end - begin, [&](std::byte* p, u64, u64 n) -> Status {
    if (!PINDAX_FAILS("pmem.sync") && ::msync(p, n, MS_SYNC) == 0) return {};
    return lost("the host could not write it to its disk");
  });
}

// One range costs one msync. More are written first, each without a barrier; the msync of the last one then commits what
// the host's file system noted about all of them and ends with the disk's barrier. Unlike fsync this does not wait for
// dirty data elsewhere in the pool.
Status PoolMediaImpl::flush_ranges(std::span<const ByteRange> ranges) {
  if (granularity_ != Granularity::kPage || ranges.size() < 2) return Media::flush_ranges(ranges);
  if (identity_.read_only) return {};
  for (unsigned how : {unsigned{SYNC_FILE_RANGE_WRITE},
                       unsigned{SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER}})
    for (const ByteRange& r : ranges) {
      const ByteRange pages = block_aligned(r);
      if (PINDAX_FAILS("pmem.sync")) return lost("the host could not write it to its disk");
      if (::sync_file_range(fd_.get(), static_cast<off_t>(pages.begin), static_cast<off_t>(pages.length()), how) == 0)
        continue;
      if (errno == ENOSYS || errno == EINVAL || errno == ESPIPE) return Media::flush_ranges(ranges);
      return lost("the host could not write it to its disk");
    }
  return flush(PoolOffset(ranges.back().begin), ranges.back().length());
}

Status PoolMediaImpl::drain() {
  if (granularity_ == Granularity::kCacheLine || granularity_ == Granularity::kByte) drain_();
  return {};
}

Status PoolMediaImpl::punch(PoolOffset at, u64 length) {
  if (identity_.read_only) return Status(Errc::kReadOnly, "the pool is open for reading only");
  if (identity_.kind == PoolKind::kDevdax) return Status(Errc::kNotSupported, "a devdax pool has no holes");
  if (at.value > size() || length > size() - at.value) return Status(Errc::kInvalid, "range outside the pool");
  const auto offset = static_cast<off_t>(at.value), bytes = static_cast<off_t>(length);
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes) != 0) {
    if (errno == EOPNOTSUPP) return Status(Errc::kNotSupported, "the host's file system cannot punch holes");
    if (errno == EINTR) return Status(Errc::kInterrupted, "the kernel still uses pages of the pool");
    return Status(Errc::kIo, fmt::format("{}: cannot punch: {}", path(), std::strerror(errno)));
  }
  if (identity_.kind == PoolKind::kRamFile && !is_gone(at, length)) return Status(Errc::kBusy, "a page of the pool is pinned or still in use");
  return identity_.sparse ? Status() : allocate(offset, bytes);
}

// Part of a large page that somebody pinned is only zeroed: it stays in the page cache, and late DMA would land in it. (Looked at range by
// range: the file's block count changes under others' hands.) lseek(SEEK_DATA) tells as well, but goes on through all reserved pages
// behind the range that nobody has stored into, a millisecond for 64 MiB of them. It is asked where mincore() says "present", as it
// does of everything to those who may not write to the file.
bool PoolMediaImpl::is_gone(PoolOffset at, u64 length) const {
  unsigned char present[1024];
  bool any = false;
  const Status looked = pieces(at, length, [&](const std::byte* from, u64, u64 n) -> Status {
    for (u64 done = 0; done < n && !any; done += sizeof present * kBlockSize) {
      const u64 bytes = std::min<u64>(sizeof present * kBlockSize, n - done);
      any = ::mincore(const_cast<std::byte*>(from) + done, bytes, present) != 0 ||
            std::any_of(present, present + bytes / kBlockSize, [](unsigned char p) { return (p & 1) != 0; });
    }
    return {};
  });
  if (looked.ok() && !any) return true;
  const auto offset = static_cast<off_t>(at.value);
  const off_t data = ::lseek(fd_.get(), offset, SEEK_DATA);
  return data < 0 || data >= offset + static_cast<off_t>(length);
}

Status PoolMediaImpl::allocate(off_t offset, off_t bytes) {
  if (::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, offset, bytes) == 0) return {};
  if (errno == EINTR) return Status(Errc::kInterrupted, "the kernel still uses pages of the pool");
  if (errno == ENOSPC || errno == EDQUOT)
    return Status(Errc::kNoSpace, fmt::format("{}: the host's file system is full", path()));
  return Status(Errc::kIo, fmt::format("{}: cannot reserve space: {}", path(), std::strerror(errno)));
}

Status PoolMediaImpl::reserve(PoolOffset at, u64 length, u64 spare) {
  if (!identity_.sparse || identity_.read_only || identity_.kind == PoolKind::kDevdax) return {};
  if (at.value > size() || length > size() - at.value) return Status(Errc::kInvalid, "range outside the pool");
  struct statvfs host {};
  if (spare != 0 && ::fstatvfs(fd_.get(), &host) == 0 && u64{host.f_bavail} * host.f_frsize < length + spare)
    return Status(Errc::kNoSpace, fmt::format("{}: the host's file system is full", path()));
  Status reserved;
  do reserved = allocate(static_cast<off_t>(at.value), static_cast<off_t>(length));
  while (reserved.code() == Errc::kInterrupted);
  // A host file system that cannot reserve: a store that finds no room is a SIGBUS, which the guard catches.
  return reserved.code() == Errc::kIo && errno == EOPNOTSUPP ? Status() : reserved;
}

Status PoolMediaImpl::sync_all() {
  if (granularity_ == Granularity::kVolatile || identity_.kind == PoolKind::kDevdax || identity_.read_only) return {};
  if (!PINDAX_FAILS("pmem.sync") && ::fsync(fd_.get()) == 0) return {};
  return lost("the host could not write it to its disk");
}

Result<bool> PoolMediaImpl::witness_held(u32 index) const { return witness_byte_held(fd_.get(), index); }
Result<std::vector<u32>> PoolMediaImpl::witnesses_held() const { return held_witness_bytes(fd_.get()); }

}  // namespace pindax
