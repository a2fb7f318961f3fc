// SPDX-License-Identifier: BSD-3-Clause
#include "base/steps.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace pindax::steps {

std::atomic<unsigned> armed_count{0};

namespace {

// Plain std::mutex: steps lie inside ranked locks of every room and never take one.
std::mutex table_mutex;
std::map<std::string, std::function<void()>, std::less<>>& table() {
  static auto* t = new std::map<std::string, std::function<void()>, std::less<>>();
  return *t;
}

void touch(const std::string& path) {
  int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (fd >= 0) ::close(fd);
}

void wait_for_path(const std::string& path) {
  touch(path + ".reached");
  while (::access(path.c_str(), F_OK) != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

std::string arm_one(std::string_view item) {
  auto eq = item.find('=');
  if (eq == std::string_view::npos) return "PINDAX_STEPS: '" + std::string(item) + "' has no '='";
  std::string name(item.substr(0, eq));
  std::string action(item.substr(eq + 1));
  std::string arg;
  if (auto colon = action.find(':'); colon != std::string::npos) {
    arg = action.substr(colon + 1);
    action.resize(colon);
  }
  unsigned long nth = 0;
  if (auto at = name.find('@'); at != std::string::npos) {
    nth = std::strtoul(name.c_str() + at + 1, nullptr, 10);
    name.resize(at);
  }
  std::function<void()> hook;
  if (action == "kill") hook = [] { ::kill(::getpid(), SIGKILL); };
  else if (action == "stop") hook = [] { ::kill(::getpid(), SIGSTOP); };
  else if (action == "sleep") {
    auto ms = std::strtoul(arg.c_str(), nullptr, 10);
    hook = [ms] { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
  } else if (action == "wait") hook = [arg] { wait_for_path(arg); };
  else return "PINDAX_STEPS: unknown action '" + action + "'";
  if (nth != 0) {
    auto count = std::make_shared<std::atomic<unsigned long>>(0);
    hook = [inner = std::move(hook), count, nth] {
      if (count->fetch_add(1) + 1 == nth) inner();
    };
  }
  arm(std::move(name), std::move(hook));
  return {};
}

}  // namespace

void reached(const char* name) {
  std::function<void()> hook;
  {
    std::lock_guard lock(table_mutex);
    auto it = table().find(std::string_view(name));
    if (it == table().end()) return;
    hook = it->second;
  }
  hook();
}

void arm(std::string name, std::function<void()> hook) {
  std::lock_guard lock(table_mutex);
  table()[std::move(name)] = std::move(hook);
  armed_count.store(static_cast<unsigned>(table().size()), std::memory_order_relaxed);
}

void disarm(std::string_view name) {
  std::lock_guard lock(table_mutex);
  if (auto it = table().find(name); it != table().end()) table().erase(it);
  armed_count.store(static_cast<unsigned>(table().size()), std::memory_order_relaxed);
}

void disarm_all() {
  std::lock_guard lock(table_mutex);
  table().clear();
  armed_count.store(0, std::memory_order_relaxed);
}

std::string arm_from_environment() {
  const char* text = std::getenv("PINDAX_STEPS");
  if (text == nullptr) return {};
  std::string_view rest(text);
  while (!rest.empty()) {
    auto comma = rest.find(',');
    if (auto error = arm_one(rest.substr(0, comma)); !error.empty()) return error;
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return {};
}

}  // namespace pindax::steps
