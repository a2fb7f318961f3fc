// SPDX-License-Identifier: BSD-3-Clause
//
// Blobs: long symbolic links and xattr values in blocks of their own, which travel through the transaction like all
// metadata. A blob is written once and never changed; replacing it frees the old one in the same transaction.
#include <cstring>

#include "fs/file_system_impl.h"

namespace pindax {

Result<format::BlobRef> FileSystemImpl::write_blob(Transaction& tx, format::Inode& slot, std::string_view bytes) {
  format::BlobRef ref{};
  const std::size_t blocks = (bytes.size() + format::kBlobPayload - 1) / format::kBlobPayload;
  if (blocks > format::kMaxBlobBlocks) return Status(Errc::kTooLong);
  ref.length_bytes = static_cast<u32>(bytes.size());
  ref.block_count = static_cast<u32>(blocks);
  InodeNodes nodes(*allocator_, slot);
  for (std::size_t i = 0; i < blocks; ++i) {
    PINDAX_ASSIGN(const BlockNo block, nodes.allocate_node(tx));
    ref.blocks[i] = block.value;
    const std::string_view piece = bytes.substr(i * format::kBlobPayload, format::kBlobPayload);
    std::byte* out = tx.modify_new(block_offset(block), &format::seal_blob);
    format::BlobHeader header{};
    header.magic = format::kBlobMagic;
    header.version = format::kVersion;
    header.self_block = block.value;
    header.owner = slot.self;
    header.length_bytes = static_cast<u32>(piece.size());
    std::memcpy(out, &header, sizeof header);
    std::memcpy(out + sizeof header, piece.data(), piece.size());
  }
  return ref;
}

Result<std::string> FileSystemImpl::read_blob(const format::BlobRef& ref, u64 owner, Transaction* tx) {
  std::string out;
  if (ref.block_count > format::kMaxBlobBlocks) return Status(Errc::kCorrupt, "a blob has too many blocks");
  for (u32 i = 0; i < ref.block_count; ++i) {
    const BlockNo block(ref.blocks[i]);
    MetaView view;
    const std::byte* bytes = nullptr;
    if (tx != nullptr) {
      PINDAX_ASSIGN(bytes, tx->read(block_offset(block), kBlockSize));
    } else {
      PINDAX_ASSIGN(view, store_->view(block_offset(block), kBlockSize));
      bytes = view.data();
    }
    PINDAX_TRY(format::check_blob(bytes, block, owner));
    format::BlobHeader header;
    std::memcpy(&header, bytes, sizeof header);
    out.append(reinterpret_cast<const char*>(bytes) + sizeof header, header.length_bytes);
  }
  if (out.size() != ref.length_bytes) return Status(Errc::kCorrupt, "a blob's blocks hold another length than it says");
  return out;
}

void FileSystemImpl::free_blob(Transaction& tx, format::Inode& slot, const format::BlobRef& ref) {
  InodeNodes nodes(*allocator_, slot);
  const u32 count = std::min<u32>(ref.block_count, format::kMaxBlobBlocks);
  for (u32 i = 0; i < count; ++i) {
    const BlockNo block(ref.blocks[i]);
    if (!store_->geometry().is_data(block, 1)) continue;  // damaged: fsck counts what leaks
    nodes.free_node(tx, block);
    tx.forget(block_offset(block));
  }
}

}  // namespace pindax
