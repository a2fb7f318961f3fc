// SPDX-License-Identifier: BSD-3-Clause
//
// The journal's place in the pool: two copies of its header, then a ring in which byte `lsn % bytes()` holds stream byte
// `lsn`. Knows nothing of records. Not thread-safe but for disjoint ranges of the ring; the checkpoint alone stores headers.
#pragma once

#include "base/result.h"
#include "format/decode.h"
#include "pmem/media.h"

namespace pindax {

class Ring {
 public:
  Ring(Media& media, const format::Geometry& geometry);

  u64 bytes() const { return bytes_; }
  // Store, fetch or flush stream bytes; at most bytes() of them. They may wrap.
  Status write(Lsn at, const void* data, u64 length);
  Status read(Lsn at, void* out, u64 length) const;
  Status flush(Lsn from, Lsn to);

  // The valid header with the greater sequence. kCorrupt if there is none.
  Result<format::JournalHeader> load_header();
  // Replaces the older copy. Durable on return, and the commit point of everything that moves the head.
  Status store_header(Lsn head, u64 epoch);

 private:
  // Calls f(pool offset, offset in the caller's bytes, length) for each unwrapped piece.
  template <class F>
  Status pieces(Lsn at, u64 length, F f) const;

  Media& media_;
  const BlockNo first_;
  const u64 bytes_;
  u64 sequence_ = 0;  // of the last header stored or loaded
};

}  // namespace pindax
