// SPDX-License-Identifier: BSD-3-Clause
//
// What /proc says of a request's thread. The thread may end at any time: then there is nothing to read. Who may do what must not hang
// on how many clients there are: one descriptor is kept back for this. Any thread, no locks.
#pragma once

#include <optional>
#include <string>

#include "base/types.h"

namespace pindax {

// /proc/TID/NAME, whole; empty if it is gone.
std::string read_proc(u32 tid, const char* name);
// What stands behind "KEY:" in the text of a `status` file, without the white space before it, up to the end of the line.
std::optional<std::string> status_field(const std::string& status, const std::string& key);
// The process that a thread belongs to; 0 if it is gone or unknown.
u32 process_of(u32 tid);
// The name of the program it runs, at most 15 bytes, which it may have chosen itself; empty if it is gone.
std::string command_of(u32 tid);

}  // namespace pindax
