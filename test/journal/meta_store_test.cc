// SPDX-License-Identifier: BSD-3-Clause
#include "journal/meta_store.h"

#include <thread>

#include "base/steps.h"
#include "catch.h"
#include "journal/ring.h"
#include "journal_util.h"

using namespace pindax;
using namespace pindax::test;

namespace {

std::vector<std::byte> image(const Media& media) {
  std::vector<std::byte> bytes(media.size());
  REQUIRE(media.read(PoolOffset(0), bytes.data(), bytes.size()).ok());
  return bytes;
}

u64 in_place(const Media& media, PoolOffset at, u32 index) {
  u64 value;
  REQUIRE(media.read(at + 8 * index, &value, 8).ok());
  return value;
}

}  // namespace

TEST_CASE("journal: a store that is dropped without checkpoint is replayed with all that was committed") {
  for (SyncMode mode : {SyncMode::kStrict, SyncMode::kPosix}) {
    auto media = new_pool();
    {
      auto store = open_store(*media, mode);
      CHECK(store->replay_report().was_clean);
      for (u32 i = 0; i < 50; ++i) REQUIRE(put_one(*store, data_block(i % 7), i, i + 100).ok());
      CHECK(in_place(*media, data_block(0), 0) == 0);
    }
    for (int reopen = 0; reopen < 2; ++reopen) {
      auto store = open_store(*media, mode);
      CHECK(store->replay_report().records == (reopen == 0 ? 50 : 0));
      CHECK(store->replay_report().was_clean == (reopen == 1));
      for (u32 i = 0; i < 50; ++i) CHECK(get(*store, data_block(i % 7), i) == i + 100);
    }
  }
}

TEST_CASE("journal: a checkpoint stores everything in place and empties the ring") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  REQUIRE(put_one(*store, data_block(0), 1, 11).ok());
  REQUIRE(put_one(*store, data_block(0) + 512, 1, 12).ok());
  REQUIRE(store->checkpoint().ok());
  CHECK(store->durable_lsn() == store->last_lsn());
  CHECK(in_place(*media, data_block(0), 1) == 11);
  CHECK(in_place(*media, data_block(0) + 512, 1) == 12);
  CHECK(get(*store, data_block(0), 1) == 11);
  REQUIRE(store->checkpoint().ok());
  store.reset();
  CHECK(open_store(*media, SyncMode::kPosix)->replay_report().was_clean);
}

TEST_CASE("journal: a block is known while it is as a transaction left the whole of it, not when it is a replayed one or the media's") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  const auto known = [&](PoolOffset at) { return store->view(at, kBlockSize)->known(); };
  const auto put_whole = [&](PoolOffset at, u64 value) {
    Transaction tx(*store);
    std::memcpy(tx.modify_new(at, nullptr), &value, sizeof value);
    REQUIRE(tx.commit().ok());
  };
  CHECK_FALSE(known(data_block(0)));
  REQUIRE(put_one(*store, data_block(0) + 512, 0, 1).ok());  // the rest of the block nobody has seen
  CHECK_FALSE(known(data_block(0)));
  put_whole(data_block(1), 2);
  CHECK(known(data_block(1)));
  REQUIRE(put_one(*store, data_block(1) + 512, 0, 3).ok());
  CHECK(known(data_block(1)));
  REQUIRE(store->checkpoint().ok());
  CHECK_FALSE(known(data_block(1)));

  put_whole(data_block(2), 4);
  store = open_store(*media, SyncMode::kPosix, true);
  CHECK(get(*store, data_block(2), 0) == 4);
  CHECK_FALSE(known(data_block(2)));
}

TEST_CASE("journal: durability follows the mode, and the listener hears of it") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  Lsn heard;
  store->set_durable_listener([&](Lsn lsn) { heard = lsn; });
  auto first = put_one(*store, data_block(0), 0, 1);
  auto second = put_one(*store, data_block(0), 0, 2);
  CHECK(store->durable_lsn() < *first);
  REQUIRE(store->sync(*first).ok());
  CHECK(store->durable_lsn() >= *first);
  REQUIRE(store->sync(*second).ok());
  CHECK(store->durable_lsn() == *second);
  CHECK(heard == *second);
  store = open_store(*media, SyncMode::kStrict);
  store->set_durable_listener([&](Lsn lsn) { heard = lsn; });
  auto third = put_one(*store, data_block(0), 0, 3);
  CHECK(store->durable_lsn() == *third);
  CHECK(heard == *third);
  auto volatile_media = new_pool(Granularity::kVolatile);
  store = open_store(*volatile_media, SyncMode::kPosix);
  auto lsn = put_one(*store, data_block(0), 0, 3);
  CHECK(store->durable_lsn() == *lsn);
}

