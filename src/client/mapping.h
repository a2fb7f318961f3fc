// SPDX-License-Identifier: BSD-3-Clause
//
// One mapped file range: a contiguous address range, built of pieces.
//
// At every moment each page of the range is one of
//   placeholder   anonymous memory that the userfaultfd watches: a touch becomes a request
//   zeros         the same with a write-protected page of zeros (a hole): a store becomes a request
//   poison        the same with a marker: a touch is a SIGBUS (beyond the end of file)
//   blocks        the pool's own pages, mapped over the placeholder
// Without a userfaultfd (client/signals.h) these are kernel mappings each: no access, anonymous memory to read, a file
// without a byte, the pool.
//
// Grants go to the right, recalls back, both on the service thread only, in the FIFO's order. MAP_FIXED and mremap replace pages
// atomically, so other threads see one state or the other.
//
// Revocable mappings (a pool in shared memory with small pages, and a userfaultfd that can watch it): the pool's pages are
// watched as well (MISSING, MINOR, WP), and are entered one by one by UFFDIO_CONTINUE for what was granted. A page that lost its
// entry, by a recall here or by the daemon's punch, is a request again although its kernel mapping stays: so a recall is one
// MADV_DONTNEED, and the daemon can revoke alone. docs/protocol.md, "Revocation".
#pragma once

#include <pindax/pindax.h>

#include <atomic>

#include "base/types.h"
#include "client/client.h"
#include "client/page_book.h"

struct pindax_mapping {
  pindax_client* client = nullptr;
  pindax::u32 id = 0;
  const pindax::proto::Gate* gate = nullptr;
  bool direct = false;
  bool closing = false;  // guarded by client->mappings_mutex: the service thread leaves it alone
  int prot = 0;
  pindax::u64 inode = 0;
  pindax::u64 file_offset = 0;  // bytes
  std::size_t length = 0;       // as asked for
  pindax::u64 base = 0;         // address of file_offset
  pindax::u64 span = 0;         // length rounded up to pages

  pindax::client::PageBook book;  // made before the mapping is known to the service thread

  // The last range that a write pin's reply called allocated and unshared, under which gate word (P4).
  std::atomic<pindax::u64> writable_word{~pindax::u64{0}};
  std::atomic<pindax::u64> writable_begin{0}, writable_end{0};

  pindax::u64 address_of(pindax::u64 file_byte) const { return base + (file_byte - file_offset); }
  pindax::u64 file_end() const { return file_offset + span; }
  // Counts into the client's total, too.
  void set_places(pindax::u64 from, pindax::u64 to, pindax::client::Place place) {
    client->pieces.fetch_add(book.set(from, to, place), std::memory_order_relaxed);
  }
};

namespace pindax::client {

// Service thread, under mappings_mutex. Clipped to the mapping; allocate nothing.
// `c`: the mapping's client.
void install_grant(pindax_client& c, pindax_mapping& m, const proto::GrantBody& grant) REQUIRES(c.mappings_mutex);
void remove_translations(pindax_mapping& m, u64 begin, u64 end);

// The request for a touch of `address`, which lies in the mapping.
proto::FaultBody fault_at(const pindax_mapping& m, u64 address, bool write);

// Reserves and watches the address range of a direct mapping. 0 or a negative errno.
int reserve(pindax_mapping& m);

// A pin that keeps the file from being cut while bytes are copied out of the mapping, and promises nothing else; ended by
// pindax_unpin. At once or not at all (-EAGAIN); shared blocks stay shared. No message.
int pin_for_copy_out(pindax_mapping& m, u64 offset, std::size_t length, struct pindax_pin* out);

}  // namespace pindax::client
