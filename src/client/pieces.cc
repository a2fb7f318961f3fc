// SPDX-License-Identifier: BSD-3-Clause
//
// What the service thread does to a mapping's pages: grants and recalls.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/addresses.h"
#include "base/steps.h"
#include "client/error.h"
#include "client/mapping.h"

namespace pindax::client {
namespace {

// vm.max_map_count is 65,530 by default and near it even pthread_create fails: stay at about half.
constexpr i64 kMaxPieces = 30'000;
// A read fault in a hole fills this much around; each page costs memory until the next recall.
constexpr u64 kHoleFillBytes = 16 * kBlockSize;
// Entered before who waits is woken; the rest of the grant follows.
constexpr u64 kEnterFirstBytes = 16 * kBlockSize;

void* pointer(u64 address) { return reinterpret_cast<void*>(address); }

struct Pages {
  u64 from, to;
};
Pages pages_of(const pindax_mapping& m, u64 begin, u64 end) {
  return {(begin - m.file_offset) / kBlockSize, (end - m.file_offset) / kBlockSize};
}

// In place of what lies at [begin, begin + length), in one step for all other threads; not for a forked child.
bool map_over(pindax_mapping& m, u64 begin, u64 length, int prot, int flags, int fd, u64 offset) {
  void* placed = ::mmap(pointer(m.address_of(begin)), length, prot, flags | MAP_FIXED, fd, static_cast<off_t>(offset));
  if (placed == MAP_FAILED) return false;
  (void)::madvise(placed, length, MADV_DONTFORK);
  return true;
}

// A watched placeholder over [begin, end): made elsewhere and moved into place, in one step for all other threads, with its
// registration. False: no room; nothing has changed.
bool place_placeholder(pindax_mapping& m, u64 begin, u64 end) {
  const u64 length = end - begin;
  if (m.client->signals.on()) {
    if (!map_over(m, begin, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) return false;
  } else {
    void* fresh = ::mmap(nullptr, length, m.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) return false;
    (void)::madvise(fresh, length, MADV_DONTFORK);
    if (m.client->uffd.watch(fresh, length) != 0 ||
        ::mremap(fresh, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(m.address_of(begin))) == MAP_FAILED) {
      ::munmap(fresh, length);
      return false;
    }
  }
  const Pages p = pages_of(m, begin, end);
  m.set_places(p.from, p.to, Place{});
  m.book.clear_mapped(p.from, p.to);
  return true;
}

// The pool's pages leave [begin, end) for good, with their kernel mappings.
void drop_pieces(pindax_mapping& m, u64 begin, u64 end) {
  const Pages p = pages_of(m, begin, end);
  if (!m.book.any(p.from, p.to)) {
    if (!m.client->signals.on()) (void)::madvise(pointer(m.address_of(begin)), end - begin, MADV_DONTNEED);
    return;
  }
  if (place_placeholder(m, begin, end)) return;
  // Out of address space or mappings. The translations must go all the same: a plain unmapping, whose touch is a SIGSEGV.
  (void)::munmap(pointer(m.address_of(begin)), end - begin);
  m.set_places(p.from, p.to, Place{});
  m.book.clear_mapped(p.from, p.to);
}

// Blocks that other files own as well, in a mapping that may be written. A page of the pool without the right to write would make a
// store a SIGSEGV; so the pages get a write-protected copy, like zeros of a hole: a store comes back as a fault and gets a block of
// the file's own. Nobody stores into shared blocks, so the copy stays true until it is recalled. The kernel reads the
// pool here, not this thread (F3): a bad block is EFAULT.
void install_copy(pindax_mapping& m, const proto::GrantBody& g, u64 begin, u64 end) {
  const u64 address = m.address_of(begin);
  const u64 length = std::min(end - begin, kHoleFillBytes);
  const Pages p = pages_of(m, begin, begin + length);
  if (m.book.any(p.from, p.to)) drop_pieces(m, begin, begin + length);  // a copy over the pool's pages would go into the pool
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
    if (m != nullptr && m->direct && !m->closing && (most == nullptr || m->book.pieces() > most->book.pieces())) most = m;
  if (most != nullptr) drop_pieces(*most, most->file_offset, most->file_end());
}

// A touch of the page is a SIGBUS.
void poison(pindax_mapping& m, u64 begin) {
  if (m.client->signals.on()) {
    if (!map_over(m, begin, kBlockSize, PROT_READ | PROT_WRITE, MAP_SHARED, m.client->signals.empty_file(), 0)) return;
    const Pages p = pages_of(m, begin, begin + kBlockSize);
    m.set_places(p.from, p.to, Place::beyond());
    m.book.clear_mapped(p.from, p.to);
    return;
  }
  (void)::madvise(pointer(m.address_of(begin)), kBlockSize, MADV_DONTNEED);  // a page that is there would hide the marker
  (void)m.client->uffd.poison(m.address_of(begin), kBlockSize);
}

// Loads see zeros, a store is a request.
void install_zeros(pindax_mapping& m, u64 begin, u64 end) {
  const Pages p = pages_of(m, begin, end);
  if (m.client->signals.on()) {
    if (!map_over(m, begin, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) return;
    m.set_places(p.from, p.to, Place::zeros());
    m.book.clear_mapped(p.from, p.to);
    return;
  }
  // On anonymous memory: over the pool's they would be stored into it.
  if (m.book.any(p.from, p.to)) drop_pieces(m, begin, end);
  (void)m.client->uffd.fill_zeros(m.address_of(begin), end - begin);
}

// Who waits for [begin, end) tries again.
void served(pindax_mapping& m, u64 begin, u64 end) {
  if (m.client->signals.on()) m.client->signals.served(begin, end);
  else m.client->uffd.wake(m.address_of(begin), end - begin);
}

// Maps the pool's blocks over the pages, watched if this client's mappings are revocable. In between siblings may touch
// them: they are granted.
bool map_blocks(pindax_mapping& m, u64 begin, u64 length, u64 pool_offset, bool writable) {
  const int prot = writable ? m.prot : m.prot & ~PROT_WRITE;
  if (!map_over(m, begin, length, prot, m.client->map_flags, m.client->pool.get(), pool_offset)) return false;
  PINDAX_STEP("client.mapped");
  // Where the pool's file system gives huge pages to those who ask; pages that are watched are entered one by one.
  const bool aligned = m.address_of(begin) % kHugePageSize == pool_offset % kHugePageSize;
  if (aligned && length >= kHugePageSize && !m.client->revocable) (void)::madvise(pointer(m.address_of(begin)), length, MADV_HUGEPAGE);
  const Pages p = pages_of(m, begin, begin + length);
  m.set_places(p.from, p.to, Place::blocks(pool_offset / kBlockSize, writable));
  m.book.clear_mapped(p.from, p.to);
  return !m.client->revocable || m.client->uffd.watch_shared(m.address_of(begin), length) == 0;
}

void install_blocks(pindax_mapping& m, const proto::GrantBody& g, u64 begin, u64 end) {
  const u64 pool_offset = g.pool_offset + (begin - g.offset);
  const Pages p = pages_of(m, begin, end);
  const Place place = Place::blocks(pool_offset / kBlockSize, g.writable != 0);
  // What lies there already from an earlier grant only needs its entries.
  const u64 other = m.client->revocable ? m.book.first_other(p.from, p.to, place) : p.from;
  const u64 skipped = (other - p.from) * kBlockSize;
  if (other != p.to && !map_blocks(m, begin + skipped, end - begin - skipped, pool_offset + skipped, g.writable != 0)) {
    // No room for another piece. The fault must end nevertheless, and nothing of the pool may stay unwatched.
    drop_pieces(m, begin, end);
    poison(m, begin);
    return;
  }
  if (m.client->revocable) {
    const u64 address = m.address_of(begin);
    const u64 first = std::min(end - begin, kEnterFirstBytes);
    if (m.client->uffd.enter(address, first) != 0) return poison(m, begin);  // the host is full
    if (first < end - begin) {
      m.client->uffd.wake(address, first);
      for (u64 page = p.from + first / kBlockSize; page < p.to;) {
        u64 stop = page + 1;
        while (stop < p.to && m.book.mapped(stop) == m.book.mapped(page)) ++stop;
        if (!m.book.mapped(page)) (void)m.client->uffd.enter(m.base + page * kBlockSize, (stop - page) * kBlockSize);
        page = stop;
      }
    }
  }
  m.book.set_mapped(p.from, p.to);
}

}  // namespace

void install_grant(pindax_client& c, pindax_mapping& m, const proto::GrantBody& g) {
  const u64 begin = std::max(round_down(g.offset, kBlockSize), m.file_offset);
  u64 end = std::min(g.length > kMaxOffset - g.offset ? kMaxOffset : g.offset + g.length, m.file_end());
  end = round_down(end, kBlockSize);
  if (begin >= end) return;
  switch (g.kind) {
    case proto::GrantKind::kBlocks:
      if (c.pieces.load(std::memory_order_relaxed) >= kMaxPieces) evict_most_pieces(c);
      if (g.writable == 0 && (m.prot & PROT_WRITE) != 0 && !c.signals.on()) install_copy(m, g, begin, end);
      else install_blocks(m, g, begin, end);
      break;
    case proto::GrantKind::kHole:
      if (c.signals.on() && c.pieces.load(std::memory_order_relaxed) >= kMaxPieces) evict_most_pieces(c);
      install_zeros(m, begin, std::min(end, begin + kHoleFillBytes));
      break;
    case proto::GrantKind::kBeyondEnd:
    case proto::GrantKind::kError:
      poison(m, begin);
      break;
  }
  PINDAX_STEP("client.granted");
  served(m, begin, end);
}

void remove_translations(pindax_mapping& m, u64 begin, u64 end) {
  begin = std::max(round_down(begin, kBlockSize), m.file_offset);
  end = std::min(end > kMaxOffset - kBlockSize ? kMaxOffset : round_up(end, kBlockSize), m.file_end());
  if (begin >= end) return;
  if (m.client->revocable) {
    const Pages p = pages_of(m, begin, end);
    (void)::madvise(pointer(m.address_of(begin)), end - begin, MADV_DONTNEED);
    m.book.clear_mapped(p.from, p.to);
  } else {
    drop_pieces(m, begin, end);
  }
  served(m, begin, end);
}

int reserve(pindax_mapping& m) {
  m.book.reserve(m.span / kBlockSize);
  // Addresses congruent to file offsets modulo 2 MiB, so that aligned extents can be mapped by 2 MiB pages.
  m.base = reserve_addresses(m.span, m.file_offset);
  if (m.base == 0) return fail_errno("reserving addresses for the mapping");
  if (m.client->signals.on()) {
    (void)::madvise(pointer(m.base), m.span, MADV_DONTFORK);
    return 0;
  }
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
