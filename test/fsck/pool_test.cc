// SPDX-License-Identifier: BSD-3-Clause
//
// What belongs to the pool, damaged piece by piece: superblocks, journal headers, state record, groups, counts, lists of blocks. It is
// found, repaired, clean afterwards, and no file has changed.
#include "fsck_bench.h"

using namespace pindax;
using test::differences;
using test::FsckBench;

TEST_CASE("fsck: a pool that was filled and unmounted is clean, and a repair changes nothing in it") {
  FsckBench b;
  const auto before = b.picture();
  const FsckReport r = b.check(false);
  INFO(FsckBench::text(r));
  REQUIRE(r.exit_code() == 0);
  REQUIRE(r.directories == 6);
  REQUIRE(r.symlinks == 2);
  REQUIRE(b.check(true).exit_code() == 0);
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: either superblock comes back from the other") {
  FsckBench b;
  const auto before = b.picture();
  const u64 at = format::kSuperblockOffsets[GENERATE(0u, 1u)];
  b.junk(PoolOffset(at + 64), 100);
  b.require_repaired("superblock");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: a superblock or journal header that a crash tore is a note, and a mount heals it") {
  FsckBench b;
  const auto before = b.picture();
  const unsigned which = GENERATE(0u, 1u, 2u, 3u);
  if (which < 2) {
    // As a store of the next mount that got only some of its sectors to the media.
    const PoolOffset at(format::kSuperblockOffsets[which]);
    format::Superblock torn;
    REQUIRE(b.media->read(at, &torn, sizeof torn).ok());
    torn.sequence += 1;
    torn.state = static_cast<u32>(format::PoolState::kMounted);
    torn.mount_count += 1;
    REQUIRE(b.media->write(at, &torn, 512).ok());
  } else {
    const PoolOffset at = block_offset(BlockNo(b.geometry.journal_block + which - 2));
    format::JournalHeader torn;
    REQUIRE(b.media->read(at, &torn, sizeof torn).ok());
    torn.sequence += 1;
    torn.head += 4096;
    REQUIRE(b.media->write(at, &torn, sizeof torn).ok());
  }
  const FsckReport crashed = b.check(false);
  INFO(FsckBench::text(crashed));
  REQUIRE(crashed.exit_code() == 0);
  REQUIRE(FsckBench::text(crashed).find("a crash came") != std::string::npos);
  // The same bytes wrong in what never changes are damage.
  if (which < 2) {
    b.junk(PoolOffset(format::kSuperblockOffsets[which] + offsetof(format::Superblock, uuid)), 1);
    REQUIRE(b.check(false).exit_code() == 4);
    b.junk(PoolOffset(format::kSuperblockOffsets[which] + offsetof(format::Superblock, uuid)), 1);
  }
  REQUIRE(differences(before, b.picture()).empty());
  REQUIRE(FsckBench::text(b.check(false)).find("a crash came") == std::string::npos);
}

TEST_CASE("fsck: without a superblock nothing is touched") {
  FsckBench b;
  for (const u64 at : format::kSuperblockOffsets) b.junk(PoolOffset(at), 100);
  REQUIRE(fsck(*b.media, {.repair = true}).code() == Errc::kCorrupt);
}

TEST_CASE("fsck: journal headers come back, one from the other or both anew") {
  FsckBench b;
  const auto before = b.picture();
  const unsigned which = GENERATE(1u, 2u, 3u);
  for (u64 i = 0; i < 2; ++i)
    if ((which >> i & 1) != 0) b.junk(block_offset(BlockNo(b.geometry.journal_block + i)));
  b.require_repaired("journal");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: the state record is built anew, quarantine included") {
  FsckBench b;
  const auto before = b.picture();
  b.junk(block_offset(BlockNo(b.geometry.state_block)) + 40);
  b.require_repaired("state");
  REQUIRE(differences(before, b.picture()).empty());
  b.mount();
  const auto quarantined = b.fs->allocator().quarantined();
  REQUIRE(quarantined.ok());
}

