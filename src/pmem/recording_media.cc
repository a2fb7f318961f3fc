// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/recording_media.h"

#include <sys/mman.h>

#include <cstring>

namespace pindax {

using Kind = MediaEvent::Kind;

namespace {
Status outside() { return Status(Errc::kInvalid, "range outside the pool"); }
}  // namespace

RecordingMedia::RecordingMedia(u64 size, Granularity granularity)
    : size_(size), granularity_(granularity), is_touched_(size >> kBlockShift) {
  PINDAX_ASSERT(size != 0 && size % kBlockSize == 0);
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PINDAX_ASSERT(p != MAP_FAILED);
  base_ = static_cast<std::byte*>(p);
}

RecordingMedia::~RecordingMedia() { ::munmap(base_, size_); }

void RecordingMedia::load(const std::byte* image) {
  MutexLock lock(mutex_);
  std::memcpy(base_, image, size_);
  image_ = image;
  for (u64 page : touched_) is_touched_[page] = false;
  touched_.clear();
}

void RecordingMedia::revert() {
  MutexLock lock(mutex_);
  PINDAX_ASSERT(image_ != nullptr);
  for (u64 page : touched_) {
    std::memcpy(base_ + page * kBlockSize, image_ + page * kBlockSize, kBlockSize);
    is_touched_[page] = false;
  }
  touched_.clear();
}

void RecordingMedia::poke(u64 at, const void* data, u64 length) {
  MutexLock lock(mutex_);
  PINDAX_ASSERT(inside(PoolOffset(at), length));
  touch(at, length);
  std::memcpy(base_ + at, data, length);
}

void RecordingMedia::record(MediaLog* log) {
  MutexLock lock(mutex_);
  log_ = log;
}

void RecordingMedia::set_dead(bool dead) {
  MutexLock lock(mutex_);
  dead_ = dead;
}

void RecordingMedia::set_filter(Filter filter) {
  MutexLock lock(mutex_);
  filter_ = std::move(filter);
}

void RecordingMedia::mark(u64 number) {
  MutexLock lock(mutex_);
  if (log_ != nullptr) log_->events.push_back({.kind = Kind::kMark, .at = number});
}

void RecordingMedia::touch(u64 at, u64 length) {
  if (length == 0) return;
  for (u64 page = at >> kBlockShift; page <= (at + length - 1) >> kBlockShift; ++page) {
    if (is_touched_[page]) continue;
    is_touched_[page] = true;
    touched_.push_back(page);
  }
}

void RecordingMedia::log_event(const MediaEvent& e) {
  if (log_ == nullptr) return;
  if (!filter_) {
    log_->events.push_back(e);
    return;
  }
  std::vector<MediaEvent>& events = log_->events;
  filter_(e, [&events](const MediaEvent& passed) { events.push_back(passed); });
}

const std::byte* RecordingMedia::view(PoolOffset at, u64 length) const {
  return inside(at, length) ? base_ + at.value : nullptr;
}

Status RecordingMedia::read(PoolOffset at, void* out, u64 length) const {
  if (!inside(at, length)) return outside();
  std::memcpy(out, base_ + at.value, length);
  return {};
}

Status RecordingMedia::store(Kind kind, PoolOffset at, const void* data, u64 length) {
  if (!inside(at, length)) return outside();
  if (length == 0) return {};
  MutexLock lock(mutex_);
  if (dead_) return {};
  touch(at.value, length);
  if (data != nullptr)
    std::memcpy(base_ + at.value, data, length);
  else
    std::memset(base_ + at.value, 0, length);
  if (log_ == nullptr) return {};
  const u64 where = log_->bytes.size();
  log_->bytes.insert(log_->bytes.end(), base_ + at.value, base_ + at.value + length);
  log_event({.kind = kind, .at = at.value, .length = length, .data = where});
  return {};
}

Status RecordingMedia::write(PoolOffset at, const void* data, u64 length) { return store(Kind::kStore, at, data, length); }

Status RecordingMedia::write_nt(PoolOffset at, const void* data, u64 length) {
  return store(Kind::kStoreNt, at, data, length);
}

Status RecordingMedia::zero(PoolOffset at, u64 length) { return store(Kind::kStore, at, nullptr, length); }

Status RecordingMedia::punch(PoolOffset at, u64 length) { return store(Kind::kStore, at, nullptr, length); }

Status RecordingMedia::flush(PoolOffset at, u64 length) {
  if (!inside(at, length)) return outside();
  MutexLock lock(mutex_);
  if (!dead_ && length != 0) log_event({.kind = Kind::kFlush, .at = at.value, .length = length});
  return {};
}

Status RecordingMedia::drain() {
  MutexLock lock(mutex_);
  if (!dead_) log_event({.kind = Kind::kFence});
  return {};
}

Status RecordingMedia::sync_all() {
  MutexLock lock(mutex_);
  if (!dead_) log_event({.kind = Kind::kSyncAll});
  return {};
}

}  // namespace pindax
