// SPDX-License-Identifier: BSD-3-Clause
//
// The pmem room is the only writer to the pool. Everything above it sees a Media:
// bytes that can be read in place, stored, and made durable.
//
// Invariants
//  1. No room but this one stores through a pointer into the pool.
//  2. flush() starts and drain() completes the way to the media; persist() is both. At page granularity drain() does
//     nothing and flush() alone is durable (msync), so callers always call both, in this order.
//  3. A store into a host file that cannot take it (host file system full, file truncated) is a SIGBUS; the guard
//     turns it into kIo for the one operation (see PoolMedia) and marks the pool failed.
//  4. A bad block (poison) is kPoisoned for whoever touches it, loading or storing, and is reported to the listener first. The
//     pool has not failed: another block may do, and where none can, the caller's failure counts.
// Thread-safe for disjoint ranges.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/types.h"

namespace pindax {

// What survives what: the promise that `pindax info` prints.
enum class Granularity {
  kVolatile,   // tmpfs, memfd: survives the daemon only
  kPage,       // regular file: survives an OS crash after msync
  kCacheLine,  // fsdax, devdax: survives power loss after flush
  kByte,       // the same with caches in the power-fail domain
};
const char* granularity_name(Granularity g);
const char* granularity_promise(Granularity g);  // one plain sentence

class Media {
 public:
  virtual ~Media() = default;

  virtual u64 size() const = 0;  // bytes; a multiple of kBlockSize
  virtual Granularity granularity() const = 0;

  // Readable bytes [at, at + length); they must not cross an allocation group or, below the first AG size being known,
  // the pool's first 4 MiB. Null if the range is outside the pool. Valid until close.
  virtual const std::byte* view(PoolOffset at, u64 length) const = 0;

  // Touches every cache line of a range that view() gives: kPoisoned or kIo instead of a signal when it is used. For what is
  // read in place soon after; the media may still fail in between.
  virtual Status probe(PoolOffset, u64) const { return {}; }

  // Copies out under the SIGBUS guard: kPoisoned or kIo instead of a signal.
  virtual Status read(PoolOffset at, void* out, u64 length) const = 0;
  // Ordinary stores: visible at once, durable after flush + drain.
  virtual Status write(PoolOffset at, const void* data, u64 length) = 0;
  // As write, but past the cache where the machine can and it pays: needs only drain().
  // (At page granularity flush() is still needed.)
  virtual Status write_nt(PoolOffset at, const void* data, u64 length) = 0;
  virtual Status zero(PoolOffset at, u64 length) = 0;
  virtual Status flush(PoolOffset at, u64 length) = 0;
  virtual Status drain() = 0;
  // Flushes many ranges, ascending and apart: at page granularity with one barrier instead of one each.
  virtual Status flush_ranges(std::span<const ByteRange> ranges);
  Status persist(PoolOffset at, u64 length) {
    PINDAX_TRY(flush(at, length));
    return drain();
  }

  // Makes sure that the host has room for every byte of the range, so that stores into it cannot fail for want of space:
  // before blocks of a sparse pool are used. kNoSpace, also if less than `spare` bytes of the host would be left. Nothing to do
  // elsewhere.
  virtual Status reserve(PoolOffset, u64 /*length*/, u64 /*spare*/) { return {}; }
  // Whether what is punched is the host's again: a sparse pool.
  virtual bool gives_back() const { return false; }
  // Punches the blocks out of the host file, which unmaps them in every process, and reserves them again (F5).
  // kNotSupported on devdax. Reads give zeros afterwards. May block on fsdax while the kernel uses any page of the pool
  // that was mapped (O_DIRECT, a pipe): call from a thread without locks. kInterrupted: nothing was punched.
  virtual Status punch(PoolOffset at, u64 length) = 0;
  // Makes everything ever stored durable (fsync of the host file).
  virtual Status sync_all() = 0;
  virtual bool failed() const = 0;  // a store was lost: no further commit may be acknowledged
  // From outside: nothing that is stored from now on would last.
  virtual void give_up() {}

  // ---- Bad blocks ----
  // Reads every cache line of the range and throws it away, as probe(), but leaves out what the host has no memory for (holes of a
  // sparse pool). For scrubbing.
  virtual Status scrub(PoolOffset at, u64 length) const { return probe(at, length); }
  // Ranges that the host knows to be bad, without touching them. kNotSupported with the reason where it keeps no list.
  virtual Result<std::vector<ByteRange>> bad_ranges() const { return std::vector<ByteRange>(); }
  // Hears of every block that a guarded access found to be bad, perhaps again and again, on the thread that touched it and under
  // its locks: it must take none but of rank kLeaf. Null: nobody.
  void set_poison_listener(std::function<void(BlockNo)> listener);

 protected:
  void report_poison(BlockNo block) const;

 private:
  mutable Mutex listener_mutex_{LockRank::kLeaf};
  std::function<void(BlockNo)> poison_listener_ GUARDED_BY(listener_mutex_);
};

}  // namespace pindax
