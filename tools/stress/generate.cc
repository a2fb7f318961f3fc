// SPDX-License-Identifier: BSD-3-Clause
#include "stress/generate.h"

#include <linux/falloc.h>

#include <algorithm>
#include <array>

namespace pindax::stress {
namespace {

struct Weighted {
  Op op;
  u32 weight;
};
constexpr std::array<Weighted, 29> kWeights = {{{Op::kWrite, 9},   {Op::kAppend, 3},   {Op::kRead, 6},    {Op::kTruncate, 5}, {Op::kFallocate, 10},
                                                {Op::kCopy, 3},    {Op::kClone, 5},    {Op::kStat, 2},    {Op::kSeek, 3},     {Op::kFsync, 1},
                                                {Op::kMmap, 2},    {Op::kMunmap, 1},   {Op::kMload, 5},   {Op::kMstore, 6},   {Op::kMsync, 1},
                                                {Op::kMap, 5},     {Op::kUnmap, 2},    {Op::kLoad, 10},   {Op::kStore, 12},   {Op::kPersist, 3},
                                                {Op::kPin, 7},     {Op::kTryPin, 2},   {Op::kUnpin, 9},   {Op::kHold, 4},     {Op::kFork, 1},
                                                {Op::kWriteFromMapping, 2}, {Op::kReadIntoMapping, 2}, {Op::kKill, 1}, {Op::kCheck, 1}}};
constexpr std::array<u32, 5> kModes = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                       FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
constexpr std::array<u32, 4> kShifts = {FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE,
                                        FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE};

bool of_mapping(Op op) { return op == Op::kLoad || op == Op::kStore || op == Op::kPersist || op == Op::kPin || op == Op::kTryPin; }

}  // namespace

void Generator::place(const Runner& runner, Step& s) {
  const u64 limit = runner.options().file_size_max;
  const u64 size = runner.file(s.file).size();
  const u64 reach = random_.chance(85) && size != 0 ? size : limit;
  s.offset = random_.below(reach);
  switch (random_.below(4)) {
    case 0: s.length = random_.between(1, 64); break;
    case 1: s.length = random_.between(1, 6000); break;
    case 2: s.length = random_.between(1, 60'000); break;
    default:  // whole blocks
      s.offset = round_down(s.offset, kBlockSize);
      s.length = kBlockSize * random_.between(1, 10);
  }
  if (random_.chance(10)) s.offset = round_down(s.offset, kBlockSize) + kBlockSize - std::min<u64>(kBlockSize, random_.below(8));
}

Step Generator::change(const Runner& runner, u32 worker, u32 file) {
  Step s{.op = random_.chance(30) ? Op::kTruncate : Op::kFallocate, .worker = worker, .file = file};
  place(runner, s);
  s.library = random_.chance(40);
  if (s.op == Op::kTruncate) {
    s.length = 0;
    if (random_.chance(30)) s.offset = random_.below(runner.options().file_size_max);
    if (random_.chance(10)) s.offset = 0;
    return s;
  }
  s.mode = kModes[random_.below(kModes.size())];
  if (random_.chance(25)) {
    s.mode = kShifts[random_.below(kShifts.size())];
    if (random_.chance(3)) return s;  // not aligned: EINVAL
    s.offset = round_down(s.offset, kBlockSize);
    s.length = round_up(s.length, kBlockSize);
  }
  return s;
}

Step Generator::through_mapping(const Runner& runner, u32 worker) {
  const WorkerModel& w = runner.worker(worker);
  const u32 slot = static_cast<u32>(random_.below(kMappings));
  const MappingModel& m = w.mappings[slot];
  Step s{.worker = worker, .slot = slot};
  if (!m.live) {
    s.op = Op::kMap;
    s.file = random_.chance(85) ? 0 : 1;
    place(runner, s);
    if (random_.chance(60)) s.offset = 0;
    s.length = random_.chance(60) ? runner.options().file_size_max : s.length + kBlockSize;
    s.mode = random_.chance(50) ? 1 : 0;
    return s;
  }
  s.file = m.file;
  place(runner, s);
  if (s.offset < m.range.begin || s.offset >= m.range.end) s.offset = m.range.begin + random_.below(m.range.length());
  return s;
}

Step Generator::plain(const Runner& runner) {
  u32 total = 0;
  for (const Weighted& w : kWeights) total += w.weight;
  u64 at = random_.below(total);
  Op op = Op::kCheck;
  for (const Weighted& w : kWeights) {
    if (at < w.weight) {
      op = w.op;
      break;
    }
    at -= w.weight;
  }
  Step s{.op = op, .worker = static_cast<u32>(random_.below(runner.options().workers)), .file = random_.chance(85) ? 0u : 1u};
  if (of_mapping(op)) {
    s = through_mapping(runner, s.worker);
    if (s.op != Op::kMap) s.op = op;
    s.to = random_.below(kPins);
    if (op == Op::kPin || op == Op::kTryPin) {
      if (s.op != Op::kMap) s.mode = random_.chance(40) ? 1 : 0;
      s.length = std::min<u64>(s.length, 16 * kBlockSize);
    }
  } else if (op == Op::kMap) {
    s = through_mapping(runner, s.worker);
    s.op = Op::kMap;
  } else if (op == Op::kTruncate || op == Op::kFallocate) {
    s = change(runner, s.worker, s.file);
  } else {
    place(runner, s);
    s.slot = static_cast<u32>(random_.below(kMappings));
    s.to = op == Op::kUnpin ? random_.below(kPins) : random_.below(std::max<u64>(1, runner.file(0).size()));
    if (op == Op::kSeek) s.mode = random_.chance(50) ? 1 : 0;
    if (op == Op::kClone && random_.chance(90)) {
      s.offset = round_down(s.offset, kBlockSize);
      s.to = round_down(s.to, kBlockSize);
      s.length = round_up(s.length, kBlockSize);  // or up to the source's end
      s.library = random_.chance(95);
    }
    if (op == Op::kCopy && random_.chance(60)) s.to = round_down(s.to, kBlockSize) + s.offset % kBlockSize;
  }
  s.seed = random_.below(1u << 20);
  return s;
}

// Something that moves the bytes of `range`, by any way that the worker has.
Step Generator::data_step(const Runner& runner, u32 worker, u32 file, ByteRange range) {
  const WorkerModel& w = runner.worker(worker);
  Step s{.op = random_.chance(70) ? Op::kWrite : Op::kRead, .worker = worker, .file = file, .offset = range.begin, .length = range.length(), .seed = random_.below(1u << 20)};
  if (w.mounted[file] && random_.chance(30)) s.op = random_.chance(70) ? Op::kMstore : Op::kMload;
  for (u32 slot = 0; slot < kMappings; ++slot) {
    const MappingModel& m = w.mappings[slot];
    if (!m.live || m.file != file || m.range.begin > range.begin || m.range.end < range.end || !random_.chance(70)) continue;
    s.op = random_.chance(70) ? Op::kStore : Op::kLoad;
    s.slot = slot;
    return s;
  }
  if (random_.chance(20)) {
    s.op = Op::kFallocate;
    s.mode = kModes[random_.between(2, 4)];
    s.library = random_.chance(50);
  }
  return s;
}

std::optional<Step> Generator::pair(const Runner& runner) {
  const u32 workers = runner.options().workers;
  const u32 a = static_cast<u32>(random_.below(workers)), b = static_cast<u32>((a + 1 + random_.below(workers - 1)) % workers);
  const u32 file = random_.chance(85) ? 0 : 1;
  Step first;
  if (random_.chance(15)) {
    first = {.op = Op::kAppend, .worker = a, .file = file, .length = random_.between(1, 9000), .seed = random_.below(1u << 20)};
    then_ = first;
    then_->worker = b;
    then_->length = random_.between(1, 9000);
    do then_->seed = random_.below(1u << 20);
    while (pattern_byte(first.seed, 0) == pattern_byte(then_->seed, 0));  // the first byte tells the order
  } else {
    const u64 size = runner.file(file).size();
    if (size < 2) return std::nullopt;
    u64 middle = random_.between(1, size - 1);
    if (random_.chance(40)) middle = std::max<u64>(1, round_down(middle, kBlockSize));
    first = data_step(runner, a, file, {middle - std::min(middle, random_.between(1, 20'000)), middle});
    then_ = data_step(runner, b, file, {middle, middle + std::min(size - middle, random_.between(1, 20'000))});
  }
  first.together = true;
  return first;
}

Step Generator::next(const Runner& runner) {
  if (then_) {
    const Step s = *then_;
    then_.reset();
    return s;
  }
  if (options_.restarts && random_.below(600) == 0)
    return {.op = random_.chance(50) ? Op::kRemount : Op::kCrash, .mode = static_cast<u32>(random_.below(3))};
  const bool waiting = runner.changing(0) || runner.changing(1);
  since_change_ = waiting ? since_change_ + 1 : 0;
  // A wait lasts a dozen steps or so.
  if (waiting && random_.chance(10 + since_change_ * 3)) {
    const u32 file = runner.changing(0) ? 0 : 1;
    for (u32 w = 0; w < runner.options().workers; ++w)
      for (u32 p = 0; p < kPins; ++p)
        if (const PinModel& pin = runner.worker(w).pins[p]; pin.live && pin.file == file && random_.chance(50)) return {.op = Op::kUnpin, .worker = w, .file = file, .to = p};
  }
  Step s = plain(runner);
  if (s.op == Op::kHold) {
    for (u32 p = 0; p < kPins; ++p)
      if (runner.worker(s.worker).pins[p].live) s.to = p;
    s.length = random_.between(5, 60);
    s.together = true;
    return s;
  }
  // After a pin, often a change of what it pins.
  if (!waiting && random_.chance(6)) {
    for (const PinModel& pin : runner.worker(s.worker).pins) {
      if (!pin.live) continue;
      Step c = change(runner, static_cast<u32>(random_.below(runner.options().workers)), pin.file);
      if (c.op == Op::kFallocate) c.offset = pin.range.begin;
      return c;
    }
  }
  if (!waiting && random_.chance(8))
    if (const auto first = pair(runner)) return *first;
  return s;
}

}  // namespace pindax::stress
