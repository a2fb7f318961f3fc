// SPDX-License-Identifier: BSD-3-Clause
//
// Interleaved measurement: machines are shared and noisy, so every subject runs in every round, in turn, and what is
// reported is the median over the rounds and its ratio to the first subject.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace pindax::bench {

struct Subject {
  std::string name;
  // Does `count` operations.
  std::function<void(unsigned long count)> run;
};

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Prints one line: nanoseconds per operation of each subject, and the ratio to the first. Returns the medians.
inline std::vector<double> compare(const std::string& title, const std::vector<Subject>& subjects, unsigned long count,
                                   unsigned rounds = 9) {
  std::vector<std::vector<double>> times(subjects.size());
  for (unsigned round = 0; round <= rounds; ++round) {  // round 0 warms up
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      subjects[i].run(count);
      const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
      if (round != 0) times[i].push_back(took.count() / static_cast<double>(count));
    }
  }
  std::vector<double> medians;
  std::printf("%-28s", title.c_str());
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    medians.push_back(median(times[i]));
    std::printf("  %s %.1f ns", subjects[i].name.c_str(), medians[i]);
    if (i != 0) std::printf(" (x%.2f)", medians[i] / medians[0]);
  }
  std::printf("\n");
  std::fflush(stdout);
  return medians;
}

}  // namespace pindax::bench
