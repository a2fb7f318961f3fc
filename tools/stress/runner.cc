// SPDX-License-Identifier: BSD-3-Clause
#include "stress/runner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "stress/process.h"

namespace pindax::stress {
namespace {

std::string result_text(i64 r) {
  if (r <= -kSignal && r > -kSignal - 100) return strsignal(static_cast<int>(-r - kSignal));
  if (r == -100'000) return "no answer";
  if (r < 0) return strerrorname_np(static_cast<int>(-r)) != nullptr ? strerrorname_np(static_cast<int>(-r)) : fmt::format("error {}", -r);
  return std::to_string(r);
}

bool uses_library_memory(Op op) {
  return op == Op::kLoad || op == Op::kStore || op == Op::kPersist || op == Op::kPin || op == Op::kTryPin;
}

}  // namespace

Runner::~Runner() {
  for (auto& w : workers_)
    if (w) w->kill();
  bool stuck = false;
  for (auto& w : workers_)
    if (w && !w->reap(5000)) stuck = true;
  if (!stuck) return;
  arena_.abort_connection();
  for (auto& w : workers_)
    if (w && w->buffer() != nullptr) (void)w->reap(5000);
}

bool Runner::fail(const Step& step, const std::string& text) {
  if (failure_.empty()) failure_ = fmt::format("step {} ({}): {}", number_, step_line(step), text);
  return false;
}

bool Runner::start_worker(u32 w) {
  models_[w] = {};
  workers_[w] = Worker::start(arena_.path(), options_.file_size_max);
  if (!workers_[w]) return fail({}, "a worker cannot be started");
  const i64 code = await(w);
  return code == 0 || fail({}, fmt::format("a worker cannot attach and open: {}", result_text(code)));
}

bool Runner::start() {
  for (u32 i = 0; i < kFiles; ++i) {
    const std::string path = file_path(arena_.path(), i);
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return fail({}, "cannot make " + path);
    ::close(fd);
    files_[i] = {};
  }
  for (u32 w = 0; w < options_.workers; ++w)
    if (!start_worker(w)) return false;
  return true;
}

i64 Runner::await(u32 w) {
  const auto answer = workers_[w]->answer(options_.patience_ms);
  return answer ? *answer : kHang;
}

i64 Runner::ask(const Step& step) {
  if (!workers_[step.worker]->send(step)) return -EPIPE;
  return await(step.worker);
}

bool Runner::run(const Step& given) {
  Step step = given;
  step.worker %= options_.workers;
  step.file %= kFiles;
  ++number_;
  ++tally_.steps;
  if (options_.trace) fmt::print(stderr, "{:6} {}\n", number_, step_line(step));
  if (!poll_pending()) return false;
  if (first_) {
    const Step a = *first_;
    first_.reset();
    if (can_pair(a, step)) return run_pair(a, step);
    if (!run_one(a)) return false;
  } else if (step.together) {
    first_ = step;
    return true;
  }
  return run_one(step);
}

bool Runner::finish() {
  if (first_) {
    const Step a = *first_;
    first_.reset();
    if (!run_one(a)) return false;
  }
  return drain_all() && check_all({});
}

bool Runner::run_one(const Step& step) {
  switch (step.op) {
    case Op::kCheck: return check_all(step);
    case Op::kKill: return run_kill(step);
    case Op::kRemount:
    case Op::kCrash: return run_restart(step);
    case Op::kHold: ++tally_.skipped; return true;  // only together with a change
    default: break;
  }
  const auto grounded = ground(step);
  if (!grounded) {
    ++tally_.skipped;
    return true;
  }
  if (step.op == Op::kTruncate || step.op == Op::kFallocate) return run_change(*grounded);
  if (step.op == Op::kPin || step.op == Op::kTryPin) return run_pin(*grounded);
  return judge(*grounded, ask(*grounded));
}

// What goes on beside a change that waits. Loads and stores of the range that it will take away are carried out before it.
bool Runner::allowed_while_changing(const Step& s) const {
  if (s.op == Op::kUnpin) return true;
  if (!certain(s.file)) return false;
  if (s.op == Op::kMap || s.op == Op::kUnmap || uses_library_memory(s.op)) return true;
  const Step& change = *models_[*changing_[s.file]].pending;
  const bool in_place = s.offset + s.length <= files_[s.file].size();
  if (s.op == Op::kRead) return !files_[s.file].cached && in_place;
  if (s.op == Op::kWrite) return change.library && !files_[s.file].cached && in_place && !overlap(whole_blocks({s.offset, s.offset + s.length}), reach_of(change, files_[s.file]).may);
  return false;
}

std::optional<Step> Runner::ground(Step s) const {
  const WorkerModel& w = models_[s.worker];
  if (busy(s.worker)) return std::nullopt;
  s.slot %= uses_library_memory(s.op) || s.op == Op::kMap || s.op == Op::kUnmap || s.op == Op::kFork || s.op == Op::kWriteFromMapping || s.op == Op::kReadIntoMapping ? kMappings : kFiles;
  if (uses_library_memory(s.op) || s.op == Op::kUnmap || s.op == Op::kWriteFromMapping || s.op == Op::kReadIntoMapping || s.op == Op::kFork) {
    if (!w.mappings[s.slot].live) return std::nullopt;
    if (uses_library_memory(s.op) || s.op == Op::kUnmap) s.file = w.mappings[s.slot].file;
  }
  if (s.op == Op::kUnpin) {
    s.to %= kPins;
    if (!w.pins[s.to].live) return std::nullopt;
    s.file = w.pins[s.to].file;
    return s;
  }
  if (changing_[s.file] && !allowed_while_changing(s)) return std::nullopt;
  const u64 limit = options_.file_size_max;
  const u64 size = files_[s.file].size();
  switch (s.op) {
    case Op::kWrite:
    case Op::kRead:
      if (s.offset >= limit) return std::nullopt;
      s.length = std::min(s.length, limit - s.offset);
      return s;
    case Op::kAppend:
      s.length = std::min(s.length, limit - size);
      return s.length == 0 ? std::nullopt : std::optional(s);
    case Op::kTruncate: s.offset = std::min(s.offset, limit); return s;
    case Op::kFallocate:
      if (s.offset >= limit || s.length == 0) return std::nullopt;
      s.length = std::min(s.length, limit - s.offset);
      if ((s.mode & FALLOC_FL_INSERT_RANGE) != 0 && size + s.length > limit) return std::nullopt;
      return s;
    case Op::kCopy:
    case Op::kClone: {
      const u64 source = files_[s.slot].size();
      if (changing_[s.slot] || s.offset >= source || s.to >= limit) return std::nullopt;
      s.length = std::min({s.length, source - s.offset, limit - s.to});
      if (s.slot == s.file && overlap({s.offset, s.offset + s.length}, {s.to, s.to + s.length})) return std::nullopt;
      // A clone waits for pins of both files, as a change does; it is not the change that this tester lets wait.
      for (const WorkerModel& other : models_)
        for (const PinModel& pin : other.pins)
          if (s.op == Op::kClone && pin.live &&
              ((pin.file == s.slot && overlap(whole_blocks(pin.range), whole_blocks({s.offset, s.offset + s.length}))) ||
               (pin.file == s.file && overlap(whole_blocks(pin.range), whole_blocks({std::min(s.to, files_[s.file].size()), s.to + s.length})))))
            return std::nullopt;
      return s.length == 0 ? std::nullopt : std::optional(s);
    }
    case Op::kFork:  // the child's end closes descriptors, which waits for the kernel's inode lock
      return changing_[0] || changing_[1] ? std::nullopt : std::optional(s);
    case Op::kStat:
    case Op::kFsync: return s;
    case Op::kSeek: return s;
    default: return ground_memory(s);
  }
}

std::optional<Step> Runner::ground_memory(Step s) const {
  const WorkerModel& w = models_[s.worker];
  const u64 size = files_[s.file].size();
  switch (s.op) {
    case Op::kMmap: return w.mounted[s.file] ? std::nullopt : std::optional(s);
    case Op::kMunmap:
    case Op::kMsync: return w.mounted[s.file] ? std::optional(s) : std::nullopt;
    case Op::kMload:
    case Op::kMstore: {
      if (!w.mounted[s.file] || s.offset >= size) return std::nullopt;
      s.length = std::min(s.length, size - s.offset);
      // A fill that meets a pin waits for seconds and then fails: a rule of its own, with tests of its own.
      for (const WorkerModel& other : models_)
        for (const PinModel& pin : other.pins)
          if (pin.live && pin.file == s.file && overlap(whole_blocks(pin.range), whole_blocks({s.offset, s.offset + s.length}))) return std::nullopt;
      return s;
    }
    case Op::kMap: {
      if (w.mappings[s.slot].live) return std::nullopt;
      s.offset = round_down(s.offset, kBlockSize);
      if (s.offset >= options_.file_size_max || s.length == 0) return std::nullopt;
      s.length = std::min(s.length, options_.file_size_max - s.offset);
      return s;
    }
    case Op::kUnmap: return s;
    case Op::kWriteFromMapping:
    case Op::kReadIntoMapping: {
      const MappingModel& m = w.mappings[s.slot];
      const u64 memory_size = files_[m.file].size();
      if (changing_[m.file] || s.to < m.range.begin || s.to >= std::min(m.range.end, memory_size) || s.offset >= size) return std::nullopt;
      s.length = std::min({s.length, std::min(m.range.end, memory_size) - s.to, size - s.offset});
      if (m.file == s.file && overlap({s.offset, s.offset + s.length}, {s.to, s.to + s.length})) return std::nullopt;
      return s;
    }
    default: break;
  }
  // load, store, persist, pins: offsets of the file, within the mapping
  const MappingModel& m = w.mappings[s.slot];
  if (s.offset < m.range.begin || s.offset >= m.range.end || s.length == 0) return std::nullopt;
  s.length = std::min(s.length, m.range.end - s.offset);
  if (s.op == Op::kPin || s.op == Op::kTryPin) {
    s.to %= kPins;
    return w.pins[s.to].live ? std::nullopt : std::optional(s);
  }
  if (s.offset < size) {
    s.length = std::min(s.length, size - s.offset);
    return s;
  }
  if (s.op == Op::kPersist) return std::nullopt;
  if (s.offset < round_up(size, kBlockSize)) {  // the last block's rest: a store there must leave nothing behind (R46)
    if (s.op == Op::kLoad) return std::nullopt;
    s.length = std::min(s.length, round_up(size, kBlockSize) - s.offset);
    return s;
  }
  s.length = 1;  // SIGBUS
  return s;
}

bool Runner::compare(const Step& s, u64 offset, u64 length) {
  tally_.compared_bytes += length;
  const std::string wrong = files_[s.file].compare(offset, workers_[s.worker]->buffer(), length);
  return wrong.empty() || fail(s, wrong);
}

// A translation that a truncate left behind goes soon.
bool Runner::gone_in_the_end(const Step& s) {
  FileModel& f = files_[s.file];
  const u64 end = now_ms() + kLeftBehindMs;
  while (f.left_behind && now_ms() < end) {
    sleep_ms(2);
    if (ask(s) == -(kSignal + SIGBUS)) return true;
  }
  return false;
}

// Steps that move bytes.
bool Runner::judge_bytes(const Step& s, i64 r) {
  FileModel& f = files_[s.file];
  const u64 got = static_cast<u64>(r);
  switch (s.op) {
    case Op::kRead: {
      const u64 want = s.offset >= f.size() ? 0 : std::min(s.length, f.size() - s.offset);
      if (r < 0 || got != want) return fail(s, fmt::format("read {}, must be {}", result_text(r), want));
      return compare(s, s.offset, want);
    }
    case Op::kLoad:
    case Op::kStore:
      if (s.offset >= round_up(f.size(), kBlockSize))
        return r == -(kSignal + SIGBUS) || gone_in_the_end(s) || fail(s, fmt::format("an access beyond the end of file (size {}) gave {}, must be SIGBUS", f.size(), result_text(r)));
      [[fallthrough]];
    case Op::kMload:
    case Op::kMstore:
    case Op::kWrite:
    case Op::kAppend:
    case Op::kCopy:
    case Op::kWriteFromMapping:
    case Op::kReadIntoMapping:
      if (r < 0 || got != s.length) return fail(s, fmt::format("{}, must be {}", result_text(r), s.length));
      break;
    default: break;
  }
  if (s.op == Op::kMload || s.op == Op::kMstore) f.cached = true;
  if (s.op == Op::kMload || s.op == Op::kLoad) return compare(s, s.offset, s.length);
  if (s.op == Op::kAppend) f.put_pattern(f.size(), s.length, s.seed, 0, number_);
  else if (s.op == Op::kCopy) {
    const std::vector<u8> bytes(files_[s.slot].bytes().begin() + static_cast<std::ptrdiff_t>(s.offset),
                                files_[s.slot].bytes().begin() + static_cast<std::ptrdiff_t>(s.offset + s.length));
    f.put(s.to, bytes.data(), bytes.size(), number_);
  } else if (s.op == Op::kWriteFromMapping || s.op == Op::kReadIntoMapping) {
    FileModel& mapped = files_[models_[s.worker].mappings[s.slot].file];
    const bool write = s.op == Op::kWriteFromMapping;
    const FileModel& source = write ? mapped : f;
    const auto at = source.bytes().begin() + static_cast<std::ptrdiff_t>(write ? s.to : s.offset);
    const std::vector<u8> bytes(at, at + static_cast<std::ptrdiff_t>(s.length));
    (write ? f : mapped).put(write ? s.offset : s.to, bytes.data(), s.length, number_);
  } else if (s.op == Op::kWrite || s.offset < f.size()) f.put_pattern(s.offset, s.length, s.seed, s.offset, number_);
  return true;
}

bool Runner::judge(const Step& s, i64 r) {
  if (r == kHang) return fail(s, fmt::format("no answer within {} s\n{}", options_.patience_ms / 1000, arena_.waiters()));
  if (r == -EPIPE) return fail(s, "the worker died");
  FileModel& f = files_[s.file];
  WorkerModel& w = models_[s.worker];
  switch (s.op) {
    case Op::kStat:
      return (r >= 0 && static_cast<u64>(r) == f.size()) || fail(s, fmt::format("size {}, must be {}", result_text(r), f.size()));
    case Op::kSeek: {
      if (r == -ENXIO) {
        const bool zeros = s.offset >= f.size() || std::all_of(f.bytes().begin() + static_cast<std::ptrdiff_t>(s.offset), f.bytes().end(), [](u8 b) { return b == 0; });
        return (s.mode == 0 && zeros) || s.offset >= f.size() || fail(s, "ENXIO although there are data");
      }
      if (r < 0 || static_cast<u64>(r) < s.offset || static_cast<u64>(r) > f.size()) return fail(s, fmt::format("{}, size {}", result_text(r), f.size()));
      if (s.mode != 0) return true;
      const auto data = std::find_if(f.bytes().begin() + static_cast<std::ptrdiff_t>(s.offset), f.bytes().end(), [](u8 b) { return b != 0; });
      const u64 at = static_cast<u64>(data - f.bytes().begin());
      return at >= static_cast<u64>(r) || fail(s, fmt::format("SEEK_DATA skips to {} over data at {}", r, at));
    }
    case Op::kClone: {
      // FUSE does not forward the ioctl; and parts of blocks are shared only where both files end in them.
      const u64 end = s.offset + s.length, source = files_[s.slot].size();
      const bool odd = s.offset % kBlockSize != 0 || s.to % kBlockSize != 0 ||
                       (s.length % kBlockSize != 0 && (end != source || s.to + s.length < f.size())) ||
                       (s.slot == s.file && overlap(whole_blocks({s.offset, end}), whole_blocks({s.to, s.to + s.length})));
      if (s.library ? r == -EAGAIN || (odd && r == -EINVAL) : r == -EOPNOTSUPP || r == -EXDEV || r == -EINVAL || r == -ENOTTY) {
        ++tally_.refused;
        return true;
      }
      if (r != 0) return fail(s, result_text(r));
      const std::vector<u8> bytes(files_[s.slot].bytes().begin() + static_cast<std::ptrdiff_t>(s.offset),
                                  files_[s.slot].bytes().begin() + static_cast<std::ptrdiff_t>(s.offset + s.length));
      f.put(s.to, bytes.data(), bytes.size(), number_);
      return true;
    }
    case Op::kFork:
      if (r == 0) return true;
      return fail(s, r == 1 ? "the library works in a child" : r == 2 ? "a child has the mapping" : fmt::format("a child ended with {}", r));
    case Op::kFsync:
    case Op::kMsync:
    case Op::kPersist:
    case Op::kMmap:
    case Op::kMunmap:
    case Op::kMap:
    case Op::kUnmap:
    case Op::kUnpin:
      if (r != 0) return fail(s, result_text(r));
      if (s.op == Op::kMmap || s.op == Op::kMunmap) w.mounted[s.file] = s.op == Op::kMmap;
      if (s.op == Op::kMap) w.mappings[s.slot] = {true, s.file, {s.offset, s.offset + s.length}};
      if (s.op == Op::kUnmap) w.mappings[s.slot].live = false;
      if (s.op == Op::kUnpin) {
        w.pins[s.to].live = false;
        return poll_pending();
      }
      return true;
    default: return judge_bytes(s, r);
  }
}

bool Runner::check_file(const Step& step, u32 file) {
  for (u32 i = 0; i < options_.workers; ++i) {
    if (busy(i)) continue;
    Step s{.op = Op::kStat, .worker = i, .file = file};
    if (!judge(s, ask(s))) return fail(step, "check");
    s = {.op = Op::kRead, .worker = i, .file = file, .length = options_.file_size_max};
    if (!judge(s, ask(s))) return false;
    break;
  }
  for (u32 i = 0; i < options_.workers; ++i) {
    if (busy(i)) continue;
    for (u32 m = 0; m < kMappings; ++m) {
      const MappingModel& mapping = models_[i].mappings[m];
      const u64 end = std::min(mapping.range.end, files_[file].size());
      if (!mapping.live || mapping.file != file || mapping.range.begin >= end) continue;
      const Step s{.op = Op::kLoad, .worker = i, .file = file, .slot = m, .offset = mapping.range.begin, .length = end - mapping.range.begin};
      if (!judge(s, ask(s))) return false;
    }
    const auto mounted = ground({.op = Op::kMload, .worker = i, .file = file, .length = files_[file].size()});
    if (mounted && !judge(*mounted, ask(*mounted))) return false;
  }
  return true;
}

bool Runner::check_all(const Step& step) {
  for (u32 file = 0; file < kFiles; ++file)
    if (!changing_[file] && !check_file(step, file)) return false;
  return true;
}

}  // namespace pindax::stress
