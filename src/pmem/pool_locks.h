// SPDX-License-Identifier: BSD-3-Clause
//
// Locks on the pool file: who owns it, and which clients' descriptions of it are still alive (witness bytes).
// All are open-file-description locks far behind the file's bytes; they end when the last descriptor and the last
// mapping of the description are gone.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace pindax {

// Takes the owner lock for the description behind `fd`: exclusive, or shared with other readers. kBusy names the owner.
Status take_owner_lock(int fd, bool read_only, const std::string& path);
Result<bool> witness_byte_held(int fd, u32 index);
Result<std::vector<u32>> held_witness_bytes(int fd);

}  // namespace pindax
