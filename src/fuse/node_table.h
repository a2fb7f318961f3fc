// SPDX-License-Identifier: BSD-3-Clause
//
// Which inodes the kernel knows. FUSE counts: each entry or CREATE reply adds one lookup, FORGET takes them
// back, and until then the kernel may use the number. The table holds an InodeRef meanwhile, so that a number
// is not given to another file while the kernel means the old one (B6: an unlinked file lives until FORGET).
//
// Node numbers are inode numbers, but for the root, which FUSE calls 1 (no inode of Pindax has that number).
//
// A shard is a hash table with open addresses, at most three quarters full: the kernel may know millions of inodes, and each costs two
// words here.
//
// Thread-safe. References are dropped outside the shard's lock: the last one may start work in the file
// system.
#pragma once

#include <array>
#include <vector>

#include "base/mutex.h"
#include "fs/inode.h"

namespace pindax {

using NodeId = u64;
inline constexpr NodeId kRootNode = 1;

class NodeTable {
 public:
  explicit NodeTable(InodeRef root) : root_(std::move(root)) {}

  NodeId node_of(InodeNo ino) const { return ino == root_->ino ? kRootNode : ino.value; }
  InodeNo inode_of(NodeId node) const { return node == kRootNode ? root_->ino : InodeNo(node); }

  // Null if the kernel does not know the number.
  InodeRef find(NodeId node) const;
  bool knows(InodeNo ino) const;
  // One more lookup of an inode: before the reply that tells the kernel about it.
  void add(const InodeRef& inode);
  // The kernel gives back `lookups`; more than were given out is a kernel bug and ends at zero.
  void forget(NodeId node, u64 lookups);
  // The connection has ended: as if everything were forgotten.
  void clear();

 private:
  static constexpr std::size_t kShards = 64;
  struct Node {
    InodeRef inode;
    u64 lookups = 0;
  };
  struct Shard {
    mutable Mutex mutex{LockRank::kLeaf};
    std::vector<Node> nodes GUARDED_BY(mutex);  // a power of two, or none; empty where `inode` is null
    std::size_t used GUARDED_BY(mutex) = 0;
  };
  // Where the node is, or where it would go. The table is not full.
  static std::size_t place_of(const Shard& s, InodeNo ino) REQUIRES(s.mutex);
  static void resize(Shard& s, std::size_t places) REQUIRES(s.mutex);
  static void erase(Shard& s, std::size_t at) REQUIRES(s.mutex);
  const Shard& shard(NodeId node) const { return shards_[(node ^ (node >> 6)) % kShards]; }
  Shard& shard(NodeId node) { return shards_[(node ^ (node >> 6)) % kShards]; }

  const InodeRef root_;
  std::array<Shard, kShards> shards_;
};

}  // namespace pindax