TEST_CASE("journal: a torn record and what follows it is ignored, for ever") {
  auto media = new_pool();
  Lsn first, second, third;
  {
    auto store = open_store(*media, SyncMode::kPosix);
    first = *put_one(*store, data_block(0), 0, 1);
    second = *put_one(*store, data_block(1), 0, 2);
    third = *put_one(*store, data_block(2), 0, 3);
  }
  CHECK(third - second == second - first);
  Ring ring(*media, small_geometry());
  const u64 garbage = 0xdeadbeef;
  REQUIRE(ring.write(first + 40, &garbage, 8).ok());
  {
    auto store = open_store(*media, SyncMode::kPosix);
    CHECK(store->replay_report().records == 1);
    CHECK(get(*store, data_block(0), 0) == 1);
    CHECK(get(*store, data_block(1), 0) == 0);
    CHECK(get(*store, data_block(2), 0) == 0);
    // A record of the same length in the torn one's place: its old successor, valid by itself, follows directly.
    CHECK(*put_one(*store, data_block(3), 0, 4) == second);
  }
  auto store = open_store(*media, SyncMode::kPosix);
  CHECK(store->replay_report().records == 1);
  CHECK(get(*store, data_block(3), 0) == 4);
  CHECK(get(*store, data_block(2), 0) == 0);
}

TEST_CASE("journal: one damaged header is no harm, two are kCorrupt") {
  auto media = new_pool();
  const auto g = small_geometry();
  {
    auto store = open_store(*media, SyncMode::kStrict);
    for (int i = 0; i < 5; ++i) {
      REQUIRE(put_one(*store, data_block(0), 0, 1 + static_cast<u64>(i)).ok());
      REQUIRE(store->checkpoint().ok());
    }
  }
  const u64 garbage = 1;
  // The newer of the two: replay starts from the older head, over the same records.
  format::JournalHeader copies[2];
  for (u64 i = 0; i < 2; ++i) REQUIRE(media->read(block_offset(BlockNo(g.journal_block + i)), &copies[i], sizeof copies[i]).ok());
  const u64 newer = copies[0].sequence > copies[1].sequence ? 0 : 1;
  REQUIRE(media->write(block_offset(BlockNo(g.journal_block + newer)) + 24, &garbage, 8).ok());
  CHECK(get(*open_store(*media, SyncMode::kStrict), data_block(0), 0) == 5);
  for (u64 i = 0; i < 2; ++i) REQUIRE(media->write(block_offset(BlockNo(g.journal_block + i)) + 24, &garbage, 8).ok());
  CHECK(MetaStore::open(*media, g, SyncMode::kStrict).code() == Errc::kCorrupt);
}

TEST_CASE("journal: the ring wraps many times and stays replayable") {
  auto media = new_pool();
  std::mt19937_64 rng(seed());
  std::map<u64, u64> model;
  auto store = open_store(*media, SyncMode::kPosix);
  const Lsn start = store->last_lsn();
  const u64 ring_bytes = (small_geometry().journal_blocks - 2) * kBlockSize;
  while (store->last_lsn() - start < 8 * ring_bytes) {
    Transaction tx(*store);
    for (u64 n = 1 + rng() % 12; n-- > 0;) {
      const u64 cell = rng() % (64 * 40);
      model[cell] = rng();
      std::byte* bytes = *tx.modify(data_block(cell / 64), kBlockSize, nullptr);
      for (u64 k = 0; k < 8; ++k) std::memcpy(bytes + (cell % 64) * 64 + k * 8, &model[cell], 8);
    }
    REQUIRE(tx.commit().ok());
    if (rng() % 500 == 0) {
      store.reset();
      store = open_store(*media, SyncMode::kPosix);
    }
  }
  store.reset();
  store = open_store(*media, SyncMode::kPosix);
  for (auto [cell, value] : model) {
    u64 got;
    std::memcpy(&got, store->view(data_block(cell / 64), kBlockSize)->data() + (cell % 64) * 64 + 56, 8);
    REQUIRE(got == value);
  }
}

