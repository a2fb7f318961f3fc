// SPDX-License-Identifier: BSD-3-Clause
#include "layout/wait_graph.h"

#include <algorithm>
#include <unordered_set>

namespace pindax {

// Depth first from `from`; with an explicit stack, since a pile of a thousand sleepers is one path.
bool WaitGraph::reaches(const Sleeper& from, Node target, Thread target_owner) const {
  std::unordered_set<Node> seen;
  std::vector<const Sleeper*> stack{&from};
  while (!stack.empty()) {
    const Sleeper& s = *stack.back();
    stack.pop_back();
    auto visit = [&](Node n) REQUIRES(mutex_) {
      if (n == target) return true;
      const auto it = sleepers_.find(n);
      if (it != sleepers_.end() && seen.insert(n).second) stack.push_back(&it->second);
      return false;
    };
    for (const auto& [t, lasts] : s.holders) {
      if (t.tid == 0 || (lasts && !lasts())) continue;
      if (t == target_owner) return true;
      const auto [begin, end] = by_owner_.equal_range(t);
      for (auto it = begin; it != end; ++it)
        if (visit(it->second)) return true;
    }
    for (Node n : s.nodes)
      if (visit(n)) return true;
  }
  return false;
}

bool WaitGraph::sleep(Node node, Thread owner, std::vector<Holder> holders, std::vector<Node> nodes) {
  Sleeper sleeper{owner, std::move(holders), std::move(nodes)};
  MutexLock lock(mutex_);
  if (reaches(sleeper, node, owner)) return false;
  if (sleepers_.insert_or_assign(node, std::move(sleeper)).second && owner.tid != 0) by_owner_.emplace(owner, node);
  return true;
}

void WaitGraph::add(Node from, Node to) {
  MutexLock lock(mutex_);
  std::vector<Node>& nodes = sleepers_[from].nodes;
  if (std::find(nodes.begin(), nodes.end(), to) == nodes.end()) nodes.push_back(to);
}

void WaitGraph::remove(Node from, Node to) {
  MutexLock lock(mutex_);
  const auto it = sleepers_.find(from);
  if (it == sleepers_.end()) return;
  std::erase(it->second.nodes, to);
  if (it->second.nodes.empty()) sleepers_.erase(it);
}

void WaitGraph::wake(Node node) {
  MutexLock lock(mutex_);
  const auto it = sleepers_.find(node);
  if (it == sleepers_.end()) return;
  const auto [begin, end] = by_owner_.equal_range(it->second.owner);
  for (auto o = begin; o != end; ++o) {
    if (o->second != node) continue;
    by_owner_.erase(o);
    break;
  }
  sleepers_.erase(it);
}

}  // namespace pindax
