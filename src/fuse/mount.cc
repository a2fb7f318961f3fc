// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/mount.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <thread>

#include "fuse/context.h"
#include "fuse/operations.h"

extern char** environ;

namespace pindax {
namespace {

// Fills of the page cache count against it and may be parked (C4, C5), and write-back, which may be what they
// wait for, counts too: it must not run out before the threads that can fault do.
constexpr unsigned kBackgroundRequests = 16384;

Mutex log_mutex{LockRank::kLeaf};
std::string last_log GUARDED_BY(log_mutex);  // libfuse says why something failed only in its log

__attribute__((format(printf, 2, 0))) void on_libfuse_log(enum fuse_log_level level, const char* format,
                                                          va_list arguments) {
  char text[512];
  std::vsnprintf(text, sizeof text, format, arguments);
  std::string line(text);
  while (!line.empty() && line.back() == '\n') line.pop_back();
  spdlog::log(level <= FUSE_LOG_ERR ? spdlog::level::debug : spdlog::level::trace, "libfuse: {}", line);
  MutexLock lock(log_mutex);
  last_log = std::move(line);
}

std::string why() {
  MutexLock lock(log_mutex);
  return last_log;
}

void on_init(void*, fuse_conn_info* conn) {
  conn->max_readahead = 0;  // one copy of the data; no page is cached that nobody mapped
  conn->max_background = kBackgroundRequests;
  conn->congestion_threshold = kBackgroundRequests * 3 / 4;
  conn->time_gran = 1;
  const unsigned on = FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_DONT_MASK |
                      FUSE_CAP_POSIX_ACL | FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS |
                      FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO;
  const unsigned off = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ |
                       FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
  conn->want = (conn->want | (on & conn->capable)) & ~off;
}

fuse_lowlevel_ops operations() {
  fuse_lowlevel_ops ops{};
  ops.init = on_init;
  add_name_operations(ops);
  add_attribute_operations(ops);
  add_open_operations(ops);
  add_data_operations(ops);
  add_layout_operations(ops);
  add_directory_operations(ops);
  add_xattr_operations(ops);
  add_ioctl_operations(ops);
  return ops;
}

// "fsname=a\,b": commas and backslashes of a value are escaped for libfuse's parser.
std::string libfuse_options(const MountPoint& point) {
  std::string source;
  for (const char c : point.source) {
    if (c == ',' || c == '\\') source.push_back('\\');
    source.push_back(c);
  }
  std::string list = "default_permissions,subtype=pindax,fsname=" + source;
  if (point.allow_other) list += ",allow_other";
  if (point.read_only) list += ",ro";
  for (const std::string& option : point.kernel_options) list += "," + option;
  return list;
}

Status check_mount_point(const MountPoint& point) {
  struct stat s {};
  if (::stat(point.path.c_str(), &s) != 0) {
    const int e = errno;
    if (e == ENOTCONN)
      return Status(
          Errc::kBusy,
          point.path + ": a mount whose daemon died is still there; run: pindax umount " + point.path);
    if (e == ENOENT)
      return Status(Errc::kNotFound,
                    point.path + ": no such mount point; make it first: mkdir " + point.path);
    return Status(from_errno(e), point.path + ": " + std::strerror(e));
  }
  if (!S_ISDIR(s.st_mode))
    return Status(Errc::kNotDirectory, point.path + ": not a directory; a pool is mounted on a directory");
  if (::access("/dev/fuse", F_OK) != 0)
    return Status(Errc::kNoDevice,
                  "/dev/fuse is not there; load the module (modprobe fuse), or serve without a mount: "
                  "pindaxd --no-mount --socket SOCKET POOL");
  return {};
}

bool run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (::posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return false;
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Only if nobody uses it.
bool unmount(const std::string& path) {
  if (::umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0) return true;
  return errno == EPERM && run_program({"fusermount3", "-u", "-q", "--", path});
}

// With users or not: MNT_FORCE ends the connection, so that nobody waits for an answer any more.
bool force_unmount(const std::string& path) {
  if (::umount2(path.c_str(), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return true;
  return errno == EPERM && run_program({"fusermount3", "-u", "-q", "-z", "--", path});
}

// Replaces the device by a pipe without reader. The connection ends with its last descriptor, and libfuse
// sees POLLERR, from which it takes that the mount is gone: it must not unmount by path what is no longer
// ours.
void sever(int device) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return;
  ::close(pipe_fds[0]);
  ::dup3(pipe_fds[1], device, O_CLOEXEC);
  ::close(pipe_fds[1]);
}

}  // namespace

struct Mount::State {
  State(FileSystem& fs, Executor& executor, MountService& service, const MountPoint& point, InodeRef root)
      : context(fs, executor, service, point, std::move(root)) {}

  Context context;
  fuse_session* session = nullptr;
  pthread_t server{};
  std::atomic<bool> serving{false};
  std::atomic<bool> ending{false};
  std::atomic<bool> unmounted{false};
};

Result<std::unique_ptr<Mount>> Mount::attach(FileSystem& fs, Executor& executor, MountService& service,
                                             const MountPoint& point) {
  PINDAX_TRY(check_mount_point(point));
  PINDAX_ASSIGN(InodeRef root, fs.root());
  auto mount = std::unique_ptr<Mount>(new Mount);
  mount->state_ = std::make_unique<State>(fs, executor, service, point, std::move(root));
  State& state = *mount->state_;

  ::fuse_set_log_func(on_libfuse_log);
  std::string program = "pindaxd", dash_o = "-o", options = libfuse_options(point);
  char* argv[] = {program.data(), dash_o.data(), options.data(), nullptr};
  fuse_args args{.argc = 3, .argv = argv, .allocated = 0};
  const fuse_lowlevel_ops ops = operations();
  state.session = ::fuse_session_new(&args, &ops, sizeof ops, &state.context);
  ::fuse_opt_free_args(&args);
  if (state.session == nullptr) return Status(Errc::kInvalid, "mount options are not accepted: " + why());
  if (::fuse_session_mount(state.session, point.path.c_str()) != 0) {
    ::fuse_session_destroy(std::exchange(state.session, nullptr));
    return Status(
        Errc::kPermission,
        "cannot mount on " + point.path + ": " + why() +
            (::geteuid() == 0 ? ""
                              : " (fusermount3 must be installed set-uid, the mount point be yours, "
                                "and allow_other be allowed in /etc/fuse.conf)"));
  }
  state.context.notifier.connect(state.session, point.path);
  fs.layout().set_kernel_cache(&state.context.notifier);
  return mount;
}

Mount::~Mount() {
  if (state_ == nullptr || state_->session == nullptr) return;
  State& state = *state_;
  if (!state.unmounted.load()) (void)force_unmount(state.context.mount.path);
  // Nobody can ask any more. End what still waits; its replies go nowhere.
  state.context.changes.interrupt_all();
  while (state.context.changes.count() != 0 || state.context.in_flight.load(std::memory_order_acquire) != 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  state.context.executor.drain();
  sever(::fuse_session_fd(state.session));
  state.context.notifier.disconnect();
  state.context.fs.layout().set_kernel_cache(nullptr);
  state.context.notifier.stop();
  ::fuse_session_unmount(state.session);
  ::fuse_session_destroy(std::exchange(state.session, nullptr));
  state.context.nodes.clear();
}

Status Mount::serve(std::function<void()> ready) {
  State& state = *state_;
  struct sigaction action {};
  action.sa_handler = [](int) {
  };  // no SA_RESTART: it is there to interrupt the wait of libfuse's main thread
  ::sigaction(SIGUSR1, &action, nullptr);
  if (Device::install(state.session, state.context, std::move(ready)) != 0)
    return Status(Errc::kNoMemory, "libfuse does not take the device hooks");
  fuse_loop_config* config = ::fuse_loop_cfg_create();
  if (config == nullptr) return Status(Errc::kNoMemory);
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  // Handlers do not wait for clients, so few workers do; more than processors, as some wait for the media.
  const unsigned workers =
      state.context.mount.workers != 0 ? state.context.mount.workers : std::clamp(2 * processors, 4u, 32u);
  ::fuse_loop_cfg_set_clone_fd(config, 0);
  ::fuse_loop_cfg_set_max_threads(config, workers);
  state.server = ::pthread_self();
  state.serving.store(true);
  const int result = ::fuse_session_loop_mt(state.session, config);
  state.serving.store(false);
  ::fuse_loop_cfg_destroy(config);
  if (!state.ending.load()) {
    // The kernel ended the connection: unmounted, or aborted with the mount still in its place.
    struct stat s {};
    const bool dead_mount = ::stat(state.context.mount.path.c_str(), &s) != 0 && errno == ENOTCONN;
    state.unmounted.store(!dead_mount);
  }
  if (result != 0 && result != -ENODEV && !state.ending.load())
    return Status(from_errno(std::abs(result)),
                  std::string("the FUSE device failed: ") + std::strerror(std::abs(result)));
  return {};
}

void Mount::end(std::chrono::milliseconds grace) {
  State& state = *state_;
  if (state.ending.exchange(true)) return;
  const auto deadline = std::chrono::steady_clock::now() + grace;
  const auto in_time = [&] { return std::chrono::steady_clock::now() < deadline; };
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  state.context.changes.interrupt_all();
  // Write-back may hang behind somebody who keeps a page busy: it gets a thread of its own and the time of
  // grace.
  auto synced = std::make_shared<std::atomic<bool>>(false);
  std::thread([synced, path = state.context.mount.path] {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
      (void)::syncfs(fd);
      ::close(fd);
    }
    synced->store(true);
  }).detach();
  while (!synced->load() && state.serving.load() && in_time()) pause();
  const std::string& path = state.context.mount.path;
  bool unmounted = false;
  while (state.serving.load() && in_time()) {
    if (!unmounted) unmounted = unmount(path);
    pause();
  }
  if (!unmounted && state.serving.load()) {
    spdlog::info("{} is still in use; ending without its users", path);
    unmounted = force_unmount(path);
  }
  state.unmounted.store(unmounted || !state.serving.load());
  ::fuse_session_exit(state.session);
  while (state.serving.load()) {
    ::pthread_kill(state.server, SIGUSR1);
    pause();
  }
}

void Mount::refresh(InodeNo ino, bool resized, std::function<void()> done) {
  state_->context.notifier.refresh(ino, resized, std::move(done));
}

void Mount::forget_name(InodeNo dir, std::string name, std::function<void()> done) {
  state_->context.notifier.forget_name(dir, std::move(name), std::move(done));
}

}  // namespace pindax