TEST_CASE("journal: transactions as large as allowed, with at_commit objects on top, always find room") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  std::mt19937_64 rng(seed());
  for (int round = 0; round < 40; ++round) {
    Transaction tx(*store);
    u64 n = 0;
    while (tx.record_bytes_estimate() + kBlockSize + 16 <= store->max_record_bytes()) {
      std::byte* bytes = tx.modify_new(data_block(n++), nullptr);
      for (u64 k = 0; k < kBlockSize; ++k) bytes[k] = static_cast<std::byte>(rng());
    }
    // Far more than an action usually logs: the room can only be made with the commit mutex held.
    tx.at_commit([&](Transaction& t) -> Status {
      for (u64 k = 100; k < 160; ++k) {
        PINDAX_ASSIGN(std::byte* bytes, t.modify(data_block(k), kBlockSize, nullptr));
        for (u64 i = 0; i < kBlockSize; ++i) bytes[i] = static_cast<std::byte>(rng());
      }
      return {};
    });
    REQUIRE(tx.commit().ok());
  }
}

TEST_CASE("journal: parallel commits, checkpoints and syncs lose nothing") {
  for (SyncMode mode : {SyncMode::kStrict, SyncMode::kPosix}) {
    auto media = new_pool();
    auto store = open_store(*media, mode);
    constexpr unsigned kThreads = 4;
    constexpr u64 kRounds = 2500;
    const PoolOffset counter = data_block(500);
    std::vector<std::thread> threads;
    std::atomic<bool> wrong{false};
    for (unsigned t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        // Slot t of shared blocks is this thread's; a counter belongs to the commit mutex.
        for (u64 i = 1; i <= kRounds; ++i) {
          Transaction tx(*store);
          const PoolOffset at = data_block(i % 50) + 512 * t;
          if (!put(tx, at, static_cast<u32>(i % 64), i).ok()) wrong = true;
          tx.at_commit([&](Transaction& c) -> Status {
            PINDAX_ASSIGN(std::byte* bytes, c.modify(counter, 256, nullptr));
            u64 value;
            std::memcpy(&value, bytes, 8);
            ++value;
            std::memcpy(bytes, &value, 8);
            return {};
          });
          auto lsn = tx.commit();
          if (!lsn.ok()) wrong = true;
          if (mode == SyncMode::kStrict && store->durable_lsn() < *lsn) wrong = true;
          if (get(*store, at, static_cast<u32>(i % 64)) != i) wrong = true;
          if (i % 500 == 0 && !store->checkpoint().ok()) wrong = true;
          if (i % 100 == 0 && !store->sync(*lsn).ok()) wrong = true;
        }
      });
    for (auto& t : threads) t.join();
    CHECK_FALSE(wrong.load());
    for (int reopen = 0; reopen < 2; ++reopen) {
      CHECK(get(*store, counter, 0) == kThreads * kRounds);
      for (unsigned t = 0; t < kThreads; ++t)
        for (u64 i = kRounds - 49; i <= kRounds; ++i)
          CHECK(get(*store, data_block(i % 50) + 512 * t, static_cast<u32>(i % 64)) == i);
      store.reset();
      store = open_store(*media, mode);
    }
  }
}

