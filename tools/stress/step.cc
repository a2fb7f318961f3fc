// SPDX-License-Identifier: BSD-3-Clause
#include "stress/step.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <fstream>
#include <sstream>

namespace pindax::stress {
namespace {

constexpr std::array<const char*, static_cast<std::size_t>(Op::kCount)> kNames = {
    "write", "append", "read", "truncate", "fallocate", "copy", "clone", "stat", "seek", "fsync", "mmap", "munmap", "mload",
    "mstore", "msync", "map", "unmap", "load", "store", "persist", "write_from_mapping", "read_into_mapping", "pin", "trypin",
    "unpin", "hold", "fork", "kill", "remount", "crash", "check"};

struct Field {
  const char* key;
  u64 Step::*wide;
  u32 Step::*narrow;
};
constexpr std::array<Field, 8> kFields = {{{"w", nullptr, &Step::worker},
                                           {"f", nullptr, &Step::file},
                                           {"slot", nullptr, &Step::slot},
                                           {"mode", nullptr, &Step::mode},
                                           {"off", &Step::offset, nullptr},
                                           {"len", &Step::length, nullptr},
                                           {"to", &Step::to, nullptr},
                                           {"seed", &Step::seed, nullptr}}};

}  // namespace

const char* op_name(Op op) { return op < Op::kCount ? kNames[static_cast<std::size_t>(op)] : "?"; }

std::string step_line(const Step& s) {
  std::string text = fmt::format("{}{} w={}", s.together ? "& " : "", op_name(s.op), s.worker);
  for (const Field& field : kFields) {
    const u64 value = field.wide != nullptr ? s.*field.wide : s.*field.narrow;
    if (value != 0 && field.narrow != &Step::worker) text += fmt::format(" {}={}", field.key, value);
  }
  if (s.library) text += " lib";
  return text;
}

std::optional<Step> parse_step(std::string_view line) {
  Step s;
  std::istringstream words{std::string(line)};
  std::string word;
  if (!(words >> word)) return std::nullopt;
  if (word == "&") {
    s.together = true;
    words >> word;
  }
  bool known = false;
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (word == kNames[i]) {
      s.op = static_cast<Op>(i);
      known = true;
    }
  if (!known) return std::nullopt;
  while (words >> word) {
    if (word == "lib") {
      s.library = true;
      continue;
    }
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) return std::nullopt;
    u64 value = 0;
    const char* end = word.data() + word.size();
    if (auto [p, error] = std::from_chars(word.data() + equals + 1, end, value); error != std::errc() || p != end) return std::nullopt;
    bool found = false;
    for (const Field& field : kFields) {
      if (word.compare(0, equals, field.key) != 0) continue;
      if (field.wide != nullptr) s.*field.wide = value;
      else s.*field.narrow = static_cast<u32>(value);
      found = true;
    }
    if (!found) return std::nullopt;
  }
  return s;
}

std::vector<Step> read_log(const std::string& path, std::string& error) {
  std::vector<Step> steps;
  std::ifstream file(path);
  if (!file) {
    error = "cannot read " + path;
    return steps;
  }
  u64 number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line.front() == '#') continue;
    const auto step = parse_step(line);
    if (!step) {
      error = fmt::format("{}:{}: not a step: {}", path, number, line);
      return {};
    }
    steps.push_back(*step);
  }
  if (steps.empty()) error = path + " holds no step";
  return steps;
}

bool write_log(const std::string& path, const std::string& head, const std::vector<Step>& steps) {
  std::ofstream file(path);
  file << head;
  for (const Step& s : steps) file << step_line(s) << '\n';
  return static_cast<bool>(file.flush());
}

}  // namespace pindax::stress
