// SPDX-License-Identifier: BSD-3-Clause
#include "journal/overlay.h"

#include <algorithm>
#include <bit>
#include <boost/pool/pool_alloc.hpp>
#include <cstring>

#include "base/steps.h"

namespace pindax {
namespace {

// Out of a pool of their own, which keeps what the most staged blocks ever took (kMaxStagedBlocks): blocks of a page that come and
// go between small objects that stay would leave gaps of a page between those, two thirds of the daemon's memory.
std::shared_ptr<StagedBlock> make_staged() { return std::allocate_shared<StagedBlock>(boost::fast_pool_allocator<StagedBlock>()); }

}  // namespace

MetaView Overlay::find(PoolOffset at) const {
  const u64 block = offset_block(at).value;
  Shard& s = shard(block);
  if (s.population.load(std::memory_order_acquire) == 0) return {};
  MutexLock lock(s.mutex);
  for (const Table* table : {&s.active, &s.frozen})
    if (auto it = table->find(block); it != table->end())
      return MetaView(it->second->bytes + (at.value & kBlockMask), it->second, it->second->known);
  return {};
}

// What is in place changes only while it is staged, under the same lock.
Status Overlay::copy(PoolOffset at, u32 length, std::byte* out) const {
  const u64 block = offset_block(at).value;
  Shard& s = shard(block);
  MutexLock lock(s.mutex);
  for (const Table* table : {&s.active, &s.frozen})
    if (auto it = table->find(block); it != table->end()) {
      std::memcpy(out, it->second->bytes + (at.value & kBlockMask), length);
      return {};
    }
  return media_.read(at, out, length);
}

bool Overlay::contains(BlockNo block) const {
  Shard& s = shard(block.value);
  MutexLock lock(s.mutex);
  return s.active.contains(block.value) || s.frozen.contains(block.value);
}

Status Overlay::prepare(BlockNo block, bool fresh) {
  Shard& s = shard(block.value);
  MutexLock lock(s.mutex);
  if (s.active.contains(block.value)) return {};
  auto staged = make_staged();
  if (auto it = s.frozen.find(block.value); it != s.frozen.end()) {
    std::memcpy(staged->bytes, it->second->bytes, kBlockSize);
    staged->known = it->second->known;
  } else if (!fresh) {
    PINDAX_TRY(media_.read(block_offset(block), staged->bytes, kBlockSize));
  }
  s.active.emplace(block.value, std::move(staged));
  count(s);
  active_count_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

void Overlay::install(PoolOffset at, const std::byte* bytes, u32 length, u64 dirty, Source source) {
  const u64 block = offset_block(at).value;
  Shard& s = shard(block);
  MutexLock lock(s.mutex);
  auto it = s.active.find(block);
  PINDAX_ASSERT(it != s.active.end());
  std::memcpy(it->second->bytes + (at.value & kBlockMask), bytes, length);
  it->second->dirty |= dirty;
  if (length == kBlockSize) it->second->known = source == Source::kTransaction;
}

void Overlay::forget(BlockNo block, Lsn lsn) {
  Shard& s = shard(block.value);
  MutexLock lock(s.mutex);
  if (s.active.erase(block.value) != 0) active_count_.fetch_sub(1, std::memory_order_relaxed);
  if (s.frozen.erase(block.value) != 0) s.forgotten = std::max(s.forgotten, lsn);
  count(s);
}

void Overlay::freeze() {
  for (Shard& s : shards_) {
    MutexLock lock(s.mutex);
    PINDAX_ASSERT(s.frozen.empty());
    s.frozen.swap(s.active);
    s.forgotten = {};
    active_count_.fetch_sub(s.frozen.size(), std::memory_order_relaxed);
  }
}

Status Overlay::write_block(BlockNo block, std::vector<ByteRange>& written) {
  Shard& s = shard(block.value);
  MutexLock lock(s.mutex);
  auto it = s.frozen.find(block.value);
  if (it == s.frozen.end()) return {};  // freed meanwhile (invariant 3)
  u64 dirty = it->second->dirty;
  while (dirty != 0) {
    const unsigned first = static_cast<unsigned>(std::countr_zero(dirty));
    const unsigned lines = static_cast<unsigned>(std::countr_one(dirty >> first));
    const PoolOffset at = block_offset(block) + first * kCacheLineSize;
    PINDAX_TRY(media_.write(at, it->second->bytes + first * kCacheLineSize, lines * kCacheLineSize));
    const u64 end = at.value + lines * kCacheLineSize;
    if (!written.empty() && written.back().end == at.value)
      written.back().end = end;
    else
      written.push_back({at.value, end});
    if (first + lines == kBlockSize / kCacheLineSize) break;
    dirty &= ~u64{0} << (first + lines);
  }
  return {};
}

Status Overlay::write_frozen(Lsn& forgotten) {
  std::vector<u64> blocks;
  for (Shard& s : shards_) {
    MutexLock lock(s.mutex);
    for (const auto& [block, staged] : s.frozen) blocks.push_back(block);
  }
  std::sort(blocks.begin(), blocks.end());
  std::vector<ByteRange> written;
  for (u64 block : blocks) {
    PINDAX_TRY(write_block(BlockNo(block), written));
    PINDAX_STEP("journal.checkpoint_block");
  }
  PINDAX_TRY(media_.flush_ranges(written));
  PINDAX_TRY(media_.drain());
  for (Shard& s : shards_) {
    MutexLock lock(s.mutex);
    forgotten = std::max(forgotten, s.forgotten);
  }
  return {};
}

void Overlay::drop_frozen() {
  for (Shard& s : shards_) {
    Table old;  // freed outside the lock
    MutexLock lock(s.mutex);
    old.swap(s.frozen);
    count(s);
  }
}

}  // namespace pindax