TEST_CASE("journal: a freed block is neither stored nor replayed over what it became") {
  const u64 data = 0x1234;
  SECTION("by the next checkpoint") {
    auto media = new_pool();
    auto store = open_store(*media, SyncMode::kStrict);
    REQUIRE(put_one(*store, data_block(0), 0, 1).ok());
    Transaction tx(*store);
    tx.forget(data_block(0));
    REQUIRE(tx.commit().ok());
    REQUIRE(media->write(data_block(0), &data, 8).ok());
    REQUIRE(store->checkpoint().ok());
    CHECK(in_place(*media, data_block(0), 0) == data);
  }
  SECTION("by replay") {
    auto media = new_pool();
    auto store = open_store(*media, SyncMode::kStrict);
    REQUIRE(put_one(*store, data_block(0), 0, 1).ok());
    Transaction tx(*store);
    REQUIRE(put(tx, data_block(1), 0, 7).ok());
    tx.forget(data_block(0));
    REQUIRE(tx.commit().ok());
    REQUIRE(media->write(data_block(0), &data, 8).ok());
    store.reset();
    store = open_store(*media, SyncMode::kStrict);
    CHECK(in_place(*media, data_block(0), 0) == data);
    CHECK(get(*store, data_block(1), 0) == 7);
  }
  SECTION("unless it is metadata again") {
    auto media = new_pool();
    auto store = open_store(*media, SyncMode::kStrict);
    REQUIRE(put_one(*store, data_block(0), 0, 1).ok());
    Transaction tx(*store);
    tx.forget(data_block(0));
    REQUIRE(tx.commit().ok());
    Transaction again(*store);
    again.modify_new(data_block(0), nullptr)[9] = std::byte{5};
    REQUIRE(again.commit().ok());
    store.reset();
    store = open_store(*media, SyncMode::kStrict);
    CHECK(get(*store, data_block(0), 1) == 5u << 8);
  }
  SECTION("by a checkpoint that had frozen it already") {
    auto media = new_pool();
    auto store = open_store(*media, SyncMode::kPosix);
    REQUIRE(put_one(*store, data_block(0), 0, 1).ok());
    Lsn freed;
    steps::arm("journal.checkpoint_logged", [&] {
      steps::disarm("journal.checkpoint_logged");
      Transaction tx(*store);
      tx.forget(data_block(0));
      freed = *tx.commit();
      REQUIRE(media->write(data_block(0), &data, 8).ok());
    });
    REQUIRE(store->checkpoint().ok());
    steps::disarm_all();
    CHECK(in_place(*media, data_block(0), 0) == data);
    // The head moved over the block's last change: the record that freed it must not be lost any more.
    CHECK(store->durable_lsn() >= freed);
    store.reset();
    store = open_store(*media, SyncMode::kPosix);
    CHECK(in_place(*media, data_block(0), 0) == data);
  }
}

TEST_CASE("journal: a commit into a block that a checkpoint has frozen is in the next one") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  REQUIRE(put_one(*store, data_block(0), 0, 1).ok());
  auto held = *store->view(data_block(0), 512);
  steps::arm("journal.checkpoint_logged", [&] {
    steps::disarm("journal.checkpoint_logged");
    REQUIRE(put_one(*store, data_block(0), 0, 2).ok());
  });
  REQUIRE(store->checkpoint().ok());
  steps::disarm_all();
  CHECK(in_place(*media, data_block(0), 0) == 1);
  CHECK(get(*store, data_block(0), 0) == 2);
  u64 old;
  std::memcpy(&old, held.data(), 8);
  CHECK(old == 1);
  REQUIRE(store->checkpoint().ok());
  CHECK(in_place(*media, data_block(0), 0) == 2);
}

TEST_CASE("journal: opened for reading only it shows what replay would give and writes nothing") {
  auto media = new_pool();
  {
    auto store = open_store(*media, SyncMode::kPosix);
    for (u32 i = 0; i < 20; ++i) REQUIRE(put_one(*store, data_block(i), 1, i + 1).ok());
  }
  const auto before = image(*media);
  {
    auto store = open_store(*media, SyncMode::kPosix, true);
    CHECK(store->replay_report().records == 20);
    for (u32 i = 0; i < 20; ++i) CHECK(get(*store, data_block(i), 1) == i + 1);
    CHECK(store->checkpoint().ok());
    CHECK(store->sync(store->last_lsn()).ok());
  }
  CHECK(image(*media) == before);
}

TEST_CASE("journal: an old pool's records do not follow those of a new one in the same place") {
  auto media = new_pool();
  {
    auto store = open_store(*media, SyncMode::kPosix);
    for (u32 i = 0; i < 20; ++i) REQUIRE(put_one(*store, data_block(i), 0, 1).ok());
  }
  REQUIRE(MetaStore::format_journal(*media, small_geometry()).ok());
  { REQUIRE(put_one(*open_store(*media, SyncMode::kPosix), data_block(30), 0, 1).ok()); }
  auto store = open_store(*media, SyncMode::kPosix);
  CHECK(store->replay_report().records == 1);
}

TEST_CASE("journal: a view outside the pool is kCorrupt") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  CHECK(store->view(PoolOffset(media->size()), 512).code() == Errc::kCorrupt);
  CHECK(store->view(PoolOffset(~u64{0} << 12), 512).code() == Errc::kCorrupt);
}
