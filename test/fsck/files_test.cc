// SPDX-License-Identifier: BSD-3-Clause
//
// What belongs to a file or directory, damaged piece by piece: it is found, repaired, clean afterwards, and whatever was not hit is as
// it was.
#include "fsck_bench.h"

using namespace pindax;
using test::differences;
using test::FsckBench;

namespace {

bool under(const std::string& path, const std::string& dir) { return path == dir || path.starts_with(dir + "/"); }

}  // namespace

TEST_CASE("fsck: an inode whose checksum alone is wrong is kept, one full of junk is removed") {
  FsckBench b;
  const auto before = b.picture();
  const u64 ino = b.ino_of("/a/f7");
  const bool plausible = GENERATE(true, false);
  b.junk(format::inode_offset(InodeNo(ino)) + (plausible ? offsetof(format::Inode, atime_s) : 0), plausible ? 1 : 200);
  b.require_repaired("inode");
  const auto gone = [&](const std::string& p) { return !plausible && p == "/a/f7"; };
  const auto after = b.picture();
  REQUIRE(differences(before, after, gone).empty());
  REQUIRE(after.contains("/a/f7") == plausible);
}

TEST_CASE("fsck: wrong counters of an inode are corrected") {
  FsckBench b;
  const auto before = b.picture();
  const int which = GENERATE(0, 1, 2, 3, 4);
  format::Inode s = b.slot(b.ino_of(which < 2 ? "/a/f3" : "/a"));
  if (which == 0) s.links = 5;
  if (which == 1) s.blocks = 77;
  if (which == 2) s.entries = 3;
  if (which == 3) s.subdirs = 9;
  if (which == 4) s.links = 9;
  b.store_slot(s);
  b.require_repaired(which < 2 ? "inode" : "directory");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: a bad leaf of a directory costs only its own names, and their files are in lost+found") {
  FsckBench b;
  const auto before = b.picture();
  const u64 root = b.slot(b.ino_of("/big")).body.root;
  REQUIRE(b.level(root) > 0);
  b.junk(block_offset(BlockNo(b.child(root, 1))) + 100);
  b.require_repaired("directory");
  const auto after = b.picture();
  REQUIRE(differences(before, after, [](const std::string& p) { return under(p, "/big") || under(p, "/lost+found") || p == "/"; })
              .empty());
  u64 left = 0, found = 0;
  for (const auto& [path, text] : after) {
    left += under(path, "/big") ? 1 : 0;
    found += under(path, "/lost+found") ? 1 : 0;
  }
  REQUIRE(left > 500);
  REQUIRE(left + found == 702);  // both directories count
}

TEST_CASE("fsck: a bad root of a directory or an extent tree costs nothing: the leaves are found again") {
  FsckBench b;
  const auto before = b.picture();
  const char* path = GENERATE("/big", "/a/b/sparse");
  const u64 root = b.slot(b.ino_of(path)).body.root;
  REQUIRE(b.level(root) > 0);
  b.junk(block_offset(BlockNo(root)) + 60);
  b.require_repaired(std::string(path) == "/big" ? "directory" : "extents");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: a bad leaf of an extent tree costs only its blocks") {
  FsckBench b;
  const auto before = b.picture();
  const u64 root = b.slot(b.ino_of("/a/b/sparse")).body.root;
  b.junk(block_offset(BlockNo(b.child(root, 0))) + 100);
  b.require_repaired("extents");
  const auto after = b.picture();
  REQUIRE(differences(before, after, [](const std::string& p) { return p == "/a/b/sparse"; }).empty());
  REQUIRE((after.at("/a/b/sparse").find("block 399") != std::string::npos));
}

TEST_CASE("fsck: an extent outside the data is dropped, two owners of one block get a copy each") {
  FsckBench b;
  const auto before = b.picture();
  const bool twice = GENERATE(true, false);
  format::Inode s = b.slot(b.ino_of("/a/few"));
  const format::Inode other = b.slot(b.ino_of("/a/f1"));
  s.body.extents[2].block = twice ? other.body.extents[0].block.get() : b.geometry.pool_blocks - 1;
  if (!twice) s.body.extents[2].length_blocks = 2;
  b.store_slot(s);
  b.require_repaired("extents");
  const auto after = b.picture();
  REQUIRE(differences(before, after, [](const std::string& p) { return p == "/a/few"; }).empty());
  REQUIRE((after.at("/a/few").find("contents 1") != std::string::npos) == twice);
}

TEST_CASE("fsck: entries that name nothing, the wrong type or the wrong hash are put right") {
  FsckBench b;
  const auto before = b.picture();
  const int which = GENERATE(0, 1, 2);
  u64 leaf = b.slot(b.ino_of("/a")).body.root;
  while (b.level(leaf) > 0) leaf = b.child(leaf, 0);
  std::string victim;
  b.edit_node(leaf, [&](std::byte* bytes) {
    auto* slots = reinterpret_cast<format::LeafSlot*>(bytes + sizeof(format::NodeHeader));
    format::DirectoryValue v;
    std::memcpy(&v, bytes + slots[0].offset, sizeof v);
    victim = "/a/" + std::string(reinterpret_cast<const char*>(bytes) + slots[0].offset + sizeof v, v.name_length);
    if (which == 0) v.inode = b.geometry.pool_blocks * 8 - 3;
    if (which == 1) v.type = 13;
    std::memcpy(bytes + slots[0].offset, &v, sizeof v);
    if (which == 2) slots[0].key = slots[0].key / 2;
  });
  INFO(victim);
  b.require_repaired("directory");
  const auto after = b.picture();
  const auto moved = [&](const std::string& p) {
    const bool one_link_less = victim == "/a/linked" && p.find("/link") != std::string::npos;
    return which == 0 && (under(p, victim) || under(p, "/lost+found") || p == "/" || p == "/a" || one_link_less);
  };
  REQUIRE(differences(before, after, moved).empty());
  REQUIRE(after.contains(victim) == (which != 0));
}

