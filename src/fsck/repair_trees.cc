// SPDX-License-Identifier: BSD-3-Clause
//
// Damaged trees are built anew from what can be read: the items below readable nodes, and the leaves that hung below unreadable
// ones. Those are found among the blocks that are marked used but claimed by nobody: a leaf there that names the tree as its
// owner was never freed, so it is the tree's.

#include <algorithm>
#include <cstring>

#include "alloc/media_counts.h"
#include "fsck/repair.h"

namespace pindax::fsck_detail {

using tree_node::ConstNode;

namespace {

constexpr unsigned kItemsPerTransaction = 64;

BlockNo root_of(const format::Inode& slot, TreeKind kind) {
  return BlockNo(kind == TreeKind::kXattrs    ? slot.xattr_root
                 : kind == TreeKind::kParents ? slot.parents_root
                                              : slot.body.root);
}
void set_root(format::Inode& slot, TreeKind kind, u64 root) {
  if (kind == TreeKind::kXattrs) slot.xattr_root = root;
  else if (kind == TreeKind::kParents) slot.parents_root = root;
  else slot.body.root = root;
}

}  // namespace

// ---- Salvage --------------------------------------------------------------------------------------------------------

void Repair::salvage_block(u64 block) {
  const auto view = store_.view(block_offset(BlockNo(block)), kBlockSize);
  if (!view.ok()) return;
  const auto& h = view->as<format::NodeHeader>();
  if (h.magic != format::kNodeMagic || h.level != 0) return;
  const Plan::TreeOf tree{h.owner, static_cast<TreeKind>(h.kind.get())};
  if (!plan_.trees.contains(tree)) return;
  if (!format::check_node(view->data(), BlockNo(block), tree.kind, tree.owner).ok()) return;
  const ConstNode node(view->data());
  for (u32 i = 0; i < node.count(); ++i)
    salvaged_[tree].try_emplace(node.key(i), node.value(i).begin(), node.value(i).end());
  c_.keep_block(block);  // until the next walk: a crash must find it again
}

void Repair::salvage() {
  if (plan_.trees.empty()) return;
  const format::Geometry& g = c_.geometry();
  for (u32 ag = 0; ag < g.ag_count; ++ag)
    for (u32 index = 0; index < g.bitmap_blocks(ag); ++index) {
      const auto view = media_counts::read_bitmap(store_, ag, index, media_counts::kBlockBitmap);
      if (!view.ok()) continue;
      SparseBits marked;
      marked.load(0, view->as<format::BitmapBlock>().bits);
      for (u64 bit = marked.next_set(0); bit != ~u64{0}; bit = marked.next_set(bit + 1)) {
        const u64 in_group = u64{index} * format::kBitmapBits + bit;
        if (in_group >= g.ag_length(ag)) break;
        if (!c_.block_used(g.ag_start(ag) + in_group)) salvage_block(g.ag_start(ag) + in_group);
      }
    }
  for (const auto& [tree, items] : salvaged_)
    for (const auto& [key, value] : items) keep_blocks_of(tree.kind, key, TreeBytes(value));
}

// What a salvaged item refers to stays used, so that no new node is put there before the next walk has claimed it.
void Repair::keep_blocks_of(TreeKind kind, u64 key, TreeBytes value) {
  if (!format::check_value(kind, value).ok()) return;
  if (kind == TreeKind::kQuarantine) {
    format::QuarantineValue v;
    std::memcpy(&v, value.data(), sizeof v);
    if (c_.geometry().is_data(BlockNo(key), v.length_blocks)) c_.keep_quarantined(key, v.length_blocks);
  } else if (kind == TreeKind::kExtents) {
    format::ExtentValue v;
    std::memcpy(&v, value.data(), sizeof v);
    if (!c_.geometry().is_data(BlockNo(v.block), v.length_blocks)) return;
    for (u64 b = v.block; b < v.block + v.length_blocks; ++b) c_.keep_block(b);
  } else if (kind == TreeKind::kXattrs) {
    format::XattrValue v;
    std::memcpy(&v, value.data(), sizeof v);
    if (v.external == 0) return;
    format::BlobRef blob;
    std::memcpy(&blob, value.data() + sizeof v + v.name_length, sizeof blob);
    for (u32 i = 0; i < blob.block_count && i < format::kMaxBlobBlocks; ++i)
      if (c_.geometry().is_data(BlockNo(blob.blocks[i]), 1)) c_.keep_block(blob.blocks[i]);
  }
}

Repair::Items Repair::readable_items(const TreeRef& ref) {
  Items items;
  Checker::TreeVisitor v;
  v.bad = [](BlockNo, const std::string&) {};
  v.item = [&](u64 key, TreeBytes value) { items.try_emplace(key, value.begin(), value.end()); };
  c_.visit_tree(ref, v);
  if (const auto it = salvaged_.find({ref.owner, ref.kind}); it != salvaged_.end()) items.merge(it->second);
  std::erase_if(items, [&](const auto& item) { return !format::check_value(ref.kind, TreeBytes(item.second)).ok(); });
  return items;
}

// ---- Building -------------------------------------------------------------------------------------------------------

// A new tree that nothing refers to yet, in as many transactions as it takes.
Status Repair::build_tree(TreeKind kind, u64 owner, const Items& items, BlockNo& root, u64& nodes) {
  struct CountingNodes final : NodeAllocator {
    explicit CountingNodes(Allocator& a) : inner(a) {}
    Result<BlockNo> allocate_node(Transaction& tx) override {
      ++count;
      return inner.allocate_node(tx);
    }
    void free_node(Transaction& tx, BlockNo block) override {
      --count;
      inner.free_node(tx, block);
    }
    GlobalNodes inner;
    u64 count = 0;
  };
  CountingNodes from(*allocator_);
  TreeRef ref{BlockNo(0), kind, owner};
  for (auto it = items.begin(); it != items.end();) {
    const Status done = change([&](Transaction& tx) -> Status {
      TreeWriter writer(tx, ref, from);
      for (unsigned n = 0; n < kItemsPerTransaction && it != items.end(); ++n, ++it)
        PINDAX_TRY(writer.insert(it->first, TreeBytes(it->second)));
      return {};
    });
    PINDAX_TRY(done);
  }
  root = ref.root;
  nodes = from.count;
  return {};
}

Status Repair::rebuild_inode_tree(u64 ino, TreeKind kind) {
  PINDAX_ASSIGN(MetaView view, c_.slot(ino));
  const Items items = readable_items({root_of(view.as<format::Inode>(), kind), kind, ino});
  BlockNo root;
  u64 nodes = 0;
  PINDAX_TRY(build_tree(kind, ino, items, root, nodes));
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * changed, modify_inode(tx, InodeNo(ino)));
    set_root(*changed, kind, root.value);
    return {};  // blocks and entries are counted by the next walk
  });
}

