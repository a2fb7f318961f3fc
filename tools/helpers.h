// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <optional>

namespace pindax::tools {

// If the program was called by a helper's name (mount.fuse.pindax, mkfs.pindax, …): runs it and returns its exit code.
std::optional<int> run_helper_name(int argc, char** argv);

}  // namespace pindax::tools
