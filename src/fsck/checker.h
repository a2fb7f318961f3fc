// SPDX-License-Identifier: BSD-3-Clause
//
// One walk over a pool and what it learnt. Private to the room.
//
// Order of a walk, so that the stronger claim on a block comes first: places fixed by the geometry, inode blocks, tree nodes and
// blobs (whose checksum, owner and self-location prove them), then data extents, then share counts, then quarantine, then bad blocks. Names come after all inodes are
// known, links after all names, bitmaps and counts after all claims.
//
// Memory: two bits a block of the used part of the pool, about 48 bytes an inode slot, 16 bytes an extent that may share, and
// lists as long as the damage.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "alloc/sparse_bits.h"
#include "format/decode.h"
#include "fsck/fsck.h"
#include "journal/meta_store.h"
#include "tree/node.h"

namespace pindax::fsck_detail {

using format::DataKind;
using format::TreeKind;

inline constexpr u64 kNoIndex = ~u64{0};

struct InodeFacts {
  u32 mode = 0;         // 0: free, or to be cleared
  u32 links = 0;        // as the slot says
  u32 names = 0;        // found
  u8 pending = 0;       // has a range that is still being freed: 1 and its PendingShift
  u8 listed = 0;        // on the orphan list
  u8 reach = 0;         // of directories: see Reach
  u64 parent = 0;       // directories: where their name was found
  u64 names_hash = 0;   // sum over (directory, key) of all names found
  u64 records_hash = 0; // the same over its parent records
};
enum Reach : u8 { kUnknown = 0, kOnPath = 1, kReached = 2, kLost = 3 };

// Blocks [begin, end) that have so many owners.
struct ShareRun {
  u64 begin = 0, end = 0;
  u64 owners = 0;
  bool operator==(const ShareRun&) const = default;
};

// What a repair must do, besides bitmaps and counts, which it always puts right.
struct Plan {
  struct EntryFix {
    enum What { kErase, kType, kRekey };
    u64 dir, key;
    What what;
  };
  struct SlotFix {
    std::optional<u32> links, subdirs;
    std::optional<u64> entries, blocks;
    bool parents = false;
  };
  struct TreeOf {
    u64 owner;
    TreeKind kind;
    auto operator<=>(const TreeOf&) const = default;
  };
  struct ItemFix {
    TreeOf tree;
    u64 key;
  };
  std::vector<u64> reseal, clear;      // inodes
  std::set<TreeOf> trees;              // to be built anew from what is readable; orphans and quarantine too
  std::vector<ItemFix> erase_items;    // xattrs
  std::vector<ItemFix> drop_extents;   // of inline and tree extents, by file block
  std::vector<ItemFix> clone_extents;  // their blocks belong to somebody else as well
  std::vector<EntryFix> entries;
  std::map<u64, SlotFix> slots;
  std::vector<u64> attach;  // inodes without a name, to lost+found
  bool new_root = false;
  bool rebuild_orphans = false;
  bool rewrite_state = false;
  std::set<u32> bad_headers;
  std::set<u32> shares;  // groups whose share counts are to be written anew
};

class Checker {
 public:
  Checker(MetaStore& store, const format::Superblock& sb, bool repairing, FsckReport& report,
          const std::function<void(const FsckProgress&)>& progress);

  // Fills plan(), findings() and the counts of the report. Errors: only what ends the walk (kIo).
  Status walk();

  const Plan& plan() const { return plan_; }
  const std::vector<FsckFinding>& findings() const { return findings_; }

  // ---- For the repair ----
  MetaStore& store() { return store_; }
  const format::Geometry& geometry() const { return geometry_; }
  const format::Superblock& superblock() const { return sb_; }
  const format::StateRecord& state() const { return state_; }  // zeros where damaged
  bool block_used(u64 block) const { return used_.test(block) || !geometry_.is_data(BlockNo(block), 1); }
  const SparseBits& used() const { return used_; }
  void keep_block(u64 block) { used_.set(block); }
  const std::vector<u64>& inode_blocks() const { return inode_blocks_; }
  InodeFacts* facts(u64 ino);
  template <class F>
  void each_inode(F f) {
    for (u64 i = 0; i < facts_.size(); ++i)
      if (facts_[i].mode != 0) f(number(i), facts_[i]);
  }
  u64 max_generation() const { return max_generation_; }
  u64 quarantined() const { return quarantined_; }
  // True if the walk claimed the run for the quarantine, or nobody has any of it.
  bool quarantined_run(u64 block, u64 length);
  void keep_quarantined(u64 block, u64 length);  // if nobody has any of it
  // A slot that the repair took into use.
  void adopt_inode(u64 ino, u32 mode);
  u64 refcount_root(u32 ag) const;
  u64 reverse_root(u32 ag) const;
  // What the group's tree of share counts should hold.
  std::vector<ShareRun> expected_shares(u32 ag) const;
  // What the list of bad blocks should hold.
  std::map<u64, std::vector<std::byte>> expected_bad_blocks() const;
  u64 retired_blocks() const { return retired_; }
  Result<MetaView> slot(u64 ino) { return store_.view(format::inode_offset(InodeNo(ino)), format::kInodeSize); }

