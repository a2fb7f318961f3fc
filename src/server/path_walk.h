// SPDX-License-Identifier: BSD-3-Clause
//
// Path resolution for clients without a mount: what the kernel's own walk does, with the caller's credentials.
//
// Every directory on the way needs search permission. Symbolic links are followed (also absolute ones: "/" is the root of the file
// system), at most kMaxSymlinks of them. Reentrant.
#pragma once

#include <string>
#include <string_view>

#include "fs/file_system.h"

namespace pindax {

inline constexpr int kMaxSymlinks = 40;
inline constexpr std::size_t kMaxPathBytes = 4096;

struct WalkResult {
  InodeRef parent;    // directory of the last component; the root itself for "/"
  std::string name;   // last component; empty for "/" and where it was "." or ".."
  InodeRef inode;     // null: the last component does not exist (the parent does)
  bool must_be_directory = false;  // the path ended in a slash
};

// kNotFound only for a missing directory on the way; a missing last component is no error. kTooManyLinks never: a loop is
// kInvalid with its own message (ELOOP has no code).
Result<WalkResult> walk_path(FileSystem& fs, const Caller& caller, std::string_view path, bool follow_last);
// As walk_path; kNotFound if the last component is missing, kNotDirectory if it had to be a directory.
Result<InodeRef> walk_existing(FileSystem& fs, const Caller& caller, std::string_view path, bool follow_last);

}  // namespace pindax
