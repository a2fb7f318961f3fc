// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/mount_client.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/unique_fd.h"
#include "daemon/options.h"
#include "pmem/pool_media.h"

extern char** environ;

namespace pindax {
namespace {

constexpr int kDone = 0, kUsage = 2, kFailed = 4;
constexpr std::chrono::milliseconds kBusyPatience{1000};
constexpr std::chrono::milliseconds kPollInterval{10};

int complain(const std::string& line) {
  std::fprintf(stderr, "pindax: %s\n", line.c_str());
  return kFailed;
}

// Runs a program with our standard streams; its exit code, or -1 if there is none.
int run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (::posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return -1;
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool executable(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

std::string find_daemon() {
  if (const char* chosen = std::getenv("PINDAXD"); chosen != nullptr && *chosen != '\0') return chosen;
  char self[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (n > 0) {
    const std::string path(self, static_cast<std::size_t>(n));
    const std::string folder = path.substr(0, path.rfind('/'));
    for (const char* place : {"/pindaxd", "/../bin/pindaxd", "/../sbin/pindaxd", "/../src/daemon/pindaxd"})
      if (executable(folder + place)) return folder + place;
  }
  return "pindaxd";
}

// mountinfo writes space, tab, newline and backslash as octal.
std::string unescape(const std::string& field) {
  std::string text;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      text.push_back(static_cast<char>(std::strtol(field.substr(i + 1, 3).c_str(), nullptr, 8)));
      i += 3;
    } else {
      text.push_back(field[i]);
    }
  }
  return text;
}

bool same_pool(const std::string& a, const std::string& b) {
  if (a == b) return true;
  struct stat x {
  }, y{};
  return ::stat(a.c_str(), &x) == 0 && ::stat(b.c_str(), &y) == 0 && x.st_dev == y.st_dev &&
         x.st_ino == y.st_ino;
}

bool mounted_here(const std::string& pool) {
  for (const MountedPool& m : mounted_pools())
    if (same_pool(m.pool, pool)) return true;
  return false;
}

// The real path of a mount point, without asking the mount itself, which may be dead or hang.
std::string real_mount_point(const std::string& path) {
  const std::string absolute = absolute_path(path);
  const std::size_t slash = absolute.rfind('/');
  char parent[PATH_MAX];
  if (slash == std::string::npos || absolute.size() == 1 ||
      ::realpath(slash == 0 ? "/" : absolute.substr(0, slash).c_str(), parent) == nullptr)
    return absolute;
  std::string joined =
      std::strcmp(parent, "/") == 0 ? absolute.substr(slash) : parent + absolute.substr(slash);
  char target[PATH_MAX];  // the last component may be a symlink to the mount point
  struct stat s {};
  if (::lstat(joined.c_str(), &s) == 0 && S_ISLNK(s.st_mode) && ::realpath(joined.c_str(), target) != nullptr)
    return target;
  return joined;
}

}  // namespace

std::vector<MountedPool> mounted_pools() {
  std::vector<MountedPool> found;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // id parent dev root mount_point options [optional …] - type source super_options
    std::istringstream words(line);
    std::string word, mount_point, type, source;
    for (int i = 0; i < 5 && words >> word; ++i) mount_point = word;
    while (words >> word && word != "-") {
    }
    words >> type >> source;
    if (type == "fuse.pindax") found.push_back({unescape(source), unescape(mount_point)});
  }
  return found;
}

std::optional<unsigned> pool_owner(const std::string& pool) {
  const UniqueFd fd(::open(pool.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return std::nullopt;
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kOwnerLockByte);
  lock.l_len = 1;
  if (::fcntl(fd.get(), F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return std::nullopt;
  lock = {};
  lock.l_type = F_WRLCK;  // the classic lock beside it, which tells whose it is
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kOwnerLockByte) + 1;
  lock.l_len = 1;
  if (::fcntl(fd.get(), F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK || lock.l_pid <= 0) return 0;
  return static_cast<unsigned>(lock.l_pid);
}

bool wait_until_free(const std::string& pool, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (pool_owner(pool)) {
    if (mounted_here(pool) || std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
  return true;
}

int run_mount(const std::string& pool, const std::string& mount_point,
              const std::vector<std::string>& options, bool foreground) {
  // Absolute: the daemon's command line tells for ever what it serves.
  std::vector<std::string> arguments{find_daemon(), absolute_path(pool), absolute_path(mount_point)};
  for (const std::string& list : options) {
    if (list.empty()) continue;
    arguments.emplace_back("-o");
    arguments.push_back(list);
  }
  if (foreground) arguments.emplace_back("--foreground");
  const int code = run_program(arguments);
  if (code < 0)
    return complain("cannot run " + arguments[0] + ": install pindaxd beside pindax, or name it in $PINDAXD");
  return code;
}

int run_umount(const std::string& path, const UmountOptions& options) {
  const std::string mount_point = real_mount_point(path);
  std::optional<std::string> pool;
  for (const MountedPool& m : mounted_pools())
    if (m.mount_point == mount_point) pool = m.pool;
  if (!pool) return complain(path + ": no Pindax pool is mounted there");
  const int flags = UMOUNT_NOFOLLOW | (options.lazy ? MNT_DETACH : 0);
  // What the kernel still does for a process that has just died, or for the daemon's look at it, keeps a mount busy for a moment.
  const auto patience = std::chrono::steady_clock::now() + kBusyPatience;
  int error = 0;
  while ((error = ::umount2(mount_point.c_str(), flags) == 0 ? 0 : errno) == EBUSY && std::chrono::steady_clock::now() < patience)
    std::this_thread::sleep_for(kPollInterval);
  if (error != 0) {
    if (error == EBUSY)
      return complain(path + ": in use by some process (see: fuser -vm " + path + "); end it, or use --lazy");
    if (error != EPERM) return complain(path + ": " + std::strerror(error));
    std::vector<std::string> helper{"fusermount3", "-u", "--", mount_point};
    if (options.lazy) helper.insert(helper.begin() + 2, "-z");
    if (run_program(helper) != 0) return kFailed;  // it has said why
  }
  if (options.lazy) return kDone;
  const auto deadline = std::chrono::steady_clock::now() + options.timeout;
  while (const auto owner = pool_owner(*pool)) {
    if (mounted_here(*pool)) break;  // mounted anew meanwhile, or elsewhere too
    if (std::chrono::steady_clock::now() >= deadline)
      return complain(*pool + ": unmounted, but its daemon" +
                      (*owner != 0 ? " (pid " + std::to_string(*owner) + ")" : "") +
                      " still works on it; the pool stays locked until it ends");
    std::this_thread::sleep_for(kPollInterval);
  }
  return kDone;
}

namespace {

// The words of all -o arguments.
std::vector<std::string> option_words(const std::vector<std::string>& options) {
  std::vector<std::string> words;
  for (const std::string& list : options) {
    for (std::size_t at = 0; at <= list.size();) {
      const std::size_t comma = std::min(list.find(',', at), list.size());
      if (comma > at) words.push_back(list.substr(at, comma - at));
      at = comma + 1;
    }
  }
  return words;
}

// mount -o remount: the flags of the mounted file system change, the daemon goes on.
int remount(const std::string& mount_point, const std::vector<std::string>& words) {
  unsigned long flags = MS_REMOUNT;
  for (const std::string& word : words) {
    if (word == "ro") flags |= MS_RDONLY;
    else if (word == "nosuid") flags |= MS_NOSUID;
    else if (word == "nodev") flags |= MS_NODEV;
    else if (word == "noexec") flags |= MS_NOEXEC;
    else if (word == "noatime") flags |= MS_NOATIME;
    else if (word == "sync") flags |= MS_SYNCHRONOUS;
  }
  if (::mount("none", mount_point.c_str(), nullptr, flags, nullptr) == 0) return kDone;
  return complain(mount_point + ": cannot be remounted: " + std::strerror(errno)), kFailed;
}

}  // namespace

int run_mount_helper(int argc, char** argv) {
  std::vector<std::string> operands, options;
  bool fake = false;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "-o" || a == "-t" || a == "-N") {
      if (i + 1 >= argc) return complain(a + " needs a value"), kUsage;
      ++i;
      if (a == "-o") options.emplace_back(argv[i]);
    } else if (a.starts_with("-") && a.size() > 1) {
      for (const char c : a.substr(1)) {
        if (c == 'f')
          fake = true;
        else if (c == 'r')
          options.emplace_back("ro");
        else if (std::strchr("snvwi", c) == nullptr)
          return complain(std::string("unknown option -") + c), kUsage;
      }
    } else {
      operands.push_back(a);
    }
  }
  if (operands.size() != 2) return complain("usage: mount.fuse.pindax POOL DIR [-o OPTIONS]"), kUsage;
  if (fake) return kDone;
  const std::vector<std::string> words = option_words(options);
  if (std::find(words.begin(), words.end(), "remount") != words.end()) return remount(operands[1], words);
  // mount(8) passes no word for what is the default of a mount by root, but FUSE's own default is nosuid,nodev.
  if (::geteuid() == 0) options.insert(options.begin(), "dev,suid");
  return run_mount(operands[0], operands[1], options);
}

int run_umount_helper(int argc, char** argv) {
  std::string path;
  UmountOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "-t" || a == "-N" || a == "-o")
      ++i;
    else if (a.starts_with("-") && a.size() > 1)
      options.lazy = options.lazy || a.find('l') != std::string::npos;
    else
      path = a;
  }
  if (path.empty()) return complain("usage: umount.fuse.pindax DIR [-l]"), kUsage;
  return run_umount(path, options);
}

}  // namespace pindax
