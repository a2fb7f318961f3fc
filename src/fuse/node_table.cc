// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/node_table.h"

#include <algorithm>

namespace pindax {
namespace {

constexpr std::size_t kLeastPlaces = 16;

// The first place to look at; the table goes on from there, and round.
std::size_t home(InodeNo ino, std::size_t places) {
  return static_cast<std::size_t>((ino.value * 0x9e37'79b9'7f4a'7c15) >> 32) & (places - 1);
}

}  // namespace

std::size_t NodeTable::place_of(const Shard& s, InodeNo ino) {
  std::size_t at = home(ino, s.nodes.size());
  while (s.nodes[at].inode != nullptr && s.nodes[at].inode->ino != ino) at = (at + 1) & (s.nodes.size() - 1);
  return at;
}

void NodeTable::resize(Shard& s, std::size_t places) {
  std::vector<Node> old(places);
  old.swap(s.nodes);
  for (Node& n : old)
    if (n.inode != nullptr) s.nodes[place_of(s, n.inode->ino)] = std::move(n);
}

// Moves up what was put behind the gap for want of a nearer place.
void NodeTable::erase(Shard& s, std::size_t gap) {
  const std::size_t mask = s.nodes.size() - 1;
  for (std::size_t at = (gap + 1) & mask; s.nodes[at].inode != nullptr; at = (at + 1) & mask) {
    const std::size_t wanted = home(s.nodes[at].inode->ino, s.nodes.size());
    if (((at - wanted) & mask) < ((at - gap) & mask)) continue;
    s.nodes[gap] = std::move(s.nodes[at]);
    gap = at;
  }
  s.nodes[gap] = {};
  --s.used;
  if (s.nodes.size() > kLeastPlaces && s.used < s.nodes.size() / 8) resize(s, s.nodes.size() / 2);
}

InodeRef NodeTable::find(NodeId node) const {
  if (node == kRootNode) return root_;
  const Shard& s = shard(node);
  MutexLock lock(s.mutex);
  return s.used == 0 ? InodeRef() : s.nodes[place_of(s, InodeNo(node))].inode;
}

bool NodeTable::knows(InodeNo ino) const {
  const NodeId node = node_of(ino);
  if (node == kRootNode) return true;
  const Shard& s = shard(node);
  MutexLock lock(s.mutex);
  return s.used != 0 && s.nodes[place_of(s, ino)].inode != nullptr;
}

void NodeTable::add(const InodeRef& inode) {
  const NodeId node = node_of(inode->ino);
  if (node == kRootNode) return;
  Shard& s = shard(node);
  MutexLock lock(s.mutex);
  if ((s.used + 1) * 4 > s.nodes.size() * 3) resize(s, std::max(kLeastPlaces, s.nodes.size() * 2));
  Node& n = s.nodes[place_of(s, inode->ino)];
  if (n.lookups++ != 0) return;
  n.inode = inode;
  ++s.used;
}

void NodeTable::forget(NodeId node, u64 lookups) {
  if (node == kRootNode) return;
  InodeRef dropped;
  Shard& s = shard(node);
  MutexLock lock(s.mutex);
  if (s.used == 0) return;
  const std::size_t at = place_of(s, InodeNo(node));
  Node& n = s.nodes[at];
  if (n.inode == nullptr) return;
  n.lookups -= std::min(lookups, n.lookups);
  if (n.lookups != 0) return;
  dropped.swap(n.inode);
  erase(s, at);
}

void NodeTable::clear() {
  for (Shard& s : shards_) {
    std::vector<Node> dropped;
    MutexLock lock(s.mutex);
    dropped.swap(s.nodes);
    s.used = 0;
  }
}

}  // namespace pindax
