// SPDX-License-Identifier: BSD-3-Clause
//
// The handler of SIGBUS may run anywhere, so it only writes to an eventfd and parks its thread; the watch's own thread, which
// touches no pool memory and takes no lock of the file system, does the rest.
#include "daemon/pool_watch.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "base/unique_fd.h"

namespace pindax {
namespace {

constexpr int kPeriodMs = 1000;

std::atomic<int> lost_event{-1};

void on_lost_bytes(int signal, siginfo_t* info, void*) {
  const int event = lost_event.load();
  if (event < 0 || info->si_code <= 0) {  // nobody watches, or sent by a process
    ::signal(signal, SIG_DFL);
    if (info->si_code <= 0) ::raise(signal);
    return;  // the access runs again and dies of it
  }
  const u64 one = 1;
  (void)!::write(event, &one, sizeof one);
  for (;;) ::pause();  // the process ends
}

void detach_mount(const std::string& path) {
  if (path.empty() || ::umount2(path.c_str(), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return;
  std::string point = path;
  char program[] = "fusermount3", unmount[] = "-u", quiet[] = "-q", lazy[] = "-z", end[] = "--";
  char* argv[] = {program, unmount, quiet, lazy, end, point.data(), nullptr};
  pid_t pid = 0;
  if (::posix_spawnp(&pid, program, nullptr, nullptr, argv, environ) != 0) return;
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

class Watch final : public PoolWatch {
 public:
  Watch(PoolMedia& pool, std::string mount_point) : pool_(pool), mount_point_(std::move(mount_point)) {}
  ~Watch() override {
    lost_event.store(-1);
    signal(stop_);
    if (thread_.joinable()) thread_.join();
  }
  Status begin() {
    stop_.reset(::eventfd(0, EFD_CLOEXEC));
    lost_.reset(::eventfd(0, EFD_CLOEXEC));
    if (!stop_ || !lost_) return Status(from_errno(errno), "no descriptor for watching the pool");
    lost_event.store(lost_.get());
    thread_ = std::thread([this] { run(); });
    return {};
  }

 private:
  static void signal(const UniqueFd& event) {
    const u64 one = 1;
    (void)!::write(event.get(), &one, sizeof one);
  }

  void run() {
    ::pthread_setname_np(::pthread_self(), "pindax-watch");
    pollfd fds[2] = {{stop_.get(), POLLIN, 0}, {lost_.get(), POLLIN, 0}};
    for (;;) {
      const int n = ::poll(fds, 2, kPeriodMs);
      if (n < 0 && errno != EINTR) return;
      if ((fds[0].revents & POLLIN) != 0) return;
      if ((fds[1].revents & POLLIN) != 0) end_now("the host cannot give back bytes of it: was it truncated, or has its disk failed?");
      look();
    }
  }

  void look() {
    if (pool_.kind() == PoolKind::kDevdax) return;
    struct stat now {}, at_path {};
    if (::fstat(pool_.fd(), &now) != 0) return;
    if (static_cast<u64>(now.st_size) < pool_.size())
      end_now(fmt::format("it was truncated from {} to {} bytes", pool_.size(), now.st_size));
    if (given_up_) return;
    if (now.st_nlink == 0)
      give_up("was removed");
    else if (::stat(pool_.path().c_str(), &at_path) == 0 && (at_path.st_dev != now.st_dev || at_path.st_ino != now.st_ino))
      give_up("was replaced by another file");
  }

  void give_up(const char* what) {
    given_up_ = true;
    pool_.give_up();
    spdlog::critical("{} {} while it is served: nothing can be changed any more. Copy your files out, then unmount", pool_.path(), what);
  }

  [[noreturn]] void end_now(const std::string& why) {
    spdlog::critical("{}: {}. The daemon ends now; restore the file, then run pindax fsck", pool_.path(), why);
    spdlog::default_logger()->flush();
    detach_mount(mount_point_);
    ::_exit(kExitPoolLost);
  }

  PoolMedia& pool_;
  const std::string mount_point_;
  UniqueFd stop_, lost_;
  bool given_up_ = false;
  std::thread thread_;
};

}  // namespace

void PoolWatch::prepare() {
  struct sigaction action {};
  action.sa_sigaction = on_lost_bytes;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

Result<std::unique_ptr<PoolWatch>> PoolWatch::start(PoolMedia& pool, std::string mount_point) {
  auto watch = std::make_unique<Watch>(pool, std::move(mount_point));
  PINDAX_TRY(watch->begin());
  return std::unique_ptr<PoolWatch>(std::move(watch));
}

}  // namespace pindax
