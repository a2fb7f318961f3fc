// SPDX-License-Identifier: BSD-3-Clause
//
// Makes a failing list of steps shorter: takes chunks out, halves of them, down to single steps, and keeps what still fails.
#pragma once

#include <functional>
#include <vector>

#include "stress/step.h"

namespace pindax::stress {

// `fails` runs a list in a fresh place. Ends when no single step can go, or at `deadline_ms` (monotonic).
std::vector<Step> shrink(std::vector<Step> steps, const std::function<bool(const std::vector<Step>&)>& fails, u64 deadline_ms);

}  // namespace pindax::stress
