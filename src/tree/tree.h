// SPDX-License-Identifier: BSD-3-Clause
//
// B+tree on media: 64-bit unique keys, values of 0 … kMaxTreeValue bytes. Serves extents, directories, xattrs, parents
// and quarantine. The root's block number lives with the owner (an inode, the StateRecord), and may change with
// every insert or erase. A tree of height 1 is a single leaf; root 0 is the empty tree.
//
// Locking: the owner's lock, shared for reads, exclusive for changes, until the transaction commits.
// Media may hold anything: levels fall by one on every way down and a root is below kMaxTreeLevels, so that damage can
// neither loop nor overflow. A crash leaves the tree before or after the transaction. Every node that comes from the media is checked
// (format::check_node) when it is read; a bad one gives kCorrupt and changes nothing.
#pragma once

#include <boost/container/small_vector.hpp>

#include <functional>
#include <optional>
#include <span>

#include "format/decode.h"
#include "journal/transaction.h"

namespace pindax {

// Where new nodes come from. Implemented by the allocator's owner; counts the blocks for the inode.
class NodeAllocator {
 public:
  virtual ~NodeAllocator() = default;
  virtual Result<BlockNo> allocate_node(Transaction& tx) = 0;
  virtual void free_node(Transaction& tx, BlockNo block) = 0;
};

struct TreeRef {
  BlockNo root;  // 0 is empty
  format::TreeKind kind;
  u64 owner;  // what NodeHeader::owner must say
};

inline constexpr unsigned kMaxTreeLevels = 12;

using TreeBytes = std::span<const std::byte>;

// Reads outside a transaction use the committed state.
class TreeReader {
 public:
  TreeReader(MetaStore& store, TreeRef ref) : store_(&store), ref_(ref) {}
  TreeReader(Transaction& tx, TreeRef ref) : store_(&tx.store()), tx_(&tx), ref_(ref) {}

  // The value of `key`: kNotFound if there is none. The bytes stay valid while the reader lives and nothing changes.
  Result<TreeBytes> find(u64 key);
  struct Item {
    u64 key;
    TreeBytes value;
  };
  // The first item with key >= `key`, or nothing. And the last with key <= `key`.
  Result<std::optional<Item>> lower_bound(u64 key);
  Result<std::optional<Item>> at_or_before(u64 key);
  // Visits items with first <= key, in order, until the visitor returns false or the tree ends. The value is valid
  // during the visit, which must not change the tree.
  Status scan(u64 first, const std::function<bool(u64 key, TreeBytes value)>& visit);
  // Visits every node block, parents before children (fsck, freeing, dump).
  Status scan_nodes(const std::function<Status(BlockNo block, unsigned level)>& visit);

 private:
  MetaStore* store_;
  Transaction* tx_ = nullptr;
  TreeRef ref_;
  boost::container::small_vector<MetaView, 2> views_;  // leaves whose bytes were handed out
};

class TreeWriter {
 public:
  // `ref.root` is updated in place; store it back into the owner before commit.
  TreeWriter(Transaction& tx, TreeRef& ref, NodeAllocator& nodes) : tx_(tx), ref_(ref), nodes_(nodes) {}

  // Errors leave the items as they were (kNoSpace from the node allocator included).
  Status insert(u64 key, TreeBytes value);   // kExists; kInvalid for values over kMaxTreeValue
  Status replace(u64 key, TreeBytes value);  // kNotFound; any length
  Status erase(u64 key);                     // kNotFound; merges thin neighbours, frees empty nodes
  // Adds `delta` to keys in [first, last] that lie in one leaf: of the leftmost leaf that has such keys if `delta` is
  // negative, of the rightmost one if it is positive. Says which keys (as they were) moved; nothing if there are none left.
  // No node is allocated or freed. The order of keys must stay as it is: kCorrupt if it would not.
  struct KeyRange {
    u64 first, last;
  };
  Result<std::optional<KeyRange>> shift_keys(u64 first, u64 last, i64 delta);
  // Frees every node; the tree is empty afterwards.
  Status clear();

 private:
  struct Path;
  Status descend(u64 key, Path& path);
  Result<std::byte*> writable(BlockNo block);
  Result<std::byte*> new_node(BlockNo block, unsigned level);
  void drop_node(BlockNo block);
  Status put(Path& path, u64 key, TreeBytes value, bool replacing);
  Status split(Path& path, u64 key, TreeBytes value, bool replacing);
  Status lower_separators(const Path& path, u64 key);
  Status move_separators(const Path& path, u64 key);
  Status insert_pair(Path& path, unsigned depth, u64 key, BlockNo child, std::vector<BlockNo>& spare);
  Status remove_pair(Path& path, unsigned depth);
  Status merge_thin(Path& path, unsigned depth);
  Status collapse_root();

  Transaction& tx_;
  TreeRef& ref_;
  NodeAllocator& nodes_;
};

}  // namespace pindax