Status Repair::rebuild_orphans() {
  Items items;
  c_.each_inode([&](u64 ino, const InodeFacts& f) {
    if ((f.links != 0 || f.names != 0) && f.pending == 0) return;
    format::OrphanValue v{};
    v.pending_shift = f.pending > 1 ? f.pending - 1u : 0u;  // mount has to finish it first
    const auto* bytes = reinterpret_cast<const std::byte*>(&v);
    items.try_emplace(ino, bytes, bytes + sizeof v);
  });
  BlockNo root;
  u64 nodes = 0;
  PINDAX_TRY(build_tree(TreeKind::kOrphans, 0, items, root, nodes));
  return change([&](Transaction& tx) -> Status {
    tx.at_commit([&](Transaction& t) -> Status {
      PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
      state->orphan_root = root.value;
      state->orphan_count = items.size();
      return {};
    });
    return {};
  });
}

// Only runs that nobody else has; those that the walk took for it are marked used already.
Status Repair::rebuild_quarantine() {
  Items items = readable_items({BlockNo(c_.state().quarantine_root), TreeKind::kQuarantine, 0});
  Items good;
  u64 blocks = 0, end = 0;
  for (const auto& [key, value] : items) {
    format::QuarantineValue v;
    std::memcpy(&v, value.data(), sizeof v);
    if (key < end || !c_.geometry().is_data(BlockNo(key), v.length_blocks)) continue;
    if (!c_.quarantined_run(key, v.length_blocks)) continue;
    good.emplace(key, value);
    blocks += v.length_blocks;
    end = key + v.length_blocks;
  }
  BlockNo root;
  u64 nodes = 0;
  PINDAX_TRY(build_tree(TreeKind::kQuarantine, 0, good, root, nodes));
  return change([&](Transaction& tx) -> Status {
    tx.at_commit([&](Transaction& t) -> Status {
      PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
      state->quarantine_root = root.value;
      state->quarantine_blocks = blocks;
      return {};
    });
    return {};
  });
}

