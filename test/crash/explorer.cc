// SPDX-License-Identifier: BSD-3-Clause
#include "explorer.h"

#include <cstring>

#include "fmt/format.h"
#include "format/decode.h"
#include "fs/file_system_impl.h"

namespace pindax::crash {

using Kind = MediaEvent::Kind;

namespace {

constexpr u64 kPoolBytes = format::kMinPoolBytes;
constexpr char kFirstBoot = 'A', kSecondBoot = 'B', kThirdBoot = 'C';

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
  format::Geometry geometry;
  {
    format::Superblock sb;
    std::memcpy(&sb, base_->bytes.data(), sizeof sb);
    geometry = format::geometry_of(sb);
  }
  p_->run.record(&log_);
  if (plant_) p_->run.set_filter(plant_(geometry));
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

Expectation Explorer::expectation(bool memory) const {
  Expectation e;
  e.history = &history_;
  const u64 last = workload_.operations.size();
  e.hi = std::min(acked_ + 1, last);
  e.lo = memory ? acked_ : history_[acked_].names_durable;
  e.exact = memory;
  e.data_lo_at = acked_;
  e.fresh_is_filled = memory || (setting_->strict_names() && setting_->strict_data());
  if (acked_ == last) e.fresh_is_filled = false;
  return e;
}

std::string Explorer::check_image(RecordingMedia& image, const Expectation& expected, char boot, MediaLog* log) {
  World world(image, executor_);
  if (log != nullptr) {
    image.record(log);
    if (plant_) {
      format::Superblock sb;
      std::memcpy(&sb, base_->bytes.data(), sizeof sb);
      image.set_filter(plant_(format::geometry_of(sb)));
    }
  }
  Status s = world.mount(setting_->sync, boot, false);
  if (s.ok()) s = static_cast<FileSystemImpl&>(*world.fs).clean_orphans().with_context("orphans");
  executor_.drain();
  image.record(nullptr);
  image.set_filter({});
  if (!s.ok()) return fmt::format("recovery: {}", s.message());
  if (std::string p = check_tree(*world.fs, expected); !p.empty()) return p;
  if (std::string p = check_blocks(*world.fs); !p.empty()) return p;
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
  judge(point, check_image(p_->image, expectation(true), kFirstBoot, nullptr));
}

void Explorer::host_crash_state(u64 event, u64 choice, u64 bound) {
  const CrashPoint point{.event = event, .choice = choice};
  if (!wanted(point)) return;
  p_->image.revert();
  const u64 hash = mix(model_->make_image(choice, bound, mix(workload_seed(), event)), acked_);
  if (!seen_.insert(hash).second && !only_) return;
  const Expectation expected = expectation(false);
  const bool again = only_ ? only_->again : limits_.recovery_every != 0 && mix(hash, seed_) % limits_.recovery_every == 0;
  if (again) {
    p_->durable2.load(p_->image.bytes());
    p_->image2.load(p_->durable2.bytes());
  }
  MediaLog recovery;
  const std::string problem = check_image(p_->image, expected, kSecondBoot, again ? &recovery : nullptr);
  if (!only_ || !only_->again) judge(point, problem);
  if (!again || !problem.empty()) return;

  CrashModel model(recovery, setting_->granularity, p_->durable2, p_->image2);
  for (u64 i = 0; i <= recovery.events.size(); ++i) {
    const bool end = i == recovery.events.size();
    if (end || model.makes_durable(recovery.events[i])) {
      const u64 choices = model.choices(limits_.in_recovery);
      for (u64 c = 0; c < choices; ++c) {
        CrashPoint second = point;
        second.again = true;
        second.event2 = i;
        second.choice2 = c;
        if (only_ && (only_->event2 != i || only_->choice2 != c)) continue;
        p_->image2.revert();
        const u64 h = model.make_image(c, limits_.in_recovery, mix(hash, i));
        if (!seen_.insert(mix(mix(hash, h), 2)).second && !only_) continue;
        judge(second, check_image(p_->image2, expected, kThirdBoot, nullptr));
        if (workload_violations_ >= kViolationsPerWorkload) return;
      }
    }
    if (!end) model.apply(recovery.events[i]);
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
