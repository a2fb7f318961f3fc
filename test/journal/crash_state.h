// SPDX-License-Identifier: BSD-3-Clause
//
// Which pools a crash may leave, given the log of a RecordingMedia and the pool before it.
//
// The fault model
//   cache-line granularity: of each 64-byte line, of the ordinary stores since the line's last flush that a fence
//     followed, any prefix may have reached the media, cut at any 8 bytes. Of write_nt stores since the last fence, any
//     subset of their 8-byte pieces.
//   byte granularity: ordinary stores arrive at once and in order; the last one may be cut. write_nt as above.
//   page granularity: the host writes any page at any moment, in sectors: each 512 bytes are as they were at some
//     moment since the page's last flush, each sector by itself. write_nt is an ordinary store.
// A process that dies without its host loses nothing: keep_all() is the image that it leaves.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "pmem/recording_media.h"

namespace pindax::test {

// A line or sector about which a crash decides. Counts are of 8-byte pieces of stores.
struct CrashUnit {
  PoolOffset at;
  u32 ordered = 0;    // a prefix of these arrives
  u32 unordered = 0;  // any subset of these; of more than 64, those after the 64th go with it
};
struct CrashChoice {
  u32 ordered = 0;    // how many arrived
  u64 unordered = 0;  // a bit per piece
};
using CrashChooser = std::function<CrashChoice(const CrashUnit&)>;

CrashChooser keep_all();
CrashChooser lose_all();
// Each unit loses all, keeps all, or is cut somewhere, with equal chances.
CrashChooser random_crash(std::mt19937_64& rng);

std::unique_ptr<RecordingMedia> copy_of(const Media& media);

class CrashState {
 public:
  // Before the first event. `before`: the pool as it was then, all of it durable. The log stays and does not change.
  CrashState(std::unique_ptr<RecordingMedia> before, const MediaLog& log);

  // Goes on to the state after `events` events; never back.
  void advance_to(u64 events);
  // In order of place.
  std::vector<CrashUnit> units() const;
  // The media as the chooser decides about each unit; it is asked in order of place.
  std::unique_ptr<RecordingMedia> image(const CrashChooser& choose) const;

 private:
  struct Piece {  // of a store, inside one unit
    u64 at;
    u32 length;
    u64 data;
    bool nt;
    bool flushed;
  };
  using Pieces = std::vector<Piece>;
  CrashUnit describe(u64 unit, const Pieces& pieces) const;
  void add_store(const MediaEvent& e);
  void flush(u64 begin, u64 end);
  void drain();
  void settle(Pieces& pieces, std::size_t count);
  void settle_all();

  const std::unique_ptr<RecordingMedia> durable_;
  const MediaLog& log_;
  const Granularity granularity_;
  const u64 unit_bytes_;
  std::map<u64, Pieces> pending_;  // by unit number, oldest piece first
  u64 position_ = 0;
};

}  // namespace pindax::test