// The nodes of the old tree leak until the next walk.
Status Repair::rebuild_bad_blocks() {
  const Items items = c_.expected_bad_blocks();
  BlockNo root;
  u64 nodes = 0;
  PINDAX_TRY(build_tree(TreeKind::kBadBlocks, 0, items, root, nodes));
  return change([&](Transaction& tx) -> Status {
    tx.at_commit([&](Transaction& t) -> Status {
      PINDAX_ASSIGN(format::StateRecord * state, modify_state(t));
      state->bad_root = root.value;
      state->bad_blocks = items.size();
      state->retired_blocks = c_.retired_blocks();
      return {};
    });
    return {};
  });
}

// From the extents, which are the truth. The nodes of the old tree leak until the next walk.
Status Repair::rebuild_shares(u32 ag) {
  Items items;
  for (const ShareRun& s : c_.expected_shares(ag)) {
    const format::RefcountValue v{static_cast<u32>(s.end - s.begin), static_cast<u32>(s.owners)};
    const TreeBytes bytes = std::as_bytes(std::span(&v, 1));
    items.try_emplace(s.begin, bytes.begin(), bytes.end());
  }
  BlockNo root;
  u64 nodes = 0;
  PINDAX_TRY(build_tree(TreeKind::kRefcount, ag, items, root, nodes));
  return change([&](Transaction& tx) -> Status {
    tx.at_commit([&](Transaction& t) { return media_counts::set_shares_root(t, ag, root); });
    return {};
  });
}

Status Repair::erase_item(const Plan::ItemFix& fix) {
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(fix.tree.owner)));
    InodeNodes nodes(*allocator_, *slot);
    TreeRef ref{root_of(*slot, fix.tree.kind), fix.tree.kind, fix.tree.owner};
    const Status s = TreeWriter(tx, ref, nodes).erase(fix.key);
    if (!s.ok() && s.code() != Errc::kNotFound) return s;
    set_root(*slot, fix.tree.kind, ref.root.value);
    return {};
  });
}

// ---- Extents --------------------------------------------------------------------------------------------------------

namespace {

bool has_tree(const format::Inode& slot) { return slot.data_kind == static_cast<u16>(DataKind::kTree); }

}  // namespace

Result<format::ExtentInfo> Repair::find_extent(Transaction& tx, const format::Inode& slot, u64 file_block) {
  if (has_tree(slot)) {
    TreeReader reader(tx, {BlockNo(slot.body.root), TreeKind::kExtents, slot.self});
    PINDAX_ASSIGN(const TreeBytes value, reader.find(file_block));
    PINDAX_TRY(format::check_value(TreeKind::kExtents, value));
    format::ExtentValue packed;
    std::memcpy(&packed, value.data(), sizeof packed);
    return format::unpack_extent(FileBlock(file_block), packed);
  }
  for (u32 i = 0; i < slot.extent_count; ++i)
    if (slot.body.extents[i].file_block == file_block) return format::unpack_extent(slot.body.extents[i]);
  return Errc::kNotFound;
}