TEST_CASE("fsck: parent records are made from the names") {
  FsckBench b;
  const auto before = b.picture();
  const int which = GENERATE(0, 1, 2);
  format::Inode s = b.slot(b.ino_of(which == 0 ? "/a/b/c" : "/a/linked"));
  if (which == 0) s.parent = b.sb.root_inode;
  if (which == 1) s.parent_key = 5;
  if (which == 2) b.junk(block_offset(BlockNo(s.parents_root)) + 100);
  else b.store_slot(s);
  b.require_repaired("parents");
  REQUIRE(differences(before, b.picture()).empty());
}

TEST_CASE("fsck: directories that are their own ancestors go to lost+found with all they hold") {
  FsckBench b;
  const auto before = b.picture();
  const u64 a = b.ino_of("/a"), c = b.ino_of("/a/b/c");
  // "/a" leaves the root and becomes an entry of its own grandchild.
  b.mount();
  {
    auto root = b.fs->root();
    auto deep = b.fs->resolve("/a/b/c");
    Transaction tx(b.fs->store());
    auto root_slot = modify_inode(tx, (*root)->ino);
    auto deep_slot = modify_inode(tx, (*deep)->ino);
    REQUIRE((root_slot.ok() && deep_slot.ok()));
    struct Nodes : NodeAllocator {
      Allocator* allocator = nullptr;
      Result<BlockNo> allocate_node(Transaction& t) override {
        auto run = allocator->allocate(t, {.use = BlockUse::kMetadata});
        if (!run.ok()) return run.status();
        return run->start;
      }
      void free_node(Transaction& t, BlockNo block) override { allocator->free(t, {block, 1}, false); }
    } nodes;
    nodes.allocator = &b.fs->allocator();
    TreeRef from{BlockNo((*root_slot)->body.root), format::TreeKind::kDirectory, (*root)->ino.value};
    TreeRef to{BlockNo((*deep_slot)->body.root), format::TreeKind::kDirectory, (*deep)->ino.value};
    auto slot_a = modify_inode(tx, InodeNo(a));
    REQUIRE(slot_a.ok());
    std::vector<std::byte> value;
    {
      TreeReader reader(tx, from);
      auto found = reader.find((*slot_a)->parent_key);
      REQUIRE(found.ok());
      value.assign(found->begin(), found->end());
    }
    REQUIRE(TreeWriter(tx, from, nodes).erase((*slot_a)->parent_key).ok());
    REQUIRE(TreeWriter(tx, to, nodes).insert((*slot_a)->parent_key, value).ok());
    (*root_slot)->body.root = from.root.value;
    (*deep_slot)->body.root = to.root.value;
    (*slot_a)->parent = c;
    REQUIRE(tx.commit().ok());
  }
  b.unmount();
  b.require_repaired("directory");
  const auto after = b.picture();
  const auto again = after.find("/lost+found/#" + std::to_string(a) + "/b/sparse");
  const auto by_b = std::find_if(after.begin(), after.end(), [](const auto& e) { return e.first.ends_with("/sparse"); });
  REQUIRE((again != after.end() || by_b != after.end()));
  REQUIRE((by_b->second == before.at("/a/b/sparse")));
}

TEST_CASE("fsck: bad xattrs go, the others stay") {
  FsckBench b;
  const auto before = b.picture();
  const int which = GENERATE(0, 1, 2);
  const format::Inode s = b.slot(b.ino_of("/a/few"));
  const u64 root = s.xattr_root;
  REQUIRE(b.level(root) > 0);
  if (which == 0) b.junk(block_offset(BlockNo(b.child(root, 0))) + 100);
  if (which == 1) b.junk(block_offset(BlockNo(root)) + 100);
  if (which == 2) {
    // The blob of user.large: the only one that this inode owns.
    for (u64 block = b.geometry.first_data(0).value; block < b.geometry.ag_blocks; ++block) {
      format::BlobHeader h;
      REQUIRE(b.media->read(block_offset(BlockNo(block)), &h, sizeof h).ok());
      if (h.magic == format::kBlobMagic && h.owner == s.self) {
        b.junk(block_offset(BlockNo(block)) + 1000);
        break;
      }
    }
  }
  b.require_repaired("xattrs");
  const auto after = b.picture();
  REQUIRE(differences(before, after, [](const std::string& p) { return p == "/a/few"; }).empty());
  REQUIRE((after.at("/a/few").find("user.n") != std::string::npos));
  if (which == 1) REQUIRE((after.at("/a/few") == before.at("/a/few")));
  if (which == 2) REQUIRE((after.at("/a/few").find("user.large") == std::string::npos));
}

TEST_CASE("fsck: a long symbolic link whose target is lost is removed") {
  FsckBench b;
  const auto before = b.picture();
  const format::Inode s = b.slot(b.ino_of("/a/long"));
  b.junk(block_offset(BlockNo(s.body.blob.blocks[0])) + 100);
  b.require_repaired("blob");
  REQUIRE(differences(before, b.picture(), [](const std::string& p) { return p == "/a/long"; }).empty());
}

TEST_CASE("fsck: without its root directory everything is in lost+found") {
  FsckBench b;
  const auto before = b.picture();
  b.junk(format::inode_offset(InodeNo(b.sb.root_inode)), 300);
  b.require_repaired("inode");
  const auto after = b.picture();
  u64 found = 0;
  for (const auto& [path, text] : after)
    if (path.ends_with("/sparse")) found += text == before.at("/a/b/sparse");
  REQUIRE(found == 1);
}