TEST_CASE("fsck: AG headers and bitmaps are built anew") {
  FsckBench b;
  const auto before = b.picture();
  const int which = GENERATE(0, 1, 2, 3);
  if (which == 0) b.junk(block_offset(b.geometry.ag_header(0)) + 16);
  if (which == 1) b.junk(block_offset(b.geometry.bitmap(0, 0)) + 500, 64);
  if (which == 2) b.junk(block_offset(b.geometry.inode_bitmap(0, 0)) + 500, 64);
  if (which == 3)
    for (const BlockNo block : {b.geometry.ag_header(0), b.geometry.bitmap(0, 0), b.geometry.inode_bitmap(0, 0)})
      b.junk(block_offset(block) + 8, 8);
  b.require_repaired(which == 0 ? "allocation group" : "bitmap");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: leaked blocks are freed, and used ones marked again") {
  FsckBench b;
  const auto before = b.picture();
  format::BitmapBlock bits;
  REQUIRE(b.media->read(block_offset(b.geometry.bitmap(0, 0)), &bits, sizeof bits).ok());
  const bool leak = GENERATE(true, false);
  const u64 root_bit = b.sb.root_inode / format::kInodesPerBlock;
  if (leak) {
    u32 byte = 0;
    while (bits.bits[byte] != 0) ++byte;
    bits.bits[byte] = 0x7e;
  } else {
    bits.bits[root_bit / 8] = static_cast<u8>(bits.bits[root_bit / 8] & ~(1u << root_bit % 8));
  }
  format::seal(bits);
  REQUIRE(b.media->write(block_offset(b.geometry.bitmap(0, 0)), &bits, sizeof bits).ok());
  b.require_repaired("bitmap");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: share counts that are too low, too high, without a file, or unreadable are counted anew [R29]") {
  FsckBench b;
  const auto before = b.picture();
  const int damage = GENERATE(0, 1, 2, 3);
  b.mount();
  const auto extents = b.fs->extents(**b.fs->resolve("/a/original"), {0, 1u << 20});
  REQUIRE(extents.ok());
  const BlockRun shared{extents->front().block + 10, 3};
  REQUIRE(b.fs->allocator().owners(shared, nullptr)->front().owners == 3);
  if (damage == 3) {
    const BlockNo header = b.geometry.ag_header(b.geometry.ag_of(shared.start));
    auto view = b.fs->store().view(block_offset(header), sizeof(format::AgHeader));
    REQUIRE(view.ok());
    const u64 root = view->as<format::AgHeader>().refcount_root;
    REQUIRE(root != 0);
    b.unmount();
    b.junk(block_offset(BlockNo(root)) + 40, 100);
  } else {
    Transaction tx(b.fs->store());
    std::vector<BlockRun> last;
    if (damage == 0) REQUIRE(b.fs->allocator().drop_owner(tx, shared, &last).ok());
    if (damage == 1) REQUIRE(b.fs->allocator().add_owner(tx, shared).ok());
    if (damage == 2) {
      const auto alone = b.fs->extents(**b.fs->resolve("/a/linked"), {0, 1u << 20});
      REQUIRE(b.fs->allocator().add_owner(tx, {alone->front().block, 1}).ok());
    }
    REQUIRE(tx.commit().ok());
    b.unmount();
  }
  b.require_repaired("share counts");
  REQUIRE(differences(before, b.picture()).empty());
  b.mount();
  CHECK(b.fs->allocator().owners(shared, nullptr)->front().owners == 3);
  b.unmount();
}

TEST_CASE("fsck: orphans are listed as they are") {
  FsckBench b;
  const auto before = b.picture();
  b.mount();
  InodeRef orphan = *b.fs->create_unnamed(*b.fs->root().value(), {.mode = S_IFREG | 0600}, {});
  b.write(orphan, 0, "nameless");
  REQUIRE(b.fs->store().checkpoint().ok());
  format::StateRecord state;
  REQUIRE(b.media->read(block_offset(BlockNo(b.geometry.state_block)), &state, sizeof state).ok());
  REQUIRE(state.orphan_count == 1);
  const u64 root = state.orphan_root;
  // As after kill -9: a copy of the pool as it stands.
  std::vector<std::byte> copy(64u << 20);
  REQUIRE(b.media->read(PoolOffset(0), copy.data(), copy.size()).ok());
  orphan.reset();
  b.unmount();
  REQUIRE(b.media->write(PoolOffset(0), copy.data(), copy.size()).ok());
  const FsckReport crashed = b.check(false);
  INFO(FsckBench::text(crashed));
  REQUIRE(crashed.exit_code() == 0);
  b.junk(block_offset(BlockNo(root)) + 100);
  b.require_repaired("orphans");
  b.mount();
  b.unmount();
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: the quarantine tree is rebuilt from what is readable") {
  FsckBench b;
  format::StateRecord state;
  REQUIRE(b.media->read(block_offset(BlockNo(b.geometry.state_block)), &state, sizeof state).ok());
  REQUIRE(state.quarantine_blocks == 7);
  b.junk(block_offset(BlockNo(state.quarantine_root)) + 100);
  b.require_repaired("quarantine");
}