  // Visits what is readable of a tree. `bad` gets the nodes that are not. Claims nodes if `claim`.
  struct TreeVisitor {
    std::function<void(u64 key, TreeBytes value)> item;
    std::function<void(BlockNo block, const std::string& why)> bad;
    bool claim = false;
    u64 nodes = 0;  // readable ones
  };
  void visit_tree(const TreeRef& ref, TreeVisitor& v);

 private:
  void find(FsckSeverity severity, const char* structure, std::string where, std::string message);
  void progress(const char* phase, u64 done, u64 total);

  // ---- check_pool.cc ----
  void check_state();
  void check_groups();
  void check_group(u32 ag);
  void load_inode_bitmap(u32 ag, u32 index);
  void search_inode_blocks(u32 ag, u32 index);
  void consider_inode_block(u64 block);
  void check_global_trees();
  void check_quarantine();
  // ---- check_inodes.cc ----
  void check_slots();
  void check_slot(u64 index, const format::Inode& slot);
  void check_metadata(u64 index, const format::Inode& slot);
  void check_tree(const TreeRef& ref, const char* structure, const std::function<void(u64, TreeBytes)>& item, u64* nodes);
  bool claim_blob(const format::BlobRef& ref, u64 owner, u64* blocks);
  void check_xattrs(u64 ino, u64 root, u64* blocks);
  void check_data();
  void check_extents(u64 index, const format::Inode& slot);
  bool check_extent(u64 ino, const format::ExtentInfo& e, u64& end, u64* blocks);
  // ---- check_shares.cc ----
  void note_share_record(u32 ag, u64 key, TreeBytes value);
  void count_shares();
  void check_shares();
  // ---- check_bad.cc ----
  void note_bad_record(u64 key, TreeBytes value);
  void note_damage(u64 ino, const format::ExtentInfo& e);
  void check_bad_blocks();
  void tell_damage();
  std::string path_of(u64 ino);
  // ---- check_names.cc ----
  void check_directories();
  void check_directory(u64 index, const format::Inode& slot);
  bool check_entry(u64 dir, u64 key, TreeBytes value, std::vector<std::string>& same_hash, u64* subdirs);
  void accept_name(u64 dir, u64 key, InodeFacts& target, u64 target_ino);
  void settle_doubtful_parents();
  void check_reach();
  void check_links();
  void check_orphans();
  // ---- check_counts.cc ----
  void check_bitmaps();
  void check_bitmap_block(u32 ag, u32 index, u64& free_blocks);
  void check_totals();

  bool claim_metadata(u64 block);
  u64 index_of(u64 ino) const;
  u64 number(u64 index) const {
    return inode_blocks_[index / format::kInodesPerBlock] * format::kInodesPerBlock + index % format::kInodesPerBlock;
  }
  std::string name_of(u64 ino) const;

  MetaStore& store_;
  const format::Superblock& sb_;
  const format::Geometry geometry_;
  const bool repairing_;
  FsckReport& report_;
  const std::function<void(const FsckProgress&)>& progress_;

  std::vector<FsckFinding> findings_;
  Plan plan_;
  bool names_incomplete_ = false;  // a directory was not read to its end, or a name will come back

  format::StateRecord state_{};
  std::vector<std::optional<format::AgHeader>> headers_;
  std::set<std::pair<u32, u32>> bad_inode_bitmaps_;    // (AG, index)
  SparseBits used_;       // claimed blocks
  SparseBits shared_;     // claimed by an extent that may share
  std::vector<std::pair<u64, u64>> shared_extents_;    // all of these, until they are counted
  std::vector<ShareRun> shares_;                       // two owners and more, sorted
  std::map<u32, std::vector<ShareRun>> share_records_;  // as the trees say, equal neighbours merged
  std::vector<u64> inode_blocks_;  // sorted
  std::vector<InodeFacts> facts_;
  std::unordered_map<u64, u64> metadata_blocks_;  // of inodes that have any: nodes and blobs
  struct DoubtfulParent {
    u64 dir, key, child;
  };
  std::vector<DoubtfulParent> doubtful_parents_;
  u64 max_generation_ = 0;
  u64 orphans_listed_ = 0;
  u64 quarantined_ = 0;
  std::map<u64, u64> quarantine_runs_;  // claimed
  std::map<u64, format::BadBlockValue> bad_records_;  // as the list says, and then as it should
  std::vector<FsckReport::Damage> damage_;
  u64 retired_ = 0;
  std::map<u64, InodeFacts> adopted_;   // of inode blocks that are new
  u64 group_free_ = 0;  // sum over AGs, as it should be
};

// The sum term of one name: (directory, key of the entry).
u64 name_term(u64 dir, u64 key);
u8 type_of_mode(u32 mode);  // DT_*
bool plausible(const format::Inode& slot, InodeNo ino, format::Inode* sealed);

}  // namespace pindax::fsck_detail
