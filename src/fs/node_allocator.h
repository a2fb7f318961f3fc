// SPDX-License-Identifier: BSD-3-Clause
//
// Where the tree room's nodes come from: near their inode, counted in Inode::blocks.
#pragma once

#include "alloc/allocator.h"
#include "tree/tree.h"

namespace pindax {

// Nodes of one inode's trees and blobs. `slot` is the transaction's copy of the inode and outlives this object, which
// lives no longer than the transaction. Thread-bound.
class InodeNodes : public NodeAllocator {
 public:
  InodeNodes(Allocator& allocator, format::Inode& slot) : allocator_(allocator), slot_(slot) {}

  Result<BlockNo> allocate_node(Transaction& tx) override;
  void free_node(Transaction& tx, BlockNo block) override;

 private:
  Allocator& allocator_;
  format::Inode& slot_;
  BlockNo last_;  // allocated here
};

// Nodes that belong to no inode (the orphan tree). Thread-bound.
class GlobalNodes : public NodeAllocator {
 public:
  explicit GlobalNodes(Allocator& allocator) : allocator_(allocator) {}

  Result<BlockNo> allocate_node(Transaction& tx) override;
  void free_node(Transaction& tx, BlockNo block) override;

 private:
  Allocator& allocator_;
};

}  // namespace pindax
