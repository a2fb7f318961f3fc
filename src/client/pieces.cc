// SPDX-License-Identifier: BSD-3-Clause
//
// What the service thread does to a mapping's pages: grants and recalls.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "client/error.h"
#include "client/mapping.h"

namespace pindax::client {
namespace {

// vm.max_map_count is 65,530 by default and near it even pthread_create fails: stay at about half.
constexpr u64 kMaxPieces = 30'000;
// A read fault in a hole fills this much around; each page costs memory until the next recall.
constexpr u64 kHoleFillBytes = 16 * kBlockSize;

using Bits = std::unique_ptr<std::atomic<u64>[]>;

bool test(const Bits& bits, u64 page) { return (bits[page / 64].load(std::memory_order_relaxed) >> (page % 64) & 1) != 0; }
void set(Bits& bits, u64 page) { bits[page / 64].fetch_or(u64{1} << (page % 64), std::memory_order_relaxed); }

// Clears [from, to) and returns how many bits were set.
u64 clear(Bits& bits, u64 from, u64 to) {
  u64 count = 0;
  for (u64 page = from; page < to;) {
    const u64 in_word = page % 64;
    const u64 n = std::min<u64>(64 - in_word, to - page);
    const u64 mask = (n == 64 ? ~u64{0} : (u64{1} << n) - 1) << in_word;
    count += static_cast<u64>(std::popcount(bits[page / 64].fetch_and(~mask, std::memory_order_relaxed) & mask));
    page += n;
  }
  return count;
}

void* pointer(u64 address) { return reinterpret_cast<void*>(address); }

// Books [from, to) as no longer mapped. A piece that goes on behind `to` gets its own first page.
void forget_pages(pindax_mapping& m, u64 from, u64 to) {
  if (to < m.span / kBlockSize && test(m.mapped, to) && !test(m.first, to)) {
    set(m.first, to);
    m.pieces.fetch_add(1, std::memory_order_relaxed);
    m.client->pieces.fetch_add(1, std::memory_order_relaxed);
  }
  const u64 pieces = clear(m.first, from, to);
  m.pieces.fetch_sub(pieces, std::memory_order_relaxed);
  m.client->pieces.fetch_sub(pieces, std::memory_order_relaxed);
  m.huge_pages.fetch_sub(clear(m.huge, from, to), std::memory_order_relaxed);
  m.mapped_pages.fetch_sub(clear(m.mapped, from, to), std::memory_order_relaxed);
}

bool any_mapped(const pindax_mapping& m, u64 from, u64 to) {
  for (u64 page = from; page < to;) {
    const u64 word = m.mapped[page / 64].load(std::memory_order_relaxed) >> (page % 64);
    const u64 n = std::min<u64>(64 - page % 64, to - page);
    if ((n == 64 ? word : word & ((u64{1} << n) - 1)) != 0) return true;
    page += n;
  }
  return false;
}

// A fresh placeholder over [address, address + length). Where no pool pages lie, dropping the anonymous pages is enough;
// else a watched range is made elsewhere and moved into place: in one step for all other threads, with its registration.
bool place_placeholder(pindax_mapping& m, u64 address, u64 length, bool pool_pages) {
  if (!pool_pages) return ::madvise(pointer(address), length, MADV_DONTNEED) == 0;
  void* fresh = ::mmap(nullptr, length, m.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fresh == MAP_FAILED) return false;
  (void)::madvise(fresh, length, MADV_DONTFORK);
  if (m.client->uffd.watch(fresh, length) != 0 ||
      ::mremap(fresh, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(address)) == MAP_FAILED) {
    ::munmap(fresh, length);
    return false;
  }
  return true;
}

void install_blocks(pindax_mapping& m, const proto::GrantBody& g, u64 begin, u64 end) {
  const u64 address = m.address_of(begin);
  const u64 length = end - begin;
  const u64 pool_offset = g.pool_offset + (begin - g.offset);
  const int prot = g.writable != 0 ? m.prot : m.prot & ~PROT_WRITE;
  void* placed = ::mmap(pointer(address), length, prot, m.client->map_flags | MAP_FIXED, m.client->pool.get(), static_cast<off_t>(pool_offset));
  if (placed == MAP_FAILED) {
    // No room for another piece: the fault must end nevertheless.
    (void)m.client->uffd.poison(address, length);
    return;
  }
  (void)::madvise(placed, length, MADV_DONTFORK);
  const bool aligned = address % kHugePageSize == pool_offset % kHugePageSize;
  // Where the pool's file system gives huge pages to those who ask.
  if (aligned && length >= kHugePageSize) (void)::madvise(placed, length, MADV_HUGEPAGE);
  const u64 from = (begin - m.file_offset) / kBlockSize;
  const u64 to = from + length / kBlockSize;
  forget_pages(m, from, to);
  const bool continues = from != 0 && m.run_end == begin && m.run_pool_end == pool_offset && prot == m.prot && test(m.mapped, from - 1);
  m.run_end = end;
  m.run_pool_end = prot == m.prot ? pool_offset + length : ~u64{0};
  if (!continues) {
    set(m.first, from);
    m.pieces.fetch_add(1, std::memory_order_relaxed);
    m.client->pieces.fetch_add(1, std::memory_order_relaxed);
  }
  const u64 huge_from = round_up(address, kHugePageSize), huge_to = round_down(address + length, kHugePageSize);
  for (u64 page = from; page < to; ++page) {
    set(m.mapped, page);
    const u64 at = m.base + page * kBlockSize;
    if (aligned && at >= huge_from && at < huge_to) {
      set(m.huge, page);
      m.huge_pages.fetch_add(1, std::memory_order_relaxed);
    }
  }
  m.mapped_pages.fetch_add(to - from, std::memory_order_relaxed);
}

// Blocks that other files own as well, in a mapping that may be written. A page of the pool without the right to write would make a
// store a SIGSEGV; so the pages get a write-protected copy, like zeros of a hole: a store comes back as a fault and gets a block of
// the file's own. Nobody stores into shared blocks, so the copy stays true until it is recalled. The kernel reads the
// pool here, not this thread (F3): a bad block is EFAULT.
void install_copy(pindax_mapping& m, const proto::GrantBody& g, u64 begin, u64 end) {
  const u64 address = m.address_of(begin);
  const u64 length = std::min(end - begin, kHoleFillBytes);
  void* window = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, m.client->pool.get(),
                        static_cast<off_t>(g.pool_offset + (begin - g.offset)));
  const int error = window == MAP_FAILED ? errno : m.client->uffd.fill_copy(address, length, window);
  if (window != MAP_FAILED) ::munmap(window, length);
  if (error != 0) (void)m.client->uffd.poison(address, kBlockSize);
}

// Cold pieces make room: the mapping with most of them starts over, and what is in use comes back by faults.
void evict_most_pieces(pindax_client& c) REQUIRES(c.mappings_mutex) {
  pindax_mapping* most = nullptr;
  for (pindax_mapping* m : c.by_id)
    if (m != nullptr && m->direct && !m->closing && (most == nullptr || m->pieces.load() > most->pieces.load())) most = m;
  if (most != nullptr) remove_translations(*most, most->file_offset, most->file_end());
}

}  // namespace

