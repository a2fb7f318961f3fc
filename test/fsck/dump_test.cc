// SPDX-License-Identifier: BSD-3-Clause
#include "fsck/dump.h"

#include "fsck_bench.h"

using namespace pindax;
using test::FsckBench;

TEST_CASE("fsck: a dump shows every structure, and damage where it is") {
  FsckBench b;
  REQUIRE(Dump::open(*b.media).value()->quarantine().size() == 1);
  const InodeNo a(b.ino_of("/a")), few(b.ino_of("/a/few")), sparse(b.ino_of("/a/b/sparse")), linked(b.ino_of("/a/linked"));
  auto opened = Dump::open(*b.media);
  REQUIRE(opened.ok());
  Dump& d = **opened;
  REQUIRE(d.superblock().size() == 2);
  REQUIRE(d.superblock()[0]["label"] == "fsck");
  REQUIRE(d.groups().size() == b.geometry.ag_count);
  REQUIRE_FALSE(d.state().contains("damage"));
  REQUIRE(d.directory(a)->size() == 40 + 8);
  REQUIRE(d.extents(few)->size() == 4);
  REQUIRE(d.extents(sparse)->size() == 400);
  REQUIRE(d.xattrs(few)->size() == 41);
  REQUIRE(d.parents(linked)->size() == 301);
  REQUIRE(d.quarantine().empty());  // a mount lets go of what no client holds
  REQUIRE(d.orphans().empty());
  REQUIRE(d.shares().size() == 2);
  REQUIRE(d.shares()[0]["owners"] == 2);
  REQUIRE(d.shares()[1]["length_blocks"] == 12);
  REQUIRE(d.shares()[1]["owners"] == 3);
  u64 free_blocks = 0;
  for (u32 ag = 0; ag < b.geometry.ag_count; ++ag) {
    const auto runs = d.free_runs(ag);
    REQUIRE(runs.ok());
    for (const auto& run : *runs) free_blocks += run["length_blocks"].get<u64>();
  }
  REQUIRE(d.state()["free_blocks"] == free_blocks);
  const u64 root = (*d.inode(a))["root"].get<u64>();
  REQUIRE((*d.block(BlockNo(root)))["kind"] == "tree node");
  REQUIRE(render_dump(*d.inode(a)).find("type: directory") != std::string::npos);
  for (u64 block = 0; block < b.geometry.ag_blocks; ++block) {
    const auto any = d.block(BlockNo(block));
    REQUIRE(any.ok());
    (void)render_dump(*any);
  }
  REQUIRE_FALSE(d.block(BlockNo(b.geometry.pool_blocks)).ok());
  REQUIRE_FALSE(d.inode(InodeNo(3)).ok());

  b.junk(block_offset(BlockNo(b.geometry.state_block)) + 40);
  auto again = Dump::open(*b.media);
  REQUIRE(again.ok());
  REQUIRE((*again)->state().contains("damage"));
}
