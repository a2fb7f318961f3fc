// SPDX-License-Identifier: BSD-3-Clause
#include "base/proc.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/mutex.h"
#include "base/unique_fd.h"

namespace pindax {

namespace {

UniqueFd open_for_reading(const char* path) { return UniqueFd(::open(path, O_RDONLY | O_CLOEXEC)); }

// The descriptor that is given up where no other is left, and taken again.
struct Spare {
  Mutex mutex{LockRank::kLeaf};
  UniqueFd fd GUARDED_BY(mutex) = open_for_reading("/dev/null");
};
Spare spare;

std::string read_all(const UniqueFd& fd) {
  std::string text;
  char piece[2048];
  for (ssize_t n = 0; (n = ::read(fd.get(), piece, sizeof piece)) > 0;) text.append(piece, static_cast<std::size_t>(n));
  return text;
}

}  // namespace

std::string read_proc(u32 tid, const char* name) {
  const std::string path = "/proc/" + std::to_string(tid) + "/" + name;
  if (const UniqueFd fd = open_for_reading(path.c_str())) return read_all(fd);
  if (errno != EMFILE && errno != ENFILE) return "";
  MutexLock lock(spare.mutex);
  spare.fd.reset();
  spare.fd = open_for_reading(path.c_str());
  std::string text = spare.fd ? read_all(spare.fd) : "";
  spare.fd.reset();
  spare.fd = open_for_reading("/dev/null");
  return text;
}

std::optional<std::string> status_field(const std::string& status, const std::string& key) {
  const std::string start = "\n" + key + ":";
  const std::size_t at = status.find(start);
  if (at == std::string::npos) return std::nullopt;
  const std::size_t begin = status.find_first_not_of(" \t", at + start.size());
  if (begin == std::string::npos) return std::string();
  return status.substr(begin, status.find('\n', begin) - begin);
}

u32 process_of(u32 tid) {
  if (tid == 0) return 0;
  const auto process = status_field(read_proc(tid, "status"), "Tgid");
  return process ? static_cast<u32>(std::strtoul(process->c_str(), nullptr, 10)) : 0;
}

std::string command_of(u32 tid) {
  std::string name = read_proc(tid, "comm");
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

}  // namespace pindax
