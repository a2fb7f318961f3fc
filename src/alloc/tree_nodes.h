// SPDX-License-Identifier: BSD-3-Clause
//
// Where the nodes of this room's own trees come from. They never go to quarantine: no client ever translates into metadata.
#pragma once

#include "alloc/allocator_impl.h"

namespace pindax {

class AllocatorImpl::TreeNodes final : public NodeAllocator {
 public:
  explicit TreeNodes(AllocatorImpl& owner) : owner_(owner) {}
  Result<BlockNo> allocate_node(Transaction& tx) override {
    AllocateRequest request;
    request.use = BlockUse::kMetadata;
    PINDAX_ASSIGN(const BlockRun run, owner_.allocate(tx, request));
    return run.start;
  }
  void free_node(Transaction& tx, BlockNo block) override { owner_.free_now(tx, {block, 1}, false); }

 private:
  AllocatorImpl& owner_;
};

}  // namespace pindax
