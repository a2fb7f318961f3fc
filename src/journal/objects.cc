// SPDX-License-Identifier: BSD-3-Clause
//
// The usual objects of transactions.
#include "fmt/format.h"

#include "journal/transaction.h"

namespace pindax {
namespace {

Result<PoolOffset> inode_place(Transaction& tx, InodeNo ino) {
  if (ino.value == 0 || format::inode_block(ino) >= tx.store().geometry().pool_blocks)
    return Status(Errc::kStale, fmt::format("inode number {} is outside the pool", ino.value));
  return format::inode_offset(ino);
}

void seal_inode(std::byte* object) { format::seal(*reinterpret_cast<format::Inode*>(object)); }
void seal_state(std::byte* object) { format::seal(*reinterpret_cast<format::StateRecord*>(object)); }

}  // namespace

Result<const format::Inode*> read_inode(Transaction& tx, InodeNo ino) {
  PINDAX_ASSIGN(const PoolOffset at, inode_place(tx, ino));
  const bool own = tx.has(at, format::kInodeSize);
  PINDAX_ASSIGN(const std::byte* bytes, tx.read(at, format::kInodeSize));
  const auto* inode = reinterpret_cast<const format::Inode*>(bytes);
  if (!own) PINDAX_TRY(format::check_inode(*inode, ino));
  return inode;
}

Result<format::Inode*> modify_inode(Transaction& tx, InodeNo ino) {
  PINDAX_TRY(read_inode(tx, ino));
  PINDAX_ASSIGN(std::byte* bytes, tx.modify(format::inode_offset(ino), format::kInodeSize, seal_inode));
  return reinterpret_cast<format::Inode*>(bytes);
}

Result<format::StateRecord*> modify_state(Transaction& tx) {
  const BlockNo block(tx.store().geometry().state_block);
  const bool own = tx.has(block_offset(block), sizeof(format::StateRecord));
  PINDAX_ASSIGN(std::byte* bytes, tx.modify(block_offset(block), sizeof(format::StateRecord), seal_state));
  auto* state = reinterpret_cast<format::StateRecord*>(bytes);
  if (!own) PINDAX_TRY(format::check_state(*state, block));
  return state;
}

}  // namespace pindax
