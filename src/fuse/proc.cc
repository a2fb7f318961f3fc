// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/proc.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace pindax {

std::string read_proc(u32 tid, const char* name) {
  const std::string path = "/proc/" + std::to_string(tid) + "/" + name;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char piece[2048];
  for (ssize_t n = 0; (n = ::read(fd.get(), piece, sizeof piece)) > 0;) text.append(piece, static_cast<std::size_t>(n));
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

}  // namespace pindax
