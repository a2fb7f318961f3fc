// SPDX-License-Identifier: BSD-3-Clause
//
// Bad blocks under files. The allocator has the list (alloc/bad_blocks.cc); here is what it means for bytes.
//
// Invariants
//  1. Whoever is about to load from, store into or hand out a file's block asks first whether it is bad. A block that is bad and holds data is
//     lost: kPoisoned, Translation::Kind::kBad. One that was never written reads as zeros and is not touched.
//  2. Nobody stores into a bad block. What replaces it is a new block, under the same hold as a copy of a shared one (fs/share.h); the
//     old one is freed as any other, and the allocator retires it instead of giving it out. A store replaces a lost block only if it
//     covers every byte of it below the end of file: anything less would turn lost bytes into zeros.
//  3. A block belongs to files by their extents as before; that it is bad is the block's property. So all who share it lose the same
//     bytes, a clone of it is lost as well, and each owner is repaired by itself (R30).
//  4. A block that becomes bad is recalled from clients and kernel. A page that the kernel has dirty is written back by that, and
//     repairs the block. Pins do not matter: their bytes are gone, and the block is used for nothing else.
//
// A crash forgets blocks that were met and not yet written down; they are met again.
#pragma once

#include "fs/file_data.h"

namespace pindax {

// Whether any block of the extent is bad.
bool has_bad(FileSystemImpl& fs, const ExtentInfo& e);
bool has_bad(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents);
// The same for what the file has in [begin, end).
Result<bool> has_bad(FileSystemImpl& fs, ExtentReader reader, FileBlock begin, FileBlock end);

// Extents, cut where lost blocks begin and end.
struct DataPart {
  ExtentInfo extent;
  bool lost = false;
};
std::vector<DataPart> split_lost(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents);

// The first byte of [begin, end) that is lost; `end` if none is.
u64 first_lost(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, u64 begin, u64 end);

Status lost_bytes(BlockNo block);  // kPoisoned

}  // namespace pindax
