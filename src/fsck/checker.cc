// SPDX-License-Identifier: BSD-3-Clause
#include "fsck/checker.h"

#include <algorithm>

#include "fmt/format.h"

namespace pindax::fsck_detail {

using tree_node::ConstNode;
using tree_node::Expected;

u64 name_term(u64 dir, u64 key) {
  u64 x = dir * 0x9e37'79b9'7f4a'7c15 + key;
  x = (x ^ x >> 32) * 0xd6e8'feb8'6659'fd93;
  x = (x ^ x >> 29) * 0xbf58'476d'1ce4'e5b9;
  return x ^ x >> 32;
}

u8 type_of_mode(u32 mode) { return static_cast<u8>((mode & 0170000) >> 12); }

// The slot's fields make sense, but for its checksum.
bool plausible(const format::Inode& slot, InodeNo ino, format::Inode* sealed) {
  *sealed = slot;
  format::seal(*sealed);
  return format::check_inode(*sealed, ino).ok();
}

Checker::Checker(MetaStore& store, const format::Superblock& sb, bool repairing, FsckReport& report,
                 const std::function<void(const FsckProgress&)>& progress)
    : store_(store),
      sb_(sb),
      geometry_(store.geometry()),
      repairing_(repairing),
      report_(report),
      progress_(progress),
      headers_(geometry_.ag_count) {}

void Checker::find(FsckSeverity severity, const char* structure, std::string where, std::string message) {
  findings_.push_back({severity, structure, std::move(where), std::move(message), false});
}

void Checker::progress(const char* phase, u64 done, u64 total) {
  if (progress_ && done % 1024 == 0) progress_({phase, done, total});
}

std::string Checker::name_of(u64 ino) const { return fmt::format("inode {}", ino); }

u64 Checker::index_of(u64 ino) const {
  const u64 block = ino / format::kInodesPerBlock;
  const auto it = std::lower_bound(inode_blocks_.begin(), inode_blocks_.end(), block);
  if (it == inode_blocks_.end() || *it != block) return kNoIndex;
  return static_cast<u64>(it - inode_blocks_.begin()) * format::kInodesPerBlock + ino % format::kInodesPerBlock;
}

InodeFacts* Checker::facts(u64 ino) {
  const u64 index = index_of(ino);
  if (index != kNoIndex) return &facts_[index];
  const auto it = adopted_.find(ino);
  return it == adopted_.end() ? nullptr : &it->second;
}

void Checker::adopt_inode(u64 ino, u32 mode) {
  const u64 index = index_of(ino);
  InodeFacts& f = index != kNoIndex ? facts_[index] : adopted_[ino];
  f = {};
  f.mode = mode;
  f.links = 2;
  f.names = 1;
}

bool Checker::quarantined_run(u64 block, u64 length) {
  if (const auto it = quarantine_runs_.find(block); it != quarantine_runs_.end() && it->second == length) return true;
  for (u64 b = block; b < block + length; ++b)
    if (used_.test(b)) return false;
  return true;
}

u64 Checker::refcount_root(u32 ag) const { return headers_[ag] ? headers_[ag]->refcount_root.get() : 0; }
u64 Checker::reverse_root(u32 ag) const { return headers_[ag] ? headers_[ag]->reverse_map_root.get() : 0; }

// False if somebody has it already, or it is none to be had.
bool Checker::claim_metadata(u64 block) {
  if (!geometry_.is_data(BlockNo(block), 1) || used_.test(block)) return false;
  used_.set(block);
  return true;
}

void Checker::keep_quarantined(u64 block, u64 length) {
  if (!quarantined_run(block, length)) return;
  for (u64 b = block; b < block + length; ++b) used_.set(b);
  quarantine_runs_[block] = length;
}

namespace {

struct Descent {
  Checker& checker;
  const TreeRef& ref;
  Checker::TreeVisitor& visitor;
  const std::function<bool(u64)>& claim;
};

void descend(Descent& d, BlockNo block, const Expected& expected) {
  if (!d.checker.geometry().is_data(block, 1)) return d.visitor.bad(block, "points outside the data blocks");
  MetaView keep;
  const tree_node::Source source{&d.checker.store(), nullptr, d.ref};
  const auto node = source.get(block, expected, keep);
  if (!node.ok()) return d.visitor.bad(block, std::string(node.status().message()));
  if (d.visitor.claim && !d.claim(block.value)) return d.visitor.bad(block, "node belongs to somebody else as well");
  ++d.visitor.nodes;
  for (u32 i = 0; i < node->count(); ++i) {
    if (node->leaf()) d.visitor.item(node->key(i), node->value(i));
    else descend(d, node->child(i), Expected::child_of(*node, i, expected));
  }
}

}  // namespace

void Checker::visit_tree(const TreeRef& ref, TreeVisitor& v) {
  if (ref.root.value == 0) return;
  const std::function<bool(u64)> claim = [this](u64 b) { return claim_metadata(b); };
  Descent d{*this, ref, v, claim};
  descend(d, ref.root, Expected());
}

Status Checker::walk() {
  report_.inodes = report_.directories = report_.files = report_.symlinks = report_.others = 0;
  check_state();
  check_groups();
  check_slots();
  check_global_trees();
  check_data();
  check_shares();
  check_quarantine();
  check_bad_blocks();
  check_directories();
  settle_doubtful_parents();
  check_reach();
  check_links();
  check_orphans();
  check_bitmaps();
  check_totals();
  tell_damage();
  return store_.health();
}

}  // namespace pindax::fsck_detail
