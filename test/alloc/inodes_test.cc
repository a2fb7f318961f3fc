// SPDX-License-Identifier: BSD-3-Clause
#include <sys/stat.h>

#include <set>
#include <thread>

#include "alloc_bench.h"

using namespace pindax;
using test::AllocBench;

namespace {

// As the file system does: the slot gets a mode in the same transaction.
Result<InodeNo> create(AllocBench& b, Transaction& tx, InodeNo near) {
  PINDAX_ASSIGN(const InodeNo ino, b.alloc->allocate_inode(tx, near));
  PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, ino));
  REQUIRE(slot->mode == 0);
  slot->mode = S_IFIFO | 0600;
  return ino;
}
InodeNo create(AllocBench& b, InodeNo near = InodeNo(0)) {
  Transaction tx(*b.store);
  const auto ino = create(b, tx, near);
  REQUIRE(ino.ok());
  REQUIRE(tx.commit().ok());
  return *ino;
}
void remove(AllocBench& b, InodeNo ino) {
  Transaction tx(*b.store);
  b.alloc->free_inode(tx, ino);
  REQUIRE(tx.commit().ok());
}

}  // namespace

TEST_CASE("alloc: inode slots fill a block before the next one is added") {
  AllocBench b;
  std::set<u64> seen;
  for (u32 i = 0; i < 3 * format::kInodesPerBlock; ++i) REQUIRE(seen.insert(create(b).value).second);
  const SpaceSummary s = b.alloc->summary();
  REQUIRE(s.inodes_used == 24);
  REQUIRE(s.inodes_allocated == 24);
  REQUIRE(b.alloc->is_inode_block(BlockNo(format::inode_block(InodeNo(*seen.begin())))).value());
  REQUIRE_FALSE(b.alloc->is_inode_block(BlockNo(0)).value());
  REQUIRE_FALSE(b.alloc->is_inode_block(b.geometry.first_data(1)).value());
  REQUIRE_FALSE(b.alloc->is_inode_block(BlockNo(b.geometry.pool_blocks + 5)).value());
}

TEST_CASE("alloc: an aborted inode comes back; a freed one is not reused before its commit") {
  AllocBench b;
  const InodeNo first = create(b);
  InodeNo given;
  {
    Transaction tx(*b.store);
    given = create(b, tx, first).value();
    REQUIRE(given != first);
    Transaction other(*b.store);
    REQUIRE(create(b, other, first).value() != given);
  }
  std::set<u64> used{first.value};
  for (u32 i = 1; i < format::kInodesPerBlock; ++i) used.insert(create(b, first).value);
  REQUIRE(used.size() == format::kInodesPerBlock);
  REQUIRE(used.contains(given.value));
  {
    Transaction tx(*b.store);
    b.alloc->free_inode(tx, given);
    REQUIRE_FALSE(used.contains(create(b, first).value));
  }
  remove(b, given);
  bool reused = false;
  for (u32 i = 0; i < format::kInodesPerBlock; ++i) reused |= create(b, first) == given;
  REQUIRE(reused);
}

TEST_CASE("alloc: after reopening free slots are found again and used ones are not") {
  AllocBench b;
  std::mt19937_64 rng(test::seed());
  std::set<u64> used;
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 60; ++i) {
      if (rng() % 3 != 0 || used.empty()) {
        REQUIRE(used.insert(create(b, InodeNo(used.empty() ? 0 : *used.begin())).value).second);
      } else {
        auto it = used.lower_bound(rng() % (b.geometry.pool_blocks * 8));
        if (it == used.end()) it = used.begin();
        remove(b, InodeNo(*it));
        used.erase(it);
      }
    }
    b.reopen();
    REQUIRE(b.alloc->summary().inodes_used == used.size());
  }
  REQUIRE(b.alloc->summary().inodes_allocated < 12 * 60 + 8);
}

TEST_CASE("alloc: generations are never given out twice") {
  AllocBench b;
  std::set<u32> seen;
  for (int i = 0; i < 30; ++i) {
    Transaction tx(*b.store);
    const auto g = b.alloc->next_generation(tx);
    REQUIRE(g.ok());
    REQUIRE(*g != 0);
    REQUIRE(tx.commit().ok());
    REQUIRE(seen.insert(*g).second);
    if (i % 10 == 9) b.reopen();
  }
}

TEST_CASE("alloc: a full pool has no room for inodes") {
  AllocBench b(16u << 20);
  std::vector<BlockRun> runs;
  b.fill(runs);
  Transaction tx(*b.store);
  REQUIRE(b.alloc->allocate_inode(tx, InodeNo(0)).code() == Errc::kNoInodes);
}

TEST_CASE("alloc: a full group's inodes go elsewhere, and no more blocks of them than it takes") {
  AllocBench b;
  std::set<u64> seen;
  {
    Transaction tx(*b.store);
    AllocateRequest request;
    for (;;) {
      const auto runs = b.alloc->free_runs(0);
      REQUIRE(runs.ok());
      if (runs->empty()) break;
      request.near = runs->front().start;
      request.wanted = runs->front().length;
      REQUIRE(b.alloc->allocate(tx, request).ok());
    }
    REQUIRE(tx.commit().ok());
  }
  for (u32 i = 0; i < 10 * format::kInodesPerBlock; ++i) REQUIRE(seen.insert(create(b).value).second);
  REQUIRE(b.alloc->summary().inodes_allocated <= 11 * format::kInodesPerBlock);
}

TEST_CASE("alloc: threads never get the same inode slot") {
  AllocBench b;
  std::mutex mutex;
  std::set<u64> used;
  std::atomic<bool> twice{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 rng(t + 7);
      std::vector<InodeNo> mine;
      for (int i = 0; i < 300; ++i) {
        Transaction tx(*b.store);
        if (mine.empty() || rng() % 2 == 0) {
          const auto ino = b.alloc->allocate_inode(tx, InodeNo(0));
          if (!ino.ok()) continue;
          auto slot = modify_inode(tx, *ino);
          if (!slot.ok() || (*slot)->mode != 0) twice = true;
          else (*slot)->mode = S_IFIFO, (*slot)->data_kind = 0;
          {
            const std::lock_guard lock(mutex);
            if (!used.insert(ino->value).second) twice = true;
          }
          mine.push_back(*ino);
          if (!tx.commit().ok()) twice = true;
        } else {
          const InodeNo ino = mine.back();
          mine.pop_back();
          {
            const std::lock_guard lock(mutex);
            used.erase(ino.value);
          }
          b.alloc->free_inode(tx, ino);
          if (!tx.commit().ok()) twice = true;
        }
      }
    });
  for (auto& t : threads) t.join();
  REQUIRE_FALSE(twice);
  REQUIRE(b.alloc->summary().inodes_used == used.size());
}
