// SPDX-License-Identifier: BSD-3-Clause
#include "stress/shrink.h"

#include <algorithm>

#include "stress/process.h"

namespace pindax::stress {

std::vector<Step> shrink(std::vector<Step> steps, const std::function<bool(const std::vector<Step>&)>& fails, u64 deadline_ms) {
  for (std::size_t chunk = std::max<std::size_t>(1, steps.size() / 2);;) {
    bool shorter = false;
    // From the end: the last steps that matter are near the failure, what set the stage is far from it.
    for (std::size_t end = steps.size(); end > 0 && now_ms() < deadline_ms;) {
      const std::size_t begin = end > chunk ? end - chunk : 0;
      std::vector<Step> fewer(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(begin));
      fewer.insert(fewer.end(), steps.begin() + static_cast<std::ptrdiff_t>(end), steps.end());
      if (!fewer.empty() && fails(fewer)) {
        steps = std::move(fewer);
        shorter = true;
      }
      end = begin;
    }
    if (now_ms() >= deadline_ms || (chunk == 1 && !shorter)) return steps;
    chunk = shorter && chunk == 1 ? 1 : std::max<std::size_t>(1, chunk / 2);
  }
}

}  // namespace pindax::stress
