// SPDX-License-Identifier: BSD-3-Clause
//
// Steps that run at the same time; deaths of workers; restarts of the daemon.
#include <fmt/format.h>
#include <linux/falloc.h>

#include <algorithm>

#include "stress/process.h"
#include "stress/random.h"
#include "stress/runner.h"

namespace pindax::stress {
namespace {

bool moves_bytes(Op op) {
  return op == Op::kWrite || op == Op::kRead || op == Op::kLoad || op == Op::kStore || op == Op::kMload || op == Op::kMstore;
}
bool only_looks(Op op) { return op == Op::kRead || op == Op::kLoad || op == Op::kMload; }
bool through_page_cache(Op op) { return op == Op::kMload || op == Op::kMstore; }
bool clears(const Step& s) {
  return s.op == Op::kFallocate && (s.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
}

}  // namespace

bool Runner::can_pair(const Step& a, const Step& b) const {
  if (a.worker == b.worker || busy(a.worker) || busy(b.worker)) return false;
  if (a.op == Op::kHold) {
    const PinModel& pin = models_[a.worker].pins[a.to % kPins];
    return pin.live && (b.op == Op::kTruncate || b.op == Op::kFallocate) && pin.file == b.file && !changing_[b.file];
  }
  const auto ga = ground(a), gb = ground(b);
  if (!ga || !gb || ga->file != gb->file || changing_[ga->file]) return false;
  if (a.op == Op::kAppend && b.op == Op::kAppend) return files_[ga->file].size() + ga->length + gb->length <= options_.file_size_max;
  for (const Step* s : {&*ga, &*gb}) {
    if (!moves_bytes(s->op) && !clears(*s)) return false;
    if (s->offset + s->length > files_[s->file].size() || (clears(*s) && overlaps_pins(*s))) return false;
  }
  if (only_looks(a.op) && only_looks(b.op)) return true;
  ByteRange ra{ga->offset, ga->offset + ga->length}, rb{gb->offset, gb->offset + gb->length};
  // The page cache is coherent page by page.
  if (through_page_cache(a.op) || through_page_cache(b.op)) ra = whole_blocks(ra), rb = whole_blocks(rb);
  return !overlap(ra, rb);
}

bool Runner::run_pair(const Step& a, const Step& b) {
  ++tally_.pairs;
  if (a.op == Op::kHold) return run_hold(a, b);
  if (a.op == Op::kAppend && b.op == Op::kAppend) return run_appends(*ground(a), *ground(b));
  const Step first = *ground(a), second = *ground(b);
  if (!workers_[a.worker]->send(first) || !workers_[b.worker]->send(second)) return fail(a, "a worker died");
  for (const Step& s : {first, second}) {
    const i64 r = await(s.worker);
    if (s.op != Op::kFallocate) {
      if (!judge(s, r)) return false;
      continue;
    }
    if (r != 0) return r == kHang ? judge(s, r) : fail(s, fmt::format("error {}", -r));
    apply_change(s, files_[s.file], number_);
  }
  return true;
}

// R45: whichever comes first, no byte is lost.
bool Runner::run_appends(const Step& a, const Step& b) {
  if (!workers_[a.worker]->send(a) || !workers_[b.worker]->send(b)) return fail(a, "a worker died");
  for (const Step& s : {a, b}) {
    const i64 r = await(s.worker);
    if (r < 0 || static_cast<u64>(r) != s.length) return r == kHang ? judge(s, r) : fail(s, fmt::format("appended {}", r));
  }
  FileModel& f = files_[a.file];
  const u64 end = f.size();
  const Step look{.op = Op::kRead, .worker = a.worker, .file = a.file, .offset = end, .length = 1};
  if (ask(look) != 1) return fail(a, "the appended bytes cannot be read");
  const bool a_first = workers_[a.worker]->buffer()[0] == pattern_byte(a.seed, 0);  // seeds that begin alike are not paired
  for (const Step& s : {a_first ? a : b, a_first ? b : a}) f.put_pattern(f.size(), s.length, s.seed, 0, number_);
  const Step all{.op = Op::kRead, .worker = a.worker, .file = a.file, .offset = end, .length = a.length + b.length};
  return judge(all, ask(all));
}

// A pin that ends by itself after a while, and a change that must not be done before.
bool Runner::run_hold(const Step& hold, const Step& given) {
  const auto change = ground(given);
  if (!change) {
    tally_.skipped += 2;
    return true;
  }
  PinModel& pin = models_[hold.worker].pins[hold.to % kPins];
  Step h = hold;
  h.to %= kPins;
  h.length = std::min<u64>(h.length, 200);
  const bool must = must_wait_for(reach_of(*change, files_[change->file]), pin, files_[change->file]) && !(files_[change->file].cached && change->op == Op::kTruncate);
  if (!workers_[h.worker]->send(h) || !workers_[change->worker]->send(*change)) return fail(hold, "a worker died");
  ++tally_.changes;
  models_[change->worker].pending = *change;
  models_[change->worker].pending_number = number_;
  changing_[change->file] = change->worker;
  sleep_ms(h.length / 2);
  if (const auto early = workers_[change->worker]->answer(0)) {
    if (must && *early == 0) return fail(*change, "ended although a block that it frees is pinned");
    const i64 r = await(h.worker);
    if (r != 0) return fail(hold, fmt::format("unpin: {}", r));
    pin.live = false;
    return end_of_change(change->worker, *early);
  }
  ++tally_.waited;
  const i64 r = await(h.worker);
  pin.live = false;
  if (r != 0) return r == kHang ? judge(h, r) : fail(hold, fmt::format("unpin: {}", r));
  return poll_pending();
}

// SIGKILL: pins end with the worker. The death of one that has a file open may have to wait for a change through the mount.
bool Runner::run_kill(const Step& step) {
  const u32 w = step.worker;
  if (models_[w].pending) {
    const Step s = *models_[w].pending;
    const bool change = s.op != Op::kPin;
    if (change && !certain(s.file)) {
      if (!drain(s.file)) return false;
    } else if (change) {
      // R8: nothing was done. Its own pins would have given EDEADLK, so others hold it.
      workers_[w]->kill();
      changing_[s.file].reset();
    }
  }
  ++tally_.kills;
  workers_[w]->kill();
  models_[w] = {};
  if (!workers_[w]->reap(200)) {
    if (!drain_all()) return false;
    if (!workers_[w]->reap(options_.patience_ms)) return fail(step, "the killed process does not end\n" + arena_.waiters());
  }
  workers_[w].reset();
  return start_worker(w) && poll_pending();
}

bool Runner::stop_workers(bool kill) {
  for (u32 w = 0; w < options_.workers; ++w) {
    if (!workers_[w]) continue;
    if (kill) workers_[w]->kill();
    else workers_[w]->close();
  }
  for (u32 w = 0; w < options_.workers; ++w) {
    if (!workers_[w]) continue;
    if (!workers_[w]->reap(options_.patience_ms)) return fail({}, "a worker does not end");
    workers_[w].reset();
    models_[w] = {};
  }
  return true;
}

bool Runner::run_restart(const Step& step) {
  if (!arena_.owned()) return true;
  if (!drain_all()) return false;
  const bool crash = step.op == Op::kCrash;
  if (crash) {
    // Pages that only the kernel has are lost with the connection: written back first. Everything else was acknowledged.
    for (u32 w = 0; w < options_.workers; ++w)
      for (u32 file = 0; file < kFiles; ++file) {
        const auto sync = ground({.op = Op::kMsync, .worker = w, .file = file});
        if (sync && !judge(*sync, ask(*sync))) return false;
      }
    ++tally_.crashes;
    if (const Status s = arena_.kill_daemon(); !s.ok()) return fail(step, std::string(s.message()));
  }
  // Mode 2: the former clients outlive the daemon, and end only after the next one has come (R43).
  const bool outlive = crash && step.mode == 2;
  if (!outlive && !stop_workers(step.mode != 0)) return false;
  if (!crash) {
    ++tally_.remounts;
    if (const Status s = arena_.unmount(); !s.ok()) return fail(step, std::string(s.message()));
    if (auto clean = arena_.check(); !clean.ok()) return fail(step, std::string(clean.status().message()));
  }
  if (const Status s = arena_.mount(); !s.ok()) return fail(step, std::string(s.message()));
  if (outlive && !stop_workers(true)) return false;
  for (FileModel& f : files_) f.cached = false;
  for (u32 w = 0; w < options_.workers; ++w)
    if (!start_worker(w)) return false;
  return check_all(step);
}

}  // namespace pindax::stress
