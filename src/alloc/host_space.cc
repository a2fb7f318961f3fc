// SPDX-License-Identifier: BSD-3-Clause
//
// Sparse pools: the host's space is reserved as blocks are used, and free blocks keep what they have, since punching and reserving again
// costs more than most pools would save. It is given back when the host is full, one group after the other until there is
// enough, and on demand (FITRIM). A group's free space goes the way of blocks that a client may have mapped: it rests until it is
// punched, so whoever finds no free block meanwhile waits for it (hurry()).
#include "alloc/allocator_impl.h"

namespace pindax {

Status AllocatorImpl::reserve_on_host(BlockRun run, BlockUse use) {
  const u64 spare = use == BlockUse::kData ? kHostSpareBytes : 0;
  for (;;) {
    const u64 seen = resting_.given_back();
    const Status reserved = store_.media().reserve(block_offset(run.start), run.length << kBlockShift, spare);
    if (reserved.code() != Errc::kNoSpace) return reserved;
    (void)punch_some_group();
    if (!hurry(seen)) return reserved;
  }
}

bool AllocatorImpl::punch_some_group() {
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    Group& g = group(ag);
    if (!g.holds_host_space.exchange(false)) continue;
    MutexLock lock(g.mutex);
    if (load(g).ok() && rest_free_space(g, whole(ag), 1, false) != 0) return true;
  }
  return false;
}

u64 AllocatorImpl::rest_free_space(Group& g, BlockRun range, u64 minimum, bool former) {
  std::vector<Span> taken;
  u64 blocks = 0;
  for (auto it = g.space.from_place(range.start.value); it != g.space.by_place().end() && it->start < range.end().value; ++it) {
    const u64 start = std::max(it->start, range.start.value), end = std::min(it->end(), range.end().value);
    if (end - start < minimum) continue;
    taken.push_back({start, end - start});
    blocks += end - start;
  }
  for (const Span& s : taken) {
    g.space.take(s);
    resting_.add({{BlockNo(s.start), s.length}, Lsn(0), true, former}, store_.durable_lsn());
  }
  g.free = g.space.total();
  return blocks;
}

Result<u64> AllocatorImpl::trim(BlockRun range, u64 minimum) {
  PINDAX_TRY(reclaim());
  if (!store_.media().gives_back()) return Status(Errc::kNotSupported, "the pool's space is reserved on the host for good");
  u64 blocks = 0;
  for (u32 ag = geometry_.ag_of(range.start); ag < geometry_.ag_count && whole(ag).start < range.end(); ++ag) {
    Group& g = group(ag);
    const bool all = minimum <= 1 && range.start <= whole(ag).start && range.end() >= whole(ag).end();
    if (!(all ? g.holds_host_space.exchange(false) : g.holds_host_space.load())) continue;
    {
      MutexLock lock(g.mutex);
      if (load(g).ok()) blocks += rest_free_space(g, range, std::max<u64>(minimum, 1), false);
    }
    PINDAX_TRY(reclaim());
  }
  return blocks;
}

}  // namespace pindax
