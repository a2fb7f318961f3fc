// SPDX-License-Identifier: BSD-3-Clause
//
// Blocks that several extents own (reflink). The allocator counts owners (alloc/shares.cc); an extent's flag
// says "may have other owners: ask". Here is what the data half needs to know about them; clone.h makes them.
//
// Invariants
//  1. A block with two owners or more lies under flagged extents only. The flag outlives sharing: whoever is
//     about to store asks for the count, and takes the flag off if the block is the file's own.
//  2. Nobody stores into a flagged block: no writable translation, no page of the kernel's that may become
//     dirty, no pin (P4). All of these make the block the file's own first.
//  3. A block becomes the file's own under an exclusive hold of its range, translations recalled with
//     acknowledgement (ChangeRequest::moves_blocks), and under Inode::mutex: the copy is made while the file
//     still owns the source (T3). Pins do not matter: none over a flagged block has been answered.
//  4. Flags are set under a complete break of the range (gates, pins, translations, kernel pages). So if an
//     extent is flagged and Inode::mutex is held, no store into it is under way anywhere: that is all that
//     sharing needs of its source.
//  5. Gates over flagged blocks are slow (Layout::set_shared): before the flags are set, until they are off.
//  6. If a translation may remain nevertheless (a client that does not answer: F4, forced), the block that the file gives up is held
//     (alloc/holds.cc): nobody stores into it, and it is not free, until the translation is gone.
//  7. Behind the end of any file that owns it, bytes of a shared block are zeros to all its owners: the
//     source's tail is zeroed before it is shared, and a file that is cut in a block owns that one alone. So
//     zeroing such a tail again (zero_tail), in case a client stored what it must not, takes nothing away.
//
// A crash leaves flags and counts of the same transactions; a flag without a count is harmless.
#pragma once

#include "fs/file_data.h"

namespace pindax {

// True if an extent of the list, or of [begin, end), may have other owners.
bool may_share(const std::vector<ExtentInfo>& extents);
Result<bool> may_share(ExtentReader reader, FileBlock begin, FileBlock end);
// As all_data(), and nobody else owns any of it: stores in place are allowed.
// Nor is any of it in a bad block.
bool all_private_data(FileSystemImpl& fs, const std::vector<ExtentInfo>& extents, FileBlock begin, FileBlock end);

// Gives the file blocks of its own for what it shares in [begin, end) bytes; what is not shared stays, holes
// stay holes. Contents, size and times do not change. One transaction for each part that fits into a record.
// Returns where it stopped: `end` (aligned up) unless space ran out. The range is held exclusively, its
// translations and kernel pages recalled but for what `grant` holds back; no inode lock held. kNoSpace if nothing could be done.
Result<u64> unshare_range(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant);
// The same for short ranges: all or kNoSpace.
Status unshare_blocks(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end, const ChangeGrant& grant);

// Gives blocks that leave a file to free space or quarantine, as the grant says; of shared ones, those that
// nobody else owns.
class RunReleaser {
 public:
  RunReleaser(FileSystemImpl& fs, Transaction& tx, const ChangeGrant& grant)
      : fs_(fs), tx_(tx), grant_(grant) {}
  Status release(const ExtentInfo& e);

 private:
  template <class F>
  Status each_part(const ExtentInfo& e, F&& f);
  Status release_owned(const ExtentInfo& e, bool punch);
  Status release_last(const ExtentInfo& e);
  Status give_up_share(const ExtentInfo& e, FileBlock begin, FileBlock end);
  void free(const ExtentInfo& part, bool punch);
  Status quarantine(const ExtentInfo& part);
  void hold(const ExtentInfo& part);

  FileSystemImpl& fs_;
  Transaction& tx_;
  const ChangeGrant& grant_;
};
// Up to where one step may take extents of [begin, end) out: share counts of a long extent may be too many
// for a record.
Result<FileBlock> releasable_end(FileSystemImpl& fs, Transaction& tx, const format::Inode& slot,
                                 FileBlock begin, FileBlock end);

// Where blocks of the file became its own, or changed their place: gates are no longer slow for them, and
// block numbers that clients remember are void (G5). After the commit, Inode::mutex held.
void publish_private(FileSystemImpl& fs, Inode& inode, u64 begin, u64 end);

}  // namespace pindax
