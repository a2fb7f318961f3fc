// SPDX-License-Identifier: BSD-3-Clause
//
// What pindax-fsx believes: each file's bytes, and what each worker has mapped and pinned.
#pragma once

#include <linux/falloc.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/types.h"
#include "stress/step.h"
#include "stress/worker.h"

namespace pindax::stress {

constexpr bool overlap(ByteRange a, ByteRange b) { return a.begin < b.end && b.begin < a.end; }
constexpr ByteRange whole_blocks(ByteRange r) { return {round_down(r.begin, kBlockSize), round_up(r.end, kBlockSize)}; }

class FileModel {
 public:
  u64 size() const { return bytes_.size(); }
  const std::vector<u8>& bytes() const { return bytes_; }
  bool cached = false;       // the kernel may hold dirty pages
  bool left_behind = false;  // a truncate may have left translations behind for a while

  // `step`: the number that a report names as the last writer of a byte.
  void put(u64 offset, const u8* from, u64 length, u64 step);
  void put_pattern(u64 offset, u64 length, u64 seed, u64 seed_offset, u64 step);
  void clear(ByteRange range, u64 step);  // within the size: zeros
  void resize(u64 size, u64 step);
  void remove(ByteRange range, u64 step);             // collapse
  void insert(u64 offset, u64 length, u64 step);

  // Blocks that surely exist: a change that frees them may not pass a pin over them.
  void allocate(ByteRange range);
  void free_inside(ByteRange range);  // whole blocks only
  bool solid(u64 block) const { return block < solid_.size() && solid_[block]; }

  // Empty, or what is wrong with `got`.
  std::string compare(u64 offset, const u8* got, u64 length) const;

 private:
  std::vector<u8> bytes_;
  std::vector<u32> writer_;
  std::vector<bool> solid_;
};

struct MappingModel {
  bool live = false;
  u32 file = 0;
  ByteRange range;
};
struct PinModel {
  bool live = false;
  u32 file = 0;
  ByteRange range;
  // The waiting change (its step) behind which this pin was asked for, if the answer took its time: which of the two came first is not
  // known, since their answers come by different ways. 0: none.
  u64 behind = 0;
};
struct WorkerModel {
  std::array<MappingModel, kMappings> mappings{};
  std::array<PinModel, kPins> pins{};
  std::array<bool, kFiles> mounted{};
  std::optional<Step> pending;  // sent, not answered: a change that waits for pins, or a pin that waits for a change
  u64 pending_number = 0;       // its step's number

  bool holds_pins() const {
    for (const PinModel& p : pins)
      if (p.live) return true;
    return false;
  }
};

// What a truncate or fallocate may have to wait for: pins that touch `may`; it surely waits for those that `must` tells.
struct ChangeReach {
  ByteRange may;
  ByteRange frees;  // whole blocks within, if they are solid, leave the file
};
inline constexpr u32 kShiftModes = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;
bool impossible_shift(const Step& step, const FileModel& file);  // EINVAL
ChangeReach reach_of(const Step& step, const FileModel& file);
bool may_wait_for(const ChangeReach& reach, const PinModel& pin);
bool must_wait_for(const ChangeReach& reach, const PinModel& pin, const FileModel& file);

// The effect of a change that succeeded.
void apply_change(const Step& step, FileModel& file, u64 number);

}  // namespace pindax::stress