TEST_CASE("fsck: bad blocks are neither leaked nor free, and the files that lost bytes are named") {
  FsckBench b;
  const auto before = b.picture();
  // One of a file, one that is shared by three, one that is free.
  const BlockNo own(format::unpack_extent(b.slot(b.ino_of("/a/few")).body.extents[1]).block);
  const BlockNo shared(format::unpack_extent(b.slot(b.ino_of("/a/original")).body.extents[0]).block + 12);
  b.mount();
  const BlockNo free = b.fs->allocator().free_runs(1)->front().start;
  for (const BlockNo bad : {own, shared, free}) REQUIRE(b.fs->allocator().note_bad(bad));
  REQUIRE(b.fs->tend_bad_blocks().ok());
  b.unmount();
  const FsckReport report = b.check(false);
  INFO(FsckBench::text(report));
  CHECK(report.exit_code() == 0);
  CHECK(report.bad_blocks == 3);
  CHECK(report.retired_blocks == 1);
  std::map<std::string, u64> lost;
  for (const auto& d : report.damage) lost[d.path] = d.offset_bytes;
  CHECK(lost == std::map<std::string, u64>{{"/a/few", 3 * kBlockSize}, {"/a/original", 12 * kBlockSize}, {"/a/clone", 12 * kBlockSize},
                                           {"/a/b/clone", 12 * kBlockSize}});

  format::StateRecord state;
  const PoolOffset at = block_offset(BlockNo(b.geometry.state_block));
  REQUIRE(b.media->read(at, &state, sizeof state).ok());
  SECTION("a list that cannot be read is made anew from what can") {
    b.junk(block_offset(BlockNo(state.bad_root)) + 100);
    b.require_repaired("bad blocks");
  }
  SECTION("counts are put right") {
    state.bad_blocks = 7;
    state.retired_blocks = 5;
    format::seal(state);
    REQUIRE(b.media->write(at, &state, sizeof state).ok());
    b.require_repaired("counts");
    CHECK(b.check(false).retired_blocks == 1);
  }
  SECTION("what the list says of a block is put right by who has it") {
    b.edit_node(state.bad_root, [](std::byte* node) {
      format::NodeHeader h;
      std::memcpy(&h, node, sizeof h);
      for (u32 i = 0; i < h.count; ++i) {
        format::LeafSlot slot;
        std::memcpy(&slot, node + sizeof h + i * sizeof slot, sizeof slot);
        format::BadBlockValue v;
        std::memcpy(&v, node + slot.offset, sizeof v);
        v.state = 3 - v.state;
        std::memcpy(node + slot.offset, &v, sizeof v);
      }
    });
    state.retired_blocks = 2;
    format::seal(state);
    REQUIRE(b.media->write(at, &state, sizeof state).ok());
    b.require_repaired("bad blocks");
    const FsckReport after = b.check(false);
    CHECK(after.bad_blocks == 3);
    CHECK(after.retired_blocks == 1);
  }
  SECTION("a repair of something else leaves it alone") {
    b.junk(block_offset(b.geometry.bitmap(1, 0)) + 100);
    b.require_repaired("bitmap");
    CHECK(b.check(false).bad_blocks == 3);
  }
  // Whatever was done, nobody gets the block.
  b.mount();
  if (b.fs->allocator().bad_count() == 3)
    for (u32 ag = 0; ag < b.geometry.ag_count; ++ag) {
      const auto runs = b.fs->allocator().free_runs(ag).value();
      for (const BlockRun& r : runs) CHECK(!(r.start <= free && free < r.end()));
    }
  b.unmount();
}
