// SPDX-License-Identifier: BSD-3-Clause
#include "journal/transaction.h"

#include <sys/stat.h>

#include "catch.h"
#include "journal_util.h"

using namespace pindax;
using namespace pindax::test;

TEST_CASE("transaction: changes are seen inside at once and outside after commit") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  Transaction tx(*store);
  REQUIRE(put(tx, data_block(0), 3, 77).ok());
  u64 inside = 0;
  std::memcpy(&inside, *tx.read(data_block(0), 512) + 24, 8);
  CHECK(inside == 77);
  CHECK(get(*store, data_block(0), 3) == 0);
  REQUIRE(tx.commit().ok());
  CHECK(get(*store, data_block(0), 3) == 77);
}

TEST_CASE("transaction: dropped without commit it leaves nothing and runs on_abort, then at_end") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  std::string order;
  {
    Transaction tx(*store);
    REQUIRE(put(tx, data_block(0), 0, 1).ok());
    tx.at_commit([&](Transaction&) { return order += "commit ", Status(); });
    tx.on_commit([&](Lsn) { order += "on_commit "; });
    tx.on_abort([&] { order += "abort "; });
    tx.at_end([&] { order += "end "; });
  }
  CHECK(order == "abort end ");
  CHECK(get(*store, data_block(0), 0) == 0);
}

TEST_CASE("transaction: actions run in order: at_commit, on_commit with the record's end, at_end") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  std::string order;
  Lsn seen;
  Transaction tx(*store);
  REQUIRE(put(tx, data_block(0), 0, 1).ok());
  tx.at_commit([&](Transaction& t) { return order += "a ", put(t, data_block(5), 1, 9); });
  tx.at_commit([&](Transaction& t) { return order += "b ", put(t, data_block(0), 1, 2); });
  tx.on_commit([&](Lsn lsn) { order += "c ", seen = lsn; });
  tx.on_abort([&] { order += "x "; });
  tx.at_end([&] { order += "d "; });
  auto lsn = tx.commit();
  REQUIRE(lsn.ok());
  CHECK(order == "a b c d ");
  CHECK(seen == *lsn);
  CHECK(store->last_lsn() == *lsn);
  CHECK(store->durable_lsn() == *lsn);
  CHECK(get(*store, data_block(0), 0) == 1);
  CHECK(get(*store, data_block(0), 1) == 2);
  CHECK(get(*store, data_block(5), 1) == 9);
}

TEST_CASE("transaction: an at_commit action that fails aborts the whole") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  bool aborted = false;
  Transaction tx(*store);
  REQUIRE(put(tx, data_block(0), 0, 1).ok());
  tx.at_commit([&](Transaction& t) { return put(t, data_block(1), 0, 1); });
  tx.at_commit([&](Transaction&) { return Status(Errc::kNoSpace); });
  tx.on_abort([&] { aborted = true; });
  CHECK(tx.commit().code() == Errc::kNoSpace);
  CHECK(aborted);
  CHECK(get(*store, data_block(0), 0) == 0);
  CHECK(get(*store, data_block(1), 0) == 0);
  CHECK(put_one(*store, data_block(0), 0, 5).ok());
}

TEST_CASE("transaction: an object inside a new block is part of it, and both seals run") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  const auto count_seal = [](std::byte* p) { p[8] = std::byte{1}; };
  const auto last_seal = [](std::byte* p) { p[4000] = p[512 + 8]; };
  Transaction tx(*store);
  std::byte* block = tx.modify_new(data_block(2), last_seal);
  auto slot = tx.modify(data_block(2) + 512, 512, count_seal);
  REQUIRE(slot.ok());
  CHECK(*slot == block + 512);
  CHECK(*tx.read(data_block(2) + 512, 512) == *slot);
  (*slot)[0] = std::byte{42};
  REQUIRE(tx.commit().ok());
  auto view = store->view(data_block(2), 4096);
  CHECK(view->data()[512] == std::byte{42});
  CHECK(view->data()[520] == std::byte{1});
  CHECK(view->data()[4000] == std::byte{1});
}

TEST_CASE("transaction: without changes nothing is logged") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  REQUIRE(put_one(*store, data_block(0), 0, 5).ok());
  const Lsn before = store->last_lsn();
  auto lsn = put_one(*store, data_block(0), 0, 5);
  REQUIRE(lsn.ok());
  CHECK(*lsn == before);
  CHECK(store->last_lsn() == before);
}

TEST_CASE("transaction: too large for the journal is refused before anything happened") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix);
  Transaction tx(*store);
  bool ran = false;
  tx.at_commit([&](Transaction&) { return ran = true, Status(); });
  u64 n = 0;
  while (tx.record_bytes_estimate() <= store->max_record_bytes() + 8192)
    std::memset(tx.modify_new(data_block(n++), nullptr), 1, kBlockSize);
  CHECK(tx.commit().code() == Errc::kTooBig);
  CHECK_FALSE(ran);
  CHECK(get(*store, data_block(0), 0) == 0);
  CHECK(store->health().ok());
}

TEST_CASE("transaction: a read-only store refuses to commit") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kPosix, true);
  CHECK(put_one(*store, data_block(0), 0, 5).code() == Errc::kReadOnly);
}

TEST_CASE("transaction: inodes are checked when first taken up, and sealed") {
  auto media = new_pool();
  auto store = open_store(*media, SyncMode::kStrict);
  const InodeNo ino(offset_block(data_block(0)).value * format::kInodesPerBlock + 3);
  {
    Transaction tx(*store);
    CHECK(modify_inode(tx, ino).code() == Errc::kCorrupt);
    CHECK(modify_inode(tx, InodeNo(0)).code() == Errc::kStale);
    CHECK(modify_inode(tx, InodeNo(~u64{0})).code() == Errc::kStale);
    tx.modify_new(data_block(0), nullptr);
    auto inode = modify_inode(tx, ino);
    REQUIRE(inode.ok());
    (*inode)->magic = format::kInodeMagic;
    (*inode)->version = u16{format::kVersion};
    (*inode)->self = ino.value;
    (*inode)->mode = S_IFIFO | 0600;
    REQUIRE(tx.commit().ok());
  }
  Transaction tx(*store);
  auto inode = modify_inode(tx, ino);
  REQUIRE(inode.ok());
  (*inode)->links = 2;
  CHECK((*read_inode(tx, ino))->links == 2);
  REQUIRE(tx.commit().ok());
  Transaction again(*store);
  REQUIRE(read_inode(again, ino).ok());
  CHECK((*read_inode(again, ino))->links == 2);
}
