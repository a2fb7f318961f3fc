// SPDX-License-Identifier: BSD-3-Clause
//
// Private to the room: the way from the root to a leaf that a change has gone down.
#pragma once

#include <array>

#include "tree/tree.h"

namespace pindax {

struct TreeWriter::Path {
  struct Step {
    BlockNo block;
    u32 index = 0;  // of the child taken; in the leaf: the first item >= key
  };
  std::array<Step, kMaxTreeLevels> steps;
  unsigned depth = 0;  // steps[depth - 1] is the leaf
  bool right_edge = true;
  bool found = false;
};

}  // namespace pindax
