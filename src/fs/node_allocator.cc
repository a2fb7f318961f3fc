// SPDX-License-Identifier: BSD-3-Clause
#include "fs/node_allocator.h"

namespace pindax {
namespace {

Result<BlockNo> allocate_block(Allocator& allocator, Transaction& tx, BlockNo near) {
  AllocateRequest request;
  request.near = near;
  request.use = BlockUse::kMetadata;
  PINDAX_ASSIGN(BlockRun run, allocator.allocate(tx, request));
  PINDAX_ASSERT(run.length == 1);
  return run.start;
}

}  // namespace

Result<BlockNo> InodeNodes::allocate_node(Transaction& tx) {
  const BlockNo near = last_.value != 0 ? last_ + 1 : BlockNo(format::inode_block(InodeNo(slot_.self)));
  PINDAX_ASSIGN(last_, allocate_block(allocator_, tx, near));
  slot_.blocks += 1;
  return last_;
}

void InodeNodes::free_node(Transaction& tx, BlockNo block) {
  allocator_.free(tx, BlockRun{block, 1}, false);
  if (slot_.blocks > 0) slot_.blocks -= 1;
}

Result<BlockNo> GlobalNodes::allocate_node(Transaction& tx) { return allocate_block(allocator_, tx, BlockNo(0)); }

void GlobalNodes::free_node(Transaction& tx, BlockNo block) {
  allocator_.free(tx, BlockRun{block, 1}, false);
}

}  // namespace pindax
