// SPDX-License-Identifier: BSD-3-Clause
#include "explorer.h"

#include <cstring>

#include "fmt/format.h"
#include "format/decode.h"
#include "fs/file_system_impl.h"
#include "fsck/fsck.h"

namespace pindax::crash {

using Kind = MediaEvent::Kind;

namespace {

constexpr u64 kPoolBytes = format::kMinPoolBytes;
constexpr char kFirstBoot = 'A', kSecondBoot = 'B', kThirdBoot = 'C';

}  // namespace

namespace {

// Nothing but what the next mount sees to. A copy of the superblock or of the journal's header that a crash tore counts as such.
std::string check_with_fsck(RecordingMedia& image, bool recovered) {
  FsckOptions options;
  options.findings_max = 64;
  const char* when = recovered ? "after the recovery" : "before the mount";
  const auto report = fsck(image, options);
  if (!report.ok()) return fmt::format("fsck {}: {}", when, report.status().message());
  for (const FsckFinding& f : report->findings) {
    const bool copy = f.structure == "superblock" || f.structure == "journal";
    if (f.severity != FsckSeverity::kNote && (recovered || !copy))
      return fmt::format("fsck {}: {}: {}: {}", when, f.structure, f.where, f.message);
  }
  return {};
}

}  // namespace

Result<BaseImage> make_base_image(const Setting& setting) {
  BaseImage base;
  base.bytes.assign(kPoolBytes, static_cast<std::byte>(kPoison));
  Executor executor(1);
  {
    RecordingMedia media(kPoolBytes, setting.granularity);
    media.load(base.bytes.data());
    PINDAX_TRY(make_file_system(media, {}));
    World world(media, executor);
    PINDAX_TRY(world.mount(setting.sync, kFirstBoot, false));
    PINDAX_TRY(build_tree(world, base.model));
    std::memcpy(base.bytes.data(), media.bytes(), kPoolBytes);
  }
  RecordingMedia media(kPoolBytes, setting.granularity);
  media.load(base.bytes.data());
  World world(media, executor);
  PINDAX_TRY(world.mount(setting.sync, kFirstBoot, false));
  for (u32 ag = 0; ag < world.fs->store().geometry().ag_count; ++ag) {
    PINDAX_ASSIGN(const auto runs, world.fs->allocator().free_runs(ag));
    for (const BlockRun& r : runs)
      std::memset(base.bytes.data() + block_offset(r.start).value, kPoison, r.length * kBlockSize);
  }
  (void)check_leaks(*world.fs, executor, 0);
  base.data_blocks = free_and_inode_blocks(*world.fs);
  return base;
}

Explorer::Explorer(const std::vector<BaseImage>& images, u64 seed, const Limits& limits, Executor& executor)
    : images_(images), seed_(seed), limits_(limits), executor_(executor), pools_(std::size(kSettings)) {}

u64 Explorer::workload_seed() const {
  u64 h = mix(seed_, workload_.setting);
  for (u32 op : workload_.operations) h = mix(h, op);
  return h;
}

bool Explorer::prepare(const Workload& workload) {
  workload_ = workload;
  setting_ = &kSettings[workload.setting];
  base_ = &images_[workload.setting];
  history_.clear();
  Moment start;
  start.model = base_->model;
  for (const auto& [id, inode] : start.model.inodes) start.data_durable[id] = 0;
  history_.push_back(std::move(start));
  for (u64 i = 0; i < workload.operations.size(); ++i)
    if (!model_operation(history_, all_[workload.operations[i]], i + 1, *setting_)) return false;

  auto& pools = pools_[workload.setting];
  if (!pools) {
    pools = std::make_unique<Pools>(kPoolBytes, setting_->granularity);
    pools->run.load(base_->bytes.data());
  }
  p_ = pools.get();
  p_->run.revert();
  p_->durable.load(base_->bytes.data());
  p_->image.load(p_->durable.bytes());
  log_.clear();
  seen_.clear();
  first_event_ = 0;
  acked_ = 0;
  workload_violations_ = 0;
  return true;
}

// Does the workload. What its last operation and the clean-up after it do is explored; shorter workloads see to the rest.
std::string Explorer::record() {
  p_->run.record(&log_);
  p_->run.set_filter(planted());
  World world(p_->run, executor_);
  std::string problem;
  if (Status s = world.mount(setting_->sync, kFirstBoot, true); !s.ok()) problem = fmt::format("mount: {}", s.message());
  for (u64 i = 0; i < workload_.operations.size() && problem.empty(); ++i) {
    const Operation& op = all_[workload_.operations[i]];
    if (i + 1 == workload_.operations.size()) first_event_ = log_.events.size();
    const u32 before = history_[i].model.find(op.path);
    world.model_inode = before != 0 ? before : history_[i + 1].model.find(op.path);
    world.gate.close();
    const Status s = do_operation(world, op, i + 1);
    if (!s.ok()) problem = fmt::format("{}: {}", op.text(), s.message());
    p_->run.mark(kAckMark);
    world.gate.drain();
  }
  world.held.clear();
  executor_.drain();
  p_->run.record(nullptr);
  p_->run.set_filter({});
  world.kill();
  return problem;
}

RecordingMedia::Filter Explorer::planted() const {
  if (!plant_) return {};
  format::Superblock sb;
  std::memcpy(&sb, base_->bytes.data(), sizeof sb);
  return plant_(format::geometry_of(sb));
}

Expectation Explorer::expectation(const History& history, u64 acked, const Setting& setting, bool memory) {
  Expectation e;
  e.history = &history;
  const u64 last = history.size() - 1;
  e.hi = std::min(acked + 1, last);
  e.lo = memory ? acked : history[acked].names_durable;
  e.exact = memory;
  e.data_lo_at = acked;
  e.fresh_is_filled = acked < last && (memory || (setting.strict_names() && setting.strict_data()));
  return e;
}

std::string Explorer::check_image(RecordingMedia& image, const Expectation& expected, char boot) {
  if (std::string p = check_with_fsck(image, false); !p.empty()) return p;
  if (std::string p = check_mounted(image, expected, boot); !p.empty()) return p;
  // What recovery and the removal of everything left; again a crash, but nothing is lost.
  return check_with_fsck(image, true);
}

std::string Explorer::check_mounted(RecordingMedia& image, const Expectation& expected, char boot) {
  World world(image, executor_);
  Status s = world.mount(setting_->sync, boot, false, expected.former_clients);
  if (s.ok()) {
    auto& fs = static_cast<FileSystemImpl&>(*world.fs);
    s = retry_while_punching(fs, [&] { return fs.clean_orphans(); }).with_context("orphans");
  }
  if (!s.ok()) return fmt::format("recovery: {}", s.message());
  if (std::string p = check_tree(*world.fs, expected); !p.empty()) return p;
  if (std::string p = check_blocks(*world.fs); !p.empty()) return p;
  if (expected.former_clients) {
    if (s = world.fs->set_former_clients(false); !s.ok()) return fmt::format("quarantine: {}", s.message());
  }
  return check_leaks(*world.fs, executor_, base_->data_blocks);
}

void Explorer::judge(const CrashPoint& point, const std::string& problem) {
  ++states_;
  if (only_) only_result_ = problem.empty() ? "no violation" : problem;
  if (problem.empty()) return;
  ++violations_;
  ++workload_violations_;
  if (found_) found_({workload_, point, problem});
}

bool Explorer::wanted(const CrashPoint& point) const {
  return !only_ || (only_->event == point.event && only_->memory == point.memory &&
                    (point.memory || only_->choice == point.choice));
}

void Explorer::memory_state(u64 event) {
  const CrashPoint point{.event = event, .memory = true};
  if (!wanted(point)) return;
  p_->image.revert();
  const u64 hash = mix(mix(model_->make_memory_image(), acked_), 1);
  if (!seen_.insert(hash).second) return;
  Expectation expected = expectation(history_, acked_, *setting_, true);
  expected.former_clients = hash % 4 == 0;
  judge(point, check_image(p_->image, expected, kFirstBoot));
}

void Explorer::host_crash_state(u64 event, u64 choice, u64 bound) {
  const CrashPoint point{.event = event, .choice = choice};
  if (!wanted(point)) return;
  p_->image.revert();
  const u64 hash = mix(model_->make_image(choice, bound, mix(workload_seed(), event)), acked_);
  if (!seen_.insert(hash).second && !only_) return;
  const bool again = only_ ? only_->again : limits_.recovery_every != 0 && mix(hash, seed_) % limits_.recovery_every == 0;
  if (again) {
    p_->durable2.load(p_->image.bytes());
    p_->image2.load(p_->durable2.bytes());
  }
  const std::string problem = check_image(p_->image, expectation(history_, acked_, *setting_, false), kSecondBoot);
  if (!only_ || !only_->again) judge(point, problem);
  if (again && problem.empty()) crash_again(point, hash);
}

Status Explorer::live_again(MediaLog& log, History& history) {
  World world(p_->image2, executor_);
  p_->image2.record(&log);
  p_->image2.set_filter(planted());
  Status status = world.mount(setting_->sync, kSecondBoot, false);
  if (status.ok()) status = static_cast<FileSystemImpl&>(*world.fs).clean_orphans();
  Result<Model> found = status.ok() ? read_model(*world.fs) : Result<Model>(status);
  if (found.ok()) {
    Moment start;
    start.model = std::move(*found);
    for (const auto& [id, inode] : start.model.inodes) start.data_durable[id] = 0;
    history.push_back(std::move(start));
    const Operation& op = all_[workload_.operations[0]];
    if (model_operation(history, op, workload_.operations.size() + 1, *setting_)) {
      const u32 before = history[0].model.find(op.path);
      world.model_inode = before != 0 ? before : history[1].model.find(op.path);
      status = do_operation(world, op, workload_.operations.size() + 1).with_context(op.text());
      p_->image2.mark(kAckMark);
    } else {
      history.pop_back();
    }
  } else {
    status = found.status();
  }
  p_->image2.record(nullptr);
  p_->image2.set_filter({});
  // A part of a block that is lost, because its repair was cut short, cannot be written. Nothing is explored then.
  const bool repairs = std::any_of(workload_.operations.begin(), workload_.operations.end(),
                                   [&](u32 op) { return all_[op].kind == OpKind::kRepair; });
  if (repairs && status.code() == Errc::kPoisoned) {
    log.clear();
    history.resize(1);
    status = Status();
  }
  return status;
}

void Explorer::crash_again(const CrashPoint& point, u64 hash) {
  MediaLog log;
  History history;
  CrashPoint second = point;
  second.again = true;
  if (Status s = live_again(log, history); !s.ok()) {
    judge(second, fmt::format("after the crash: {}", s.message()));
    return;
  }
  p_->image2.revert();
  CrashModel model(log, setting_->granularity, p_->durable2, p_->image2);
  u64 acked = 0;
  for (u64 i = 0; i <= log.events.size(); ++i) {
    const bool end = i == log.events.size();
    if (end || model.makes_durable(log.events[i])) {
      const u64 choices = model.choices(limits_.in_recovery);
      for (u64 c = 0; c < choices; ++c) {
        second.event2 = i;
        second.choice2 = c;
        if (only_ && (only_->event2 != i || only_->choice2 != c)) continue;
        p_->image2.revert();
        const u64 h = model.make_image(c, limits_.in_recovery, mix(hash, i));
        if (!seen_.insert(mix(mix(hash, h), 2 + acked)).second && !only_) continue;
        judge(second, check_image(p_->image2, expectation(history, acked, *setting_, false), kThirdBoot));
        if (workload_violations_ >= kViolationsPerWorkload) return;
      }
    }
    if (end) break;
    if (log.events[i].kind == Kind::kMark) ++acked;
    model.apply(log.events[i]);
  }
}

void Explorer::at_point(u64 event, u64 bound) {
  const u64 choices = model_->choices(bound);
  for (u64 c = 0; c < choices && workload_violations_ < kViolationsPerWorkload; ++c) host_crash_state(event, c, bound);
}

void Explorer::walk() {
  CrashModel model(log_, setting_->granularity, p_->durable, p_->image);
  model_ = &model;
  const u64 events = log_.events.size();
  for (u64 i = 0; i < events && workload_violations_ < kViolationsPerWorkload; ++i) {
    const MediaEvent& e = log_.events[i];
    const bool mark = e.kind == Kind::kMark;
    if (i >= first_event_) {
      if (model.makes_durable(e)) {
        at_point(i, limits_.at_fence);
      } else if (!mark && mix(workload_seed(), i) % limits_.between_every == 0) {
        at_point(i, limits_.between);
        memory_state(i);
      }
    }
    if (mark) ++acked_;
    model.apply(e);
    if (mark && i >= first_event_) {
      at_point(i, limits_.at_fence);
      memory_state(i);
    }
  }
  if (workload_violations_ < kViolationsPerWorkload) {
    at_point(events, limits_.at_fence);
    memory_state(events);
  }
  model_ = nullptr;
}

bool Explorer::explore(const Workload& workload) {
  if (!prepare(workload)) return false;
  const std::string problem = record();
  if (!problem.empty()) {
    judge({}, "without a crash: " + problem);
    return true;
  }
  walk();
  return true;
}

std::string Explorer::replay(const Workload& workload, const CrashPoint& point) {
  only_ = point;
  only_result_ = "that state is not reached any more";
  if (!prepare(workload)) return "the workload cannot succeed";
  if (std::string problem = record(); !problem.empty()) return "without a crash: " + problem;
  walk();
  only_.reset();
  return only_result_;
}

std::string replay_text(u64 seed, const Limits& limits, const Violation& v) {
  std::string ops;
  for (u32 op : v.workload.operations) ops += (ops.empty() ? "" : ",") + std::to_string(op);
  std::string s = fmt::format("{}:{}.{}.{}:{}:{}:{}", seed, limits.at_fence, limits.between, limits.in_recovery,
                              kSettings[v.workload.setting].name, ops, v.point.event);
  s += v.point.memory ? ":kill" : fmt::format(":{}", v.point.choice);
  if (v.point.again) s += fmt::format(":{}:{}", v.point.event2, v.point.choice2);
  return s;
}

}  // namespace pindax::crash
