// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/daemon.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/fail_points.h"
#include "base/steps.h"
#include "daemon/log.h"
#include "daemon/mount_client.h"
#include "daemon/pool_watch.h"
#include "daemon/serve.h"
#include "fuse/mount.h"

namespace pindax {
namespace {

constexpr std::chrono::seconds kReleaseTime{10};  // how long an earlier daemon may take to let go of the pool
constexpr std::chrono::milliseconds kEndGrace{3000};  // for users of the mount, after a signal
constexpr std::chrono::milliseconds kCleanUpDelay{4};  // a few dozen files at the rate of one process that removes them

sigset_t ending_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int s : {SIGTERM, SIGINT, SIGQUIT}) ::sigaddset(&set, s);
  return set;
}

void prepare_process() {
  // What ends a process that does not expect it: a stray kill -USR1 must not take the mount away.
  for (const int s : {SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO}) ::signal(s, SIG_IGN);
  PoolWatch::prepare();
  const sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);  // inherited by all threads; read from a signalfd
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  // The kernel's write-back waits for us: our own allocations must not wait for write-back. Needs
  // CAP_SYS_RESOURCE.
  ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

// Wakes the thread that waits for the end: a signal, a tool's shutdown, or the mount's own end.
class EndSignal {
 public:
  EndSignal() : event_(::eventfd(0, EFD_CLOEXEC)) {
    const sigset_t set = ending_signals();
    signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC));
  }
  void raise() {
    const u64 one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
  // True if a signal came.
  bool wait() {
    pollfd fds[2] = {{event_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
    while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    return (fds[1].revents & POLLIN) != 0;
  }

 private:
  UniqueFd event_, signals_;
};

Result<std::unique_ptr<PoolMedia>> open_pool(const DaemonOptions& options) {
  if (!wait_until_free(options.pool, kReleaseTime)) {
    const unsigned owner = pool_owner(options.pool).value_or(0);
    for (const MountedPool& m : mounted_pools())
      if (m.pool == options.pool || m.pool == options.source)
        return Status(Errc::kBusy, fmt::format("{} is mounted already, on {}{}", options.pool, m.mount_point,
                                               owner != 0 ? fmt::format(" (process {})", owner) : ""));
  }
  // A read-only mount replays the journal too, where it may.
  auto media = PoolMedia::open(options.pool, {.read_only = false, .exclusive = true});
  if (media.ok() || !options.fs.read_only) return media;
  if (media.code() != Errc::kAccess && media.code() != Errc::kReadOnly && media.code() != Errc::kPermission)
    return media;
  return PoolMedia::open(options.pool, {.read_only = true, .exclusive = true});
}

Status serve_mount(Mount& mount, Readiness& readiness, EndSignal& end, const DaemonOptions& options) {
  std::atomic<bool> over{false};
  std::thread watcher([&] {
    const bool signalled = end.wait();
    if (over.load()) return;
    spdlog::info("{}", signalled ? "asked to end by a signal" : "asked to end by a tool");
    mount.end(kEndGrace);
  });
  const Status status = mount.serve([&] {
    spdlog::info("{} is served on {}", options.pool, options.mount_point);
    readiness.succeeded();
  });
  over.store(true);
  end.raise();
  watcher.join();
  return status;
}

Status run_on(FileSystem& fs, PoolMedia& media, Executor& executor, const DaemonOptions& options,
              Readiness& readiness) {
  EndSignal end;
  PINDAX_ASSIGN(auto service, ClientService::start(fs, media, options, [&end] { end.raise(); }));
  if (options.mount_point.empty()) {
    spdlog::info("{} is served on {}", options.pool, options.socket_path);
    readiness.succeeded();
    end.wait();
    service->stop();
    return {};
  }
  const MountPoint point{.path = options.mount_point,
                         .source = options.source.empty() ? options.pool : options.source,
                         .read_only = options.fs.read_only,
                         .allow_other = options.allow_other,
                         .attr_timeout_s = options.attr_timeout_s,
                         .kernel_options = options.kernel_options,
                         .workers = options.threads};
  PINDAX_ASSIGN(auto mount, Mount::attach(fs, executor, *service, point));
  service->set_mount(mount.get());
  const Status status = serve_mount(*mount, readiness, end, options);
  service->stop();  // clients first: what waits for their pins ends with them
  mount.reset();
  return status;
}

}  // namespace

Status run_daemon(const DaemonOptions& options, Readiness& readiness) {
  prepare_process();
  PINDAX_TRY(start_log(options));
  if (const std::string wrong = steps::arm_from_environment(); !wrong.empty())
    return Status(Errc::kInvalid, wrong);
  if (const std::string wrong = fail_points::arm_from_environment(); !wrong.empty())
    return Status(Errc::kInvalid, wrong);
  PINDAX_ASSIGN(auto media, open_pool(options));
  PINDAX_ASSIGN(auto watch, PoolWatch::start(*media, options.mount_point));
  Executor executor(std::max(2u, std::thread::hardware_concurrency()));
  MountOptions fs_options = options.fs;
  fs_options.clean_up_delay = kCleanUpDelay;
  fs_options.sync = options.sync.value_or(default_sync_mode(media->granularity()));
  auto mounted = FileSystem::mount(*media, executor, fs_options);
  if (!mounted.ok()) return mounted.status().with_context(options.pool);
  std::unique_ptr<FileSystem> fs = std::move(*mounted);

  Status status = run_on(*fs, *media, executor, options, readiness);
  executor.drain();
  if (const Status unmounted = fs->unmount(); !unmounted.ok()) {
    spdlog::error("{}: could not be unmounted in good order: {}", options.pool, unmounted.message());
    if (status.ok()) status = unmounted;
  }
  executor.stop();
  fs.reset();
  watch.reset();
  media.reset();
  if (status.ok()) spdlog::info("{} is unmounted", options.pool);
  spdlog::shutdown();
  return status;
}

}  // namespace pindax
