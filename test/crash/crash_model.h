// SPDX-License-Identifier: BSD-3-Clause
//
// What the media may hold at a moment of a recorded log.
//
// The pool is cut into units: 64-byte lines, or 512-byte sectors at page granularity. The stores to a unit since it was last
// known durable are a list of words of up to eight aligned bytes. After a crash each unit holds, independently of all others,
//   cache line   any prefix of its words; a word stored past the cache may be there without its predecessors
//   page         the words up to any moment since its last msync
// A flush and then a fence (page: the flush alone) make the words before it durable. Within a bound every combination is
// listed; above it a choice is a number that seeds the combination, so that any image can be made again.
#pragma once

#include <map>
#include <vector>

#include "pmem/recording_media.h"

namespace pindax::crash {

u64 mix(u64 a, u64 b);  // a hash of both

// Small, fast, the same everywhere.
class Random {
 public:
  explicit Random(u64 seed) : state_(seed) {}
  u64 next() { return mix(++state_, 0x9e37'79b9'7f4a'7c15); }
  u64 below(u64 n) { return n == 0 ? 0 : next() % n; }

 private:
  u64 state_;
};

class CrashModel {
 public:
  // `durable` is what the media surely holds; `image`, a copy of it by load(), gets what make_image() chooses.
  CrashModel(const MediaLog& log, Granularity granularity, RecordingMedia& durable, RecordingMedia& image);

  void apply(const MediaEvent& e);
  bool makes_durable(const MediaEvent& e) const;  // a fence, or what is one at this granularity

  // How many images there are at this point: exactly, or `bound` if that is less.
  u64 choices(u64 bound) const;
  bool exhaustive(u64 bound) const { return combinations(bound) <= bound; }
  // Puts image number `choice` of choices(bound) into `image`, which was reverted before. Returns a hash of the image's bytes.
  u64 make_image(u64 choice, u64 bound, u64 seed);
  // Everything stored so far, as a process that was killed leaves it.
  u64 make_memory_image();

 private:
  struct Word {
    u64 at;
    u32 length;
    bool past_cache;
    u64 data;
  };
  struct Unit {
    std::vector<Word> words;
    u32 flushed = 0;  // words that the next fence makes durable
    u64 hash = 0;     // of the durable bytes
  };
  // The first `prefix` words, and of the later ones past the cache those that `mask` picks.
  struct Pick {
    u32 prefix = 0;
    u64 mask = 0;
  };

  u64 combinations(u64 bound) const;
  void store(const MediaEvent& e);
  void settle(std::map<u64, Unit>::iterator unit, u32 words);
  u64 place(u64 number, const Unit& unit, Pick pick);
  Pick random_pick(const Unit& unit, Random& random) const;

  const MediaLog& log_;
  const bool page_;
  const u64 unit_bytes_;
  RecordingMedia& durable_;
  RecordingMedia& image_;
  std::map<u64, Unit> units_;
  u64 durable_hash_ = 0;
};

}  // namespace pindax::crash
