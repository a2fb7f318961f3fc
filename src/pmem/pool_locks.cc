// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/pool_locks.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "fmt/format.h"

#include "pmem/pool_media.h"

namespace pindax {
namespace {

struct flock lock_at(short type, u64 start, u64 length) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  return lock;
}

Status lock_error(const char* what) {
  return Status(Errc::kIo, fmt::format("{}: {}", what, std::strerror(errno)));
}

// An OFD lock does not tell whose it is, but /proc/PID/fdinfo shows the locks of each description, at least to root and
// to the owner's user. Reads "lock: 1: OFDLCK ADVISORY WRITE -1 00:1b:INODE FIRST LAST".
bool shows_owner_lock(const std::filesystem::path& fdinfo, const std::string& lock) {
  std::ifstream in(fdinfo);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("lock:") && line.find("OFDLCK") != std::string::npos && line.find(lock) != std::string::npos)
      return true;
  return false;
}

std::string owner_name(int fd) {
  namespace stdfs = std::filesystem;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return "another process";
  const std::string lock = fmt::format(":{} {} {}", st.st_ino, kOwnerLockByte, kOwnerLockByte);
  std::error_code ignored;
  for (const auto& process : stdfs::directory_iterator("/proc", ignored)) {
    const std::string pid = process.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    for (const auto& info : stdfs::directory_iterator(process.path() / "fdinfo", ignored))
      if (shows_owner_lock(info.path(), lock)) return fmt::format("process {}", pid);
  }
  return "another process";
}

// Some conflicting lock in [first, last], of another description. Which one the kernel names is not specified.
Result<bool> conflict(int fd, u64 first, u64 last, u64& begin, u64& end) {
  struct flock lock = lock_at(F_WRLCK, first, last - first + 1);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return lock_error("cannot ask for locks on the pool");
  if (lock.l_type == F_UNLCK) return false;
  begin = static_cast<u64>(lock.l_start);
  end = lock.l_len == 0 ? last : begin + static_cast<u64>(lock.l_len) - 1;
  return true;
}

Status collect(int fd, u64 first, u64 last, std::vector<u32>& out) {
  // Ranges still to be asked about; each answer splits one.
  std::vector<std::pair<u64, u64>> todo{{first, last}};
  while (!todo.empty()) {
    auto [from, to] = todo.back();
    todo.pop_back();
    u64 begin, end;
    PINDAX_ASSIGN(const bool held, conflict(fd, from, to, begin, end));
    if (!held) continue;
    begin = std::max(begin, from);
    end = std::min(end, to);
    for (u64 byte = begin; byte <= end; ++byte) out.push_back(static_cast<u32>(byte - kWitnessBase));
    if (begin > from) todo.emplace_back(from, begin - 1);
    if (end < to) todo.emplace_back(end + 1, to);
  }
  std::sort(out.begin(), out.end());
  return {};
}

}  // namespace

Status take_owner_lock(int fd, bool read_only, const std::string& path) {
  struct flock lock = lock_at(read_only ? F_RDLCK : F_WRLCK, kOwnerLockByte, 1);
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES)
      return Status(Errc::kBusy, fmt::format("{} is in use by {}: unmount it first", path, owner_name(fd)));
    return lock_error("cannot lock the pool");
  }
  return {};
}

Result<bool> witness_byte_held(int fd, u32 index) {
  if (index >= kMaxWitnesses) return Status(Errc::kInvalid, "no such witness byte");
  u64 begin, end;
  return conflict(fd, kWitnessBase + index, kWitnessBase + index, begin, end);
}

Result<std::vector<u32>> held_witness_bytes(int fd) {
  std::vector<u32> out;
  PINDAX_TRY(collect(fd, kWitnessBase, kWitnessBase + kMaxWitnesses - 1, out));
  return out;
}

Status take_witness(int client_pool_fd, u32 index) {
  PINDAX_ASSIGN(const bool held, witness_byte_held(client_pool_fd, index));
  if (held) return Status(Errc::kBusy, "the witness byte belongs to another client");
  // Shared, as the client may have opened the pool for reading only.
  struct flock lock = lock_at(F_RDLCK, kWitnessBase + index, 1);
  if (::fcntl(client_pool_fd, F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES)
    return Status(Errc::kBusy, "the witness byte belongs to another client");
  // A description that is open for writing only cannot take a shared lock.
  if (errno == EBADF) return Status(Errc::kBadDescriptor, "the pool must be open for reading");
  return lock_error("cannot take the witness byte");
}

}  // namespace pindax