// Takes the extent out of the map; its blocks stay as they are. It is fine if there is none.
Status Repair::take_extent(Transaction& tx, format::Inode& slot, u64 file_block) {
  if (has_tree(slot)) {
    InodeNodes nodes(*allocator_, slot);
    TreeRef ref{BlockNo(slot.body.root), TreeKind::kExtents, slot.self};
    const Status s = TreeWriter(tx, ref, nodes).erase(file_block);
    if (!s.ok() && s.code() != Errc::kNotFound) return s;
    slot.body.root = ref.root.value;
    return {};
  }
  u32 kept = 0;
  for (u32 i = 0; i < slot.extent_count; ++i)
    if (slot.body.extents[i].file_block != file_block) slot.body.extents[kept++] = slot.body.extents[i];
  for (u32 i = kept; i < slot.extent_count; ++i) slot.body.extents[i] = {};
  slot.extent_count = static_cast<u16>(kept);
  return {};
}

Status Repair::put_extent(Transaction& tx, format::Inode& slot, const format::ExtentInfo& e) {
  if (has_tree(slot)) {
    InodeNodes nodes(*allocator_, slot);
    TreeRef ref{BlockNo(slot.body.root), TreeKind::kExtents, slot.self};
    const format::ExtentValue v = format::pack_extent_value(e);
    PINDAX_TRY(TreeWriter(tx, ref, nodes).insert(e.file_block.value, std::as_bytes(std::span(&v, 1))));
    slot.body.root = ref.root.value;
    return {};
  }
  if (slot.extent_count == format::kInlineExtentCount)
    return Status(Errc::kNoSpace, "no room for another inline extent of a copy");
  u32 at = slot.extent_count;
  for (; at > 0 && slot.body.extents[at - 1].file_block > e.file_block.value; --at)
    slot.body.extents[at] = slot.body.extents[at - 1];
  slot.body.extents[at] = format::pack_extent(e);
  slot.extent_count = static_cast<u16>(slot.extent_count + 1);
  return {};
}

Status Repair::drop_extent(const Plan::ItemFix& fix) {
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(fix.tree.owner)));
    return take_extent(tx, *slot, fix.key);
  });
}

// The blocks have another owner too: this file gets a copy of what is in them now.
Status Repair::clone_extent(const Plan::ItemFix& fix) {
  return change([&](Transaction& tx) -> Status {
    PINDAX_ASSIGN(format::Inode * slot, modify_inode(tx, InodeNo(fix.tree.owner)));
    PINDAX_ASSIGN(const format::ExtentInfo e, find_extent(tx, *slot, fix.key));
    PINDAX_TRY(take_extent(tx, *slot, fix.key));
    std::vector<std::byte> buffer(kBlockSize);
    for (u64 done = 0; done < e.length;) {
      AllocateRequest request;
      request.wanted = e.length - done;
      PINDAX_ASSIGN(const BlockRun run, allocator_->allocate(tx, request));
      for (u64 i = 0; i < run.length && e.state != format::ExtentState::kUnwritten; ++i) {
        PINDAX_TRY(store_.media().read(block_offset(e.block + done + i), buffer.data(), kBlockSize));
        PINDAX_TRY(store_.media().write(block_offset(run.start + i), buffer.data(), kBlockSize));
      }
      PINDAX_TRY(store_.media().persist(block_offset(run.start), run.length * kBlockSize));
      format::ExtentInfo copy = e;
      copy.file_block = e.file_block + done;
      copy.block = run.start;
      copy.length = static_cast<u32>(run.length);
      copy.shared = false;
      PINDAX_TRY(put_extent(tx, *slot, copy));
      done += run.length;
    }
    return {};
  });
}

}  // namespace pindax::fsck_detail
