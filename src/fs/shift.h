// SPDX-License-Identifier: BSD-3-Clause
//
// Collapse and insert, for the files of this room that begin them and those that finish what a crash cut short.
#pragma once

#include "fs/file_data.h"

namespace pindax {

// COLLAPSE_RANGE or INSERT_RANGE of [offset, offset + length), whose flags and bounds the caller has checked. kInvalid,
// kTooBig as Linux has it.
std::shared_ptr<Change> start_shift(FileSystemImpl& fs, InodeRef inode, format::PendingShift kind, u64 offset, u64 length,
                                    const FileSystem::ChangeContext& context, FileSystem::DoneStatus done);

// Goes on with the shift that the slot says is pending; takes the inode off the orphan list at its end. True: something
// remains. Inode::mutex held exclusively.
Result<bool> shift_step(FileSystemImpl& fs, Transaction& tx, Inode& inode, format::Inode& slot, const ChangeGrant& grant)
    REQUIRES(inode.mutex);

}  // namespace pindax
