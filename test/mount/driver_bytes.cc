// SPDX-License-Identifier: BSD-3-Clause
#include "driver_bytes.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <random>

#include "common/daemon.h"
#include "common/remote_file.h"

namespace driver {

using pindax::tools::Daemon;
using pindax::tools::RemoteFile;

struct MessageFile::State {
  explicit State(Daemon d) : daemon(std::move(d)) {}
  Daemon daemon;  // the file points to it
  std::optional<RemoteFile> file;
};

namespace {

std::string why(const pindax::Status& s) { return s.ok() ? "" : std::string(s.message()); }

}  // namespace

std::string MessageFile::open(const std::string& where, const std::string& path) {
  auto daemon = Daemon::connect(where);
  if (!daemon.ok()) return why(daemon.status());
  state_ = std::make_shared<State>(std::move(*daemon));
  auto file = RemoteFile::open(state_->daemon, path, O_RDWR, 0);
  if (!file.ok()) return why(file.status());
  state_->file.emplace(std::move(*file));
  return "";
}

std::string MessageFile::read(std::uint64_t offset, std::size_t length, Bytes& out) {
  auto bytes = state_->file->read(offset, length);
  if (!bytes.ok()) return why(bytes.status());
  out.assign(bytes->begin(), bytes->end());
  return "";
}

std::string MessageFile::write(std::uint64_t offset, const Bytes& bytes) {
  return why(state_->file->write(offset, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
}

std::string MessageFile::remove(const std::string& where, const std::string& path) {
  auto daemon = Daemon::connect(where);
  if (!daemon.ok()) return why(daemon.status());
  return why(daemon->control({{"op", "unlink"}, {"path", path}}).status());
}

std::string count(const Counting& how, unsigned char* memory, int fd, unsigned long& rounds, std::vector<std::uint64_t>& last) {
  constexpr std::uint64_t kPage = 4096;
  last.assign(how.pages, 0);
  std::minstd_rand random(how.seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(how.ms);
  for (rounds = 0; std::chrono::steady_clock::now() < end; ++rounds) {
    const unsigned page = static_cast<unsigned>(random() % how.pages);
    const std::uint64_t at = page * kPage + 8 * how.word;
    std::uint64_t seen = 0;
    const std::uint64_t next = last[page] + 1;
    if (memory != nullptr) {
      seen = *reinterpret_cast<volatile std::uint64_t*>(memory + at);
      if (seen == last[page]) *reinterpret_cast<volatile std::uint64_t*>(memory + at) = next;
    } else {
      if (::pread(fd, &seen, 8, static_cast<off_t>(at)) != 8) return "pread failed";
      if (seen == last[page] && ::pwrite(fd, &next, 8, static_cast<off_t>(at)) != 8) return "pwrite failed";
    }
    if (seen != last[page])
      return "page " + std::to_string(page) + " word " + std::to_string(how.word) + " is " + std::to_string(seen) + ", was left " +
             std::to_string(last[page]) + ", round " + std::to_string(rounds);
    last[page] = next;
  }
  return "";
}

}  // namespace driver
