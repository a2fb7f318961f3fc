// SPDX-License-Identifier: BSD-3-Clause
#include "journal/transaction.h"

#include <algorithm>
#include <cstring>

#include "journal/record.h"

namespace pindax {
namespace {

// What one at_commit action usually logs at worst: a bitmap block, an AG header, the StateRecord.
constexpr u64 kActionBytes =
    max_encoded_bytes(kBlockSize) + max_encoded_bytes(sizeof(format::AgHeader)) + max_encoded_bytes(sizeof(format::StateRecord));

}  // namespace

Transaction::~Transaction() {
  if (!finished_) finish(false, {});
}

std::map<PoolOffset, Transaction::Object>::iterator Transaction::covering(PoolOffset at, u32 length) {
  auto it = objects_.upper_bound(at);
  if (it == objects_.begin()) return objects_.end();
  --it;
  return at - it->first + length <= it->second.length ? it : objects_.end();
}

Result<const std::byte*> Transaction::read(PoolOffset at, u32 length) {
  if (auto it = covering(at, length); it != objects_.end())
    return static_cast<const std::byte*>(it->second.bytes.get() + (at - it->first));
  PINDAX_ASSIGN(MetaView view, store_.view(at, length));
  const std::byte* data = view.data();
  views_.push_back(std::move(view));
  return data;
}

Result<std::byte*> Transaction::modify(PoolOffset at, u32 length, Seal seal) {
  PINDAX_ASSERT(!finished_);
  PINDAX_ASSERT(at.value % kCacheLineSize == 0 && length % kCacheLineSize == 0 && length != 0);
  if (auto it = covering(at, length); it != objects_.end()) {
    Object& object = it->second;
    object.encoded = false;
    const u32 within = static_cast<u32>(at - it->first);
    const std::pair<u32, Seal> inner{within, seal};
    if (length != object.length &&
        std::find(object.inner.begin(), object.inner.end(), inner) == object.inner.end())
      object.inner.push_back(inner);
    return object.bytes.get() + within;
  }
  // I3: objects are the same or apart.
  auto next = objects_.lower_bound(at);
  PINDAX_ASSERT(next == objects_.end() || next->first >= at + length);
  PINDAX_ASSERT(next == objects_.begin() || std::prev(next)->first + std::prev(next)->second.length <= at);

  PINDAX_ASSIGN(MetaView view, store_.view(at, length));
  Object object;
  object.length = length;
  object.seal = seal;
  object.bytes = std::make_unique_for_overwrite<std::byte[]>(length);
  std::memcpy(object.bytes.get(), view.data(), length);
  return objects_.emplace_hint(next, at, std::move(object))->second.bytes.get();
}

std::byte* Transaction::modify_new(PoolOffset block, Seal seal) {
  PINDAX_ASSERT(!finished_);
  PINDAX_ASSERT(block.value % kBlockSize == 0);
  drop_objects_in(block);
  Object object;
  object.length = kBlockSize;
  object.fresh = true;
  object.seal = seal;
  object.bytes = std::make_unique<std::byte[]>(kBlockSize);
  return objects_.emplace(block, std::move(object)).first->second.bytes.get();
}

void Transaction::drop_objects_in(PoolOffset block) {
  auto it = objects_.lower_bound(block);
  while (it != objects_.end() && it->first < block + kBlockSize) {
    retired_.push_back(std::move(it->second.bytes));
    it = objects_.erase(it);
  }
}

void Transaction::forget(PoolOffset block) {
  PINDAX_ASSERT(!finished_);
  PINDAX_ASSERT(block.value % kBlockSize == 0);
  drop_objects_in(block);
  forgotten_.push_back(offset_block(block));
}

void Transaction::at_commit(std::function<Status(Transaction&)> action) { at_commit_.push_back(std::move(action)); }
void Transaction::on_commit(std::function<void(Lsn)> action) { on_commit_.push_back(std::move(action)); }
void Transaction::on_abort(std::function<void()> action) { on_abort_.push_back(std::move(action)); }
void Transaction::at_end(std::function<void()> action) { at_end_.push_back(std::move(action)); }

u64 Transaction::record_bytes_estimate() const {
  u64 sum = sizeof(format::RecordHeader) + forgotten_.size() * max_encoded_bytes(0) + at_commit_.size() * kActionBytes;
  for (const auto& [at, object] : objects_) sum += max_encoded_bytes(object.length);
  return sum;
}

Result<Lsn> Transaction::commit() {
  PINDAX_ASSERT(!finished_);
  auto lsn = store_.commit(*this);
  finish(lsn.ok(), lsn.ok() ? *lsn : Lsn());
  if (!lsn.ok()) return lsn;
  store_.after_commit();
  if (!durability_.ok()) return durability_;
  return lsn;
}

void Transaction::finish(bool committed, Lsn lsn) {
  finished_ = true;
  if (committed) {
    for (auto& action : on_commit_) action(lsn);
  } else {
    for (auto it = on_abort_.rbegin(); it != on_abort_.rend(); ++it) (*it)();
  }
  for (auto it = at_end_.rbegin(); it != at_end_.rend(); ++it) (*it)();
}

}  // namespace pindax
