// SPDX-License-Identifier: BSD-3-Clause
#include "client/requests.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace pindax::client {
namespace {

constexpr u32 kIndexBits = 20;  // kSegments * kSegmentEntries
constexpr u64 kIndexMask = (u64{1} << kIndexBits) - 1;

}  // namespace

Requests::~Requests() {
  for (auto& segment : segments_) delete segment.load();
}

u64 Requests::begin(Reply& reply) {
  MutexLock lock(mutex_);
  if (free_.empty()) {
    const u32 next = entries_ / kSegmentEntries;
    if (next == kSegments) return 0;
    try {
      free_.reserve(entries_ + kSegmentEntries);  // wait() gives back into it
      segments_[next].store(new Segment(), std::memory_order_release);
    } catch (const std::bad_alloc&) {
      return 0;
    }
    for (u32 i = kSegmentEntries; i-- > 0;) free_.push_back(entries_ + i);
    entries_ += kSegmentEntries;
  }
  const u32 index = free_.back();
  free_.pop_back();
  Entry& entry = (*segments_[index / kSegmentEntries].load())[index % kSegmentEntries];
  const u64 id = (sequence_++ << kIndexBits) | index;
  reply.done.store(0, std::memory_order_relaxed);
  entry.id.store(id, std::memory_order_relaxed);
  entry.reply.store(&reply, std::memory_order_seq_cst);
  // Whoever looks for the entries of a lost connection either sees this one or has set lost_ before.
  if (lost_.load(std::memory_order_seq_cst))
    if (Reply* mine = entry.reply.exchange(nullptr)) finish(*mine, -ENOTCONN, nullptr, 0);
  return id;
}

void Requests::wait(u64 id, Reply& reply) {
  while (reply.done.load(std::memory_order_acquire) == 0) reply.done.wait(0, std::memory_order_acquire);
  MutexLock lock(mutex_);
  free_.push_back(static_cast<u32>(id & kIndexMask));
}

void Requests::finish(Reply& reply, i64 status, const std::byte* data, std::size_t length) {
  reply.status = status;
  const std::span<std::byte> room = status >= 0 && !reply.large.empty() ? reply.large : std::span<std::byte>(reply.bytes);
  reply.length = std::min(length, room.size());
  if (data != nullptr) std::memcpy(room.data(), data, reply.length);
  reply.done.store(1, std::memory_order_release);
  reply.done.notify_all();
}

void Requests::deliver(u64 id, i64 status, const std::byte* data, std::size_t length) {
  const u64 index = id & kIndexMask;
  Segment* segment = segments_[index / kSegmentEntries].load(std::memory_order_acquire);
  if (segment == nullptr) return;
  Entry& entry = (*segment)[index % kSegmentEntries];
  if (entry.id.load(std::memory_order_relaxed) != id) return;
  if (Reply* reply = entry.reply.exchange(nullptr, std::memory_order_acq_rel)) finish(*reply, status, data, length);
}

void Requests::connection_lost() {
  lost_.store(true, std::memory_order_seq_cst);
  for (auto& slot : segments_) {
    Segment* segment = slot.load(std::memory_order_acquire);
    if (segment == nullptr) return;
    for (Entry& entry : *segment)
      if (Reply* reply = entry.reply.exchange(nullptr, std::memory_order_seq_cst)) finish(*reply, -ENOTCONN, nullptr, 0);
  }
}

}  // namespace pindax::client
