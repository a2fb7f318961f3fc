// SPDX-License-Identifier: BSD-3-Clause
#include "base/fail_points.h"

#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>

namespace pindax::fail_points {

std::atomic<unsigned> armed_count{0};

namespace {

struct Point {
  u64 first = 0, last = 0;
  std::string path;  // instead of a range: fails while it exists
  u64 passages = 0;
};

// Plain std::mutex: points lie inside ranked locks of every room and never take one.
std::mutex table_mutex;
std::map<std::string, Point, std::less<>>& table() {
  static auto* t = new std::map<std::string, Point, std::less<>>();
  return *t;
}

void put(std::string name, Point point) {
  std::lock_guard lock(table_mutex);
  table()[std::move(name)] = std::move(point);
  armed_count.store(static_cast<unsigned>(table().size()), std::memory_order_relaxed);
}

}  // namespace

bool reached(const char* name) {
  std::lock_guard lock(table_mutex);
  const auto it = table().find(std::string_view(name));
  if (it == table().end()) return false;
  Point& p = it->second;
  ++p.passages;
  if (!p.path.empty()) return ::access(p.path.c_str(), F_OK) == 0;
  return p.passages >= p.first && p.passages <= p.last;
}

void arm(std::string name, u64 first, u64 last) { put(std::move(name), {first, last, {}, 0}); }

u64 passages(const std::string& name) {
  std::lock_guard lock(table_mutex);
  const auto it = table().find(name);
  return it == table().end() ? 0 : it->second.passages;
}

void disarm_all() {
  std::lock_guard lock(table_mutex);
  table().clear();
  armed_count.store(0, std::memory_order_relaxed);
}

std::string arm_from_environment() {
  const char* text = std::getenv("PINDAX_FAILS");
  if (text == nullptr) return {};
  std::string_view rest(text);
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const auto equals = item.find('=');
    if (equals == std::string_view::npos || equals + 1 == item.size())
      return "PINDAX_FAILS: '" + std::string(item) + "' is not of the form name=PATH";
    put(std::string(item.substr(0, equals)), {0, 0, std::string(item.substr(equals + 1)), 0});
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return {};
}

}  // namespace pindax::fail_points
