// SPDX-License-Identifier: BSD-3-Clause
//
// One mapped file range: a contiguous address range, built of pieces.
//
// At every moment each page of the range is one of
//   placeholder   anonymous memory that the userfaultfd watches: a touch becomes a request
//   zeros         the same with a write-protected page of zeros (a hole): a store becomes a request
//   poison        the same with a marker: a touch is a SIGBUS (beyond the end of file)
//   blocks        the pool's own pages, mapped over the placeholder
// Grants go to the right, recalls back to placeholder, both on the service thread only, in the FIFO's order (races 2–4 of the
// measured facts). MAP_FIXED and mremap replace pages atomically, so other threads see one state or the other.
#pragma once

#include <pindax/pindax.h>

#include <atomic>
#include <memory>

#include "base/types.h"
#include "client/client.h"

struct pindax_mapping {
  pindax_client* client = nullptr;
  pindax::u32 id = 0;
  bool direct = false;
  bool closing = false;  // guarded by client->mappings_mutex: the service thread leaves it alone
  int prot = 0;
  pindax::u64 inode = 0;
  pindax::u64 file_offset = 0;  // bytes
  std::size_t length = 0;       // as asked for
  pindax::u64 base = 0;         // address of file_offset
  pindax::u64 span = 0;         // length rounded up to pages

  // One bit a page, written by the service thread (and at map time): mapped from the pool; first page of a piece; lies
  // so that a 2 MiB page can map it. Made before the mapping is known to that thread.
  std::unique_ptr<std::atomic<pindax::u64>[]> mapped, first, huge;
  std::atomic<pindax::u64> mapped_pages{0}, pieces{0}, huge_pages{0};
  // Where the last piece ended, in the file and in the pool: what continues it is merged with it by the kernel. Service thread.
  pindax::u64 run_end = 0, run_pool_end = 0;

  // The last range that a write pin's reply called allocated and unshared, under which gate word (P4).
  std::atomic<pindax::u64> writable_word{~pindax::u64{0}};
  std::atomic<pindax::u64> writable_begin{0}, writable_end{0};

  pindax::u64 address_of(pindax::u64 file_byte) const { return base + (file_byte - file_offset); }
  pindax::u64 file_end() const { return file_offset + span; }
};

namespace pindax::client {

// Service thread, under mappings_mutex. Clipped to the mapping; allocate nothing.
// `c`: the mapping's client.
void install_grant(pindax_client& c, pindax_mapping& m, const proto::GrantBody& grant) REQUIRES(c.mappings_mutex);
void remove_translations(pindax_mapping& m, u64 begin, u64 end);

// Reserves and watches the address range of a direct mapping. 0 or a negative errno.
int reserve(pindax_mapping& m);

}  // namespace pindax::client
