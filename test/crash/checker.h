// SPDX-License-Identifier: BSD-3-Clause
//
// Whether a recovered file system is what the oracle allows.
#pragma once

#include <string>

#include "operations.h"

namespace pindax::crash {

struct Expectation {
  const History* history = nullptr;
  u64 lo = 0, hi = 0;  // names and attributes are as at one moment of [lo, hi]
  u64 data_lo_at = 0;  // bytes: data_durable of this moment
  bool exact = false;  // nothing was lost (the host lives): the bytes of moment lo, but for the operation under way
  bool former_clients = false;   // a client of the dead daemon still maps the pool during the recovery
  bool fresh_is_filled = false;  // bytes beyond the old size are there when the new size is
};

// The whole tree as a model; inodes are numbered as they are met.
Result<Model> read_model(FileSystem& fs);

// Empty, or what is wrong.
std::string check_tree(FileSystem& fs, const Expectation& expected);
// No block has two owners and none that is owned is free. Empty, or what is wrong.
std::string check_blocks(FileSystem& fs);
// Removes everything; then all blocks but those of inodes must be free again. `data_blocks` is what an empty pool has of
// free ones and blocks of inodes together.
std::string check_leaks(FileSystem& fs, Executor& executor, u64 data_blocks);
u64 free_and_inode_blocks(FileSystem& fs);

}  // namespace pindax::crash
