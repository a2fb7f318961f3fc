// SPDX-License-Identifier: BSD-3-Clause
//
// Changes that meet pins, and pins that meet changes.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "stress/process.h"
#include "stress/runner.h"

namespace pindax::stress {
namespace {

const char* name_of(i64 result) {
  const char* name = strerrorname_np(static_cast<int>(-result));
  return name != nullptr ? name : "?";
}

}  // namespace

// A SETATTR over pages that may be dirty does not wait for pins (C6), however long its answer takes.
bool Runner::certain(u32 file) const {
  const Step& change = *models_[*changing_[file]].pending;
  return must_wait(file) && !(change.op == Op::kTruncate && !change.library && files_[file].cached);
}

bool Runner::must_wait(u32 file) const {
  const Step& change = *models_[*changing_[file]].pending;
  const u64 number = models_[*changing_[file]].pending_number;
  const ChangeReach reach = reach_of(change, files_[file]);
  for (const WorkerModel& w : models_)
    for (const PinModel& pin : w.pins)
      if (pin.file == file && pin.behind != number && must_wait_for(reach, pin, files_[file])) return true;
  return false;
}

bool Runner::overlaps_pins(const Step& change) const {
  const ChangeReach reach = reach_of(change, files_[change.file]);
  for (const WorkerModel& w : models_)
    for (const PinModel& pin : w.pins)
      if (pin.file == change.file && may_wait_for(reach, pin)) return true;
  return false;
}

bool Runner::blocked(u32 file) const { return overlaps_pins(*models_[*changing_[file]].pending); }

// The answer of worker w's pending change. Its pins are still as they were when the answer was seen.
bool Runner::end_of_change(u32 w, i64 r) {
  const Step s = *models_[w].pending;
  FileModel& f = files_[s.file];
  const bool pinned = must_wait(s.file);
  const bool others_wait = [&] {
    for (const WorkerModel& m : models_)
      if (&m != &models_[w] && m.pending) return true;
    return false;
  }();
  models_[w].pending.reset();
  changing_[s.file].reset();
  const u64 number = std::exchange(models_[w].pending_number, 0);
  const bool kernel_truncate = s.op == Op::kTruncate && !s.library;
  if (r == kHang) return fail(s, fmt::format("step {} does not end although nobody is in its way\n{}", number, arena_.waiters()));
  if (r == -EPIPE) return fail(s, "the worker died");
  if (impossible_shift(s, f)) return r == -EINVAL || fail(s, fmt::format("step {}: {}, must be EINVAL", number, name_of(r)));
  if (r == 0) {
    if (pinned && !(kernel_truncate && f.cached))
      return fail(s, fmt::format("step {} ended although a block that it frees is pinned", number));
    const ChangeReach reach = reach_of(s, f);
    apply_change(s, f, number);
    // C6: the blocks went to quarantine under the pins, those that a fill had put into holes among them; what their holders see
    // until they have unpinned, and the recall that follows has come, is their own affair.
    if (!kernel_truncate || !f.cached) return true;
    f.left_behind = true;
    return unpin_all(s.file, reach.may);
  }
  ++tally_.refused;
  if (r == -EDEADLK && models_[w].holds_pins()) {
    for (const PinModel& pin : models_[w].pins)
      if (pin.file == s.file && may_wait_for(reach_of(s, f), pin)) return true;
    if (others_wait) return true;
  }
  if (r == -ETXTBSY && kernel_truncate && f.cached && pinned) return true;
  return fail(s, fmt::format("step {}: {}", number, name_of(r)));
}

bool Runner::run_change(const Step& s) {
  ++tally_.changes;
  const bool may_wait = overlaps_pins(s);
  if (!workers_[s.worker]->send(s)) return fail(s, "the worker died");
  models_[s.worker].pending = s;
  models_[s.worker].pending_number = number_;
  changing_[s.file] = s.worker;
  if (!may_wait) return end_of_change(s.worker, await(s.worker));
  if (const auto r = workers_[s.worker]->answer(options_.glance_ms)) return end_of_change(s.worker, *r);
  ++tally_.waited;
  return true;
}

bool Runner::end_of_pin(const Step& s, i64 r) {
  const bool waited = models_[s.worker].pending.has_value();
  models_[s.worker].pending.reset();
  if (r == 0) {
    const u64 behind = waited && changing_[s.file] ? models_[*changing_[s.file]].pending_number : 0;
    models_[s.worker].pins[s.to] = {true, s.file, {s.offset, s.offset + s.length}, behind};
    return true;
  }
  if (r == kHang || r == -EPIPE) return judge(s, r);
  if (r == -EAGAIN && s.op == Op::kTryPin) return true;
  if (r == -EDEADLK && models_[s.worker].holds_pins()) return true;
  if (s.offset + s.length > round_up(files_[s.file].size(), kBlockSize)) return true;  // what is not there may be refused
  return fail(s, name_of(r));
}

bool Runner::run_pin(const Step& s) {
  if (!workers_[s.worker]->send(s)) return fail(s, "the worker died");
  const bool may_wait = s.op == Op::kPin && changing_[s.file];
  const auto r = workers_[s.worker]->answer(may_wait ? options_.glance_ms : options_.patience_ms);
  if (r) return end_of_pin(s, *r);
  if (!may_wait) return judge(s, kHang);
  models_[s.worker].pending = s;  // behind the change
  models_[s.worker].pending_number = number_;
  return true;
}

// Looks at everything that is pending; awaits what nothing stops any more.
bool Runner::poll_pending() {
  for (bool again = true; again;) {
    again = false;
    for (u32 w = 0; w < options_.workers; ++w) {
      if (!models_[w].pending) continue;
      const Step s = *models_[w].pending;
      const bool pin = s.op == Op::kPin;
      const bool wait = pin ? !changing_[s.file] : !blocked(s.file);
      auto r = workers_[w]->answer(wait ? options_.patience_ms : 0);
      if (!r && !wait) continue;
      if (!(pin ? end_of_pin(s, r ? *r : kHang) : end_of_change(w, r ? *r : kHang))) return false;
      again = true;
    }
  }
  return true;
}

bool Runner::unpin_all(u32 file, ByteRange range) {
  for (u32 w = 0; w < options_.workers; ++w)
    for (u32 p = 0; p < kPins; ++p) {
      const PinModel& pin = models_[w].pins[p];
      if (!pin.live || pin.file != file || !overlap(whole_blocks(pin.range), range)) continue;
      if (busy(w)) {  // with the other file, or a pin that waits: then it is let through first
        const Step s = *models_[w].pending;
        if (s.file == file || !drain(s.file)) continue;
      }
      if (!pin.live) continue;
      const Step s{.op = Op::kUnpin, .worker = w, .file = file, .to = p};
      if (!judge(s, ask(s))) return false;
    }
  return true;
}

// Ends the pending change of `file` by taking every pin out of its way.
bool Runner::drain(u32 file) {
  const u64 end = now_ms() + options_.patience_ms;
  while (changing_[file]) {
    const Step change = *models_[*changing_[file]].pending;
    if (!unpin_all(file, reach_of(change, files_[file]).may) || !poll_pending()) return false;
    if (now_ms() > end) return fail(change, "does not end although its pins were taken away\n" + arena_.waiters());
  }
  return true;
}

bool Runner::drain_all() {
  for (u32 file = 0; file < kFiles; ++file)
    if (!drain(file)) return false;
  return poll_pending();
}

}  // namespace pindax::stress
