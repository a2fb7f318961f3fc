// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/node_table.h"

#include <algorithm>

namespace pindax {

InodeRef NodeTable::find(NodeId node) const {
  if (node == kRootNode) return root_;
  const Shard& s = shard(node);
  MutexLock lock(s.mutex);
  auto it = s.nodes.find(node);
  return it == s.nodes.end() ? InodeRef() : it->second.inode;
}

bool NodeTable::knows(InodeNo ino) const {
  const NodeId node = node_of(ino);
  if (node == kRootNode) return true;
  const Shard& s = shard(node);
  MutexLock lock(s.mutex);
  return s.nodes.contains(node);
}

void NodeTable::add(const InodeRef& inode) {
  const NodeId node = node_of(inode->ino);
  if (node == kRootNode) return;
  Shard& s = shard(node);
  MutexLock lock(s.mutex);
  Node& n = s.nodes[node];
  if (n.lookups++ == 0) n.inode = inode;
}

void NodeTable::forget(NodeId node, u64 lookups) {
  if (node == kRootNode) return;
  InodeRef dropped;
  Shard& s = shard(node);
  MutexLock lock(s.mutex);
  auto it = s.nodes.find(node);
  if (it == s.nodes.end()) return;
  it->second.lookups -= std::min(lookups, it->second.lookups);
  if (it->second.lookups != 0) return;
  dropped.swap(it->second.inode);
  s.nodes.erase(it);
}

void NodeTable::clear() {
  for (Shard& s : shards_) {
    std::unordered_map<NodeId, Node> dropped;
    MutexLock lock(s.mutex);
    dropped.swap(s.nodes);
  }
}

}  // namespace pindax
