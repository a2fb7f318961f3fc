// SPDX-License-Identifier: BSD-3-Clause
//
// The next step of a random run: mostly one that makes sense now, sometimes one that does not.
#pragma once

#include <optional>

#include "stress/random.h"
#include "stress/runner.h"

namespace pindax::stress {

struct GenerateOptions {
  bool restarts = true;  // remount, kill -9 of the daemon
};

class Generator {
 public:
  Generator(u64 seed, const GenerateOptions& options) : random_(seed), options_(options) {}
  Step next(const Runner& runner);

 private:
  Step plain(const Runner& runner);
  Step through_mapping(const Runner& runner, u32 worker);
  Step change(const Runner& runner, u32 worker, u32 file);
  std::optional<Step> pair(const Runner& runner);  // two workers, ranges that touch; the second one is kept in then_
  Step data_step(const Runner& runner, u32 worker, u32 file, ByteRange range);
  void place(const Runner& runner, Step& step);  // offset and length, mostly within the file

  Random random_;
  const GenerateOptions options_;
  u64 since_change_ = 0;
  std::optional<Step> then_;
};

}  // namespace pindax::stress