void install_grant(pindax_client& c, pindax_mapping& m, const proto::GrantBody& g) {
  const u64 begin = std::max(round_down(g.offset, kBlockSize), m.file_offset);
  u64 end = std::min(g.length > kMaxOffset - g.offset ? kMaxOffset : g.offset + g.length, m.file_end());
  end = round_down(end, kBlockSize);
  if (begin >= end) return;
  const u64 address = m.address_of(begin);
  switch (g.kind) {
    case proto::GrantKind::kBlocks:
      if (c.pieces.load(std::memory_order_relaxed) >= kMaxPieces) evict_most_pieces(c);
      if (g.writable == 0 && (m.prot & PROT_WRITE) != 0) install_copy(m, g, begin, end);
      else install_blocks(m, g, begin, end);
      break;
    case proto::GrantKind::kHole:
      (void)m.client->uffd.fill_zeros(address, std::min(end - begin, kHoleFillBytes));
      break;
    case proto::GrantKind::kBeyondEnd:
      (void)m.client->uffd.poison(address, kBlockSize);
      break;
    case proto::GrantKind::kError:
      (void)::madvise(pointer(address), kBlockSize, MADV_DONTNEED);  // a page of zeros would hide the marker
      (void)m.client->uffd.poison(address, kBlockSize);
      break;
  }
  m.client->uffd.wake(address, end - begin);
}

void remove_translations(pindax_mapping& m, u64 begin, u64 end) {
  begin = std::max(round_down(begin, kBlockSize), m.file_offset);
  end = std::min(end > kMaxOffset - kBlockSize ? kMaxOffset : round_up(end, kBlockSize), m.file_end());
  if (begin >= end) return;
  const u64 from = (begin - m.file_offset) / kBlockSize;
  const u64 to = (end - m.file_offset) / kBlockSize;
  const u64 address = m.address_of(begin);
  if (!place_placeholder(m, address, end - begin, any_mapped(m, from, to))) {
    // Out of address space or mappings. The translations must go all the same: a plain unmapping, whose touch is a SIGSEGV.
    (void)::munmap(pointer(address), end - begin);
  }
  forget_pages(m, from, to);
  m.client->uffd.wake(address, end - begin);
}

int reserve(pindax_mapping& m) {
  const u64 pages = m.span / kBlockSize;
  const u64 words = pages / 64 + 1;
  for (Bits* bits : {&m.mapped, &m.first, &m.huge}) *bits = std::make_unique<std::atomic<u64>[]>(words);
  // Addresses congruent to file offsets modulo 2 MiB, so that aligned extents can be mapped by 2 MiB pages.
  const u64 room = m.span + kHugePageSize;
  void* area = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return fail_errno("reserving addresses for the mapping");
  const u64 start = reinterpret_cast<u64>(area);
  const u64 want = m.file_offset % kHugePageSize;
  m.base = start + (want + kHugePageSize - start % kHugePageSize) % kHugePageSize;
  if (m.base > start) ::munmap(area, m.base - start);
  if (m.base + m.span < start + room) ::munmap(pointer(m.base + m.span), start + room - m.base - m.span);
  int err = m.client->uffd.watch(pointer(m.base), m.span);
  if (err == 0 && ::mprotect(pointer(m.base), m.span, m.prot) != 0) err = errno;
  if (err != 0) {
    ::munmap(pointer(m.base), m.span);
    errno = err;
    return fail_errno("watching the mapping's addresses");
  }
  (void)::madvise(pointer(m.base), m.span, MADV_DONTFORK);
  return 0;
}

}  // namespace pindax::client
