// SPDX-License-Identifier: BSD-3-Clause
#include "server/server.h"

#include <fcntl.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pindax {

namespace {

constexpr u64 kListenerTag = watch_tag(0, WatchKind::kSocket);
constexpr u64 kWakeTag = watch_tag(0, WatchKind::kDoorbell);
constexpr std::size_t kMaxSessions = 16384;
constexpr std::chrono::milliseconds kHousekeepingPeriod{1000};
constexpr std::chrono::milliseconds kFormerCheckPeriod{500};
constexpr std::chrono::milliseconds kBurialPauseMax{250};

Status system_error(const char* what) {
  return Status(from_errno(errno), std::string(what) + ": " + std::strerror(errno));
}

UniqueFd open_spare() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

Result<struct sockaddr_un> socket_address(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return Status(Errc::kNameTooLong, "the socket path must have 1 to 107 bytes: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

void watch(int epoll_fd, int fd, u32 events, u64 tag) {
  struct epoll_event event = {};
  event.events = events;
  event.data.u64 = tag;
  ::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

}  // namespace

Server::Server(FileSystem& fs, ServerOptions options) : context_(fs, std::move(options)) {
  context_.sessions = [this] {
    std::vector<std::shared_ptr<Session>> all;
    MutexLock lock(mutex_);
    for (const auto& [id, s] : sessions_) all.push_back(s);
    return all;
  };
  context_.on_shutdown = [this] {
    std::function<void()> callback;
    {
      MutexLock lock(mutex_);
      callback = std::exchange(shutdown_, nullptr);
    }
    if (callback) callback();
  };
}

Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(FileSystem& fs, ServerOptions options) {
  std::unique_ptr<Server> server(new Server(fs, std::move(options)));
  if (PoolMedia* pool = server->context_.options.pool) {
    const struct stat& s = pool->identity();
    server->context_.pool_identity = {.device = s.st_dev,
                                      .inode = s.st_ino,
                                      .special = S_ISCHR(s.st_mode) ? s.st_rdev : 0,
                                      .mode = s.st_mode};
    PINDAX_ASSIGN(server->former_witnesses_, pool->witnesses_held());
    server->reserved_witnesses_ = server->former_witnesses_;
    for (const u32 index : server->reserved_witnesses_) server->context_.witnesses.reserve(index);
    if (!server->former_witnesses_.empty()) {
      spdlog::info("{} clients of an earlier daemon still map the pool: freed blocks are quarantined until they end",
                   server->former_witnesses_.size());
      PINDAX_TRY(fs.set_former_clients(true));
    }
  }
  server->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  server->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!server->epoll_ || !server->wake_) return system_error("epoll");
  server->spare_ = open_spare();
  server->context_.epoll_fd = server->epoll_.get();
  PINDAX_TRY(server->listen());
  watch(server->epoll_.get(), server->listener_.get(), EPOLLIN, kListenerTag);
  watch(server->epoll_.get(), server->wake_.get(), EPOLLIN, kWakeTag);
  server->thread_ = std::thread([s = server.get()] { s->run(); });
  return server;
}

Status Server::listen() {
  const std::string& path = context_.options.socket_path;
  PINDAX_ASSIGN(const struct sockaddr_un address, socket_address(path));
  const auto* generic = reinterpret_cast<const struct sockaddr*>(&address);
  struct stat old = {};
  if (::lstat(path.c_str(), &old) == 0) {
    if (!S_ISSOCK(old.st_mode)) return Status(Errc::kExists, path + " exists and is not a socket");
    UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (::connect(probe.get(), generic, sizeof(address)) == 0)
      return Status(Errc::kBusy, "a daemon already listens on " + path);
    ::unlink(path.c_str());
  }
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_) return system_error("socket");
  if (::bind(listener_.get(), generic, sizeof(address)) != 0) return system_error(("bind to " + path).c_str());
  // Everybody may knock; credentials decide what each may do.
  if (::chmod(path.c_str(), context_.options.allow_other ? 0666 : 0600) != 0) return system_error("chmod of the socket");
  if (!context_.options.allow_other && context_.options.owner_uid != ::geteuid())
    (void)!::chown(path.c_str(), context_.options.owner_uid, static_cast<gid_t>(-1));
  if (::listen(listener_.get(), 256) != 0) return system_error("listen");
  return {};
}

void Server::set_shutdown(std::function<void()> callback) {
  MutexLock lock(mutex_);
  shutdown_ = std::move(callback);
}

// ---- The loop ----

void Server::run() {
  ::pthread_setname_np(::pthread_self(), "pindax-server");
  next_housekeeping_ = Clock::now() + kHousekeepingPeriod;
  next_former_check_ = Clock::now();
  std::array<struct epoll_event, 64> events;
  while (!stopping_.load(std::memory_order_acquire)) {
    const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms());
    if (n < 0 && errno != EINTR) {
      spdlog::error("epoll_wait: {}", std::strerror(errno));
      return;
    }
    for (int i = 0; i < n; ++i) serve(events[static_cast<unsigned>(i)].data.u64, events[static_cast<unsigned>(i)].events);
    housekeeping();
  }
}

int Server::timeout_ms() {
  const auto now = Clock::now();
  auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(next_housekeeping_ - now);
  if (!dying_.empty()) wait = std::min(wait, burial_pause_);
  if (!former_witnesses_.empty())
    wait = std::min(wait, std::chrono::duration_cast<std::chrono::milliseconds>(next_former_check_ - now));
  return static_cast<int>(std::clamp<i64>(wait.count(), 0, 60'000));
}

void Server::serve(u64 tag, u32 events) {
  if (tag == kListenerTag) return accept_clients();
  if (tag == kWakeTag) {
    u64 count = 0;
    (void)!::read(wake_.get(), &count, sizeof(count));
    return;
  }
  const u64 id = tag >> 2;
  const auto kind = static_cast<WatchKind>(tag & 3);
  std::shared_ptr<Session> session;
  {
    MutexLock lock(mutex_);
    if (auto it = sessions_.find(id); it != sessions_.end()) session = it->second;
  }
  if (kind == WatchKind::kProcess) {
    if (!session)
      if (auto it = dying_.find(id); it != dying_.end()) session = it->second;
    if (!session) return;
    session->process_ended();
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session->pidfd(), nullptr);
    return end_session(session, Status(Errc::kNotConnected, "its process ended"));
  }
  if (!session) return;
  if (kind == WatchKind::kDoorbell) return session->on_doorbell();
  if (events & EPOLLOUT) session->outbox().flush();
  if (events & EPOLLIN)
    if (Status s = session->receive(); !s.ok()) return end_session(session, s);
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 && (events & EPOLLIN) == 0)
    end_session(session, Status(Errc::kNotConnected, "hang-up"));
}

// No descriptor is left: the one kept for this tells the caller that it is not welcome, who would else knock forever.
bool Server::turn_away() {
  spdlog::error("no descriptors left for a new client: raise the limit of open files");
  spare_.reset();
  const bool turned = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)).get() >= 0;
  spare_ = open_spare();
  return turned && spare_;
}

void Server::accept_clients() {
  for (;;) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EMFILE && errno != ENFILE) return;
      if (!turn_away()) return;
      continue;
    }
    Result<Peer> peer = identify_peer(socket.get());
    if (!peer.ok()) {
      spdlog::warn("a client was refused: {}", peer.status().message());
      continue;
    }
    const ServerOptions& o = context_.options;
    if (!o.allow_other && peer->uid != 0 && peer->uid != o.owner_uid) {
      spdlog::warn("user {} was refused: only the owner may attach (allow_other is off)", peer->uid);
      continue;
    }
    const u64 id = next_session_++;
    auto session = std::make_shared<Session>(context_, id, std::move(socket), std::move(*peer));
    {
      MutexLock lock(mutex_);
      if (sessions_.size() >= kMaxSessions) {
        spdlog::warn("a client was refused: there are {} already", kMaxSessions);
        continue;
      }
      sessions_.emplace(id, session);
    }
    watch(epoll_.get(), session->socket(), EPOLLIN | EPOLLRDHUP, watch_tag(id, WatchKind::kSocket));
    if (session->pidfd() >= 0) watch(epoll_.get(), session->pidfd(), EPOLLIN, watch_tag(id, WatchKind::kProcess));
  }
}

void Server::end_session(const std::shared_ptr<Session>& session, const Status& why) {
  {
    MutexLock lock(mutex_);
    if (sessions_.erase(session->id()) == 0) return;
  }
  const ClientIdentity& who = session->identity();
  if (why.code() == Errc::kNotConnected)
    spdlog::debug("client {} (pid {}): {}", who.session, who.pid, why.message());
  else
    spdlog::warn("client {} (pid {}, uid {}) was thrown out: {}", who.session, who.pid, who.uid, why.message());
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session->socket(), nullptr);
  session->hang_up();
  burial_pause_ = std::chrono::milliseconds(1);
  if (!session->try_bury()) dying_.emplace(session->id(), session);
}

void Server::housekeeping() {
  if (!dying_.empty()) {
    std::erase_if(dying_, [](const auto& entry) { return entry.second->try_bury(); });
    burial_pause_ = std::min(burial_pause_ * 2, kBurialPauseMax);
  }
  const auto now = Clock::now();
  if (!former_witnesses_.empty() && now >= next_former_check_) {
    next_former_check_ = now + kFormerCheckPeriod;
    watch_former_clients();
  }
  if (now < next_housekeeping_) return;
  next_housekeeping_ = now + kHousekeepingPeriod;
  context_.tokens.expire();
  for (const auto& s : context_.sessions()) s->sweep();
  watch_stuck_pins();
}

// Each stuck pin gets one line in the log, however long it lasts.
void Server::watch_stuck_pins() {
  std::set<std::tuple<u64, u32, u64>> now;
  for (const PinRow& pin : context_.clients().list_stuck_pins()) {
    const auto key = std::tuple(pin.client.session, pin.slot, pin.publication);
    now.insert(key);
    if (stuck_.contains(key)) continue;
    context_.stuck_pins_ever.fetch_add(1, std::memory_order_relaxed);
    spdlog::warn("stuck pin: process {} (uid {}, thread {}) has held [{}, {}) of inode {} for {} s{}", pin.client.pid,
                 pin.client.uid, pin.thread, pin.range.begin, pin.range.end, pin.ino.value, pin.age_ns / 1'000'000'000,
                 pin.asked_ns >= 0 ? ", although it was asked to end this lease" : "");
  }
  stuck_ = std::move(now);
  context_.stuck_pins.store(stuck_.size(), std::memory_order_relaxed);
}

void Server::watch_former_clients() {
  std::erase_if(former_witnesses_, [this](u32 index) {
    auto held = context_.options.pool->witness_held(index);
    return held.ok() && !*held;
  });
  if (!former_witnesses_.empty()) return;
  spdlog::info("the last client of the earlier daemon is gone");
  if (Status s = context_.fs.set_former_clients(false); !s.ok())
    spdlog::error("releasing the quarantine of former clients: {}", s.message());
  // The file system watches the same bytes and has stopped doing so: they can have new owners.
  for (const u32 index : reserved_witnesses_) context_.witnesses.release(index);
  reserved_witnesses_.clear();
}

void Server::stop() {
  if (stopping_.exchange(true)) return;
  const u64 one = 1;
  if (wake_) (void)!::write(wake_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  std::map<u64, std::shared_ptr<Session>> ending;
  {
    MutexLock lock(mutex_);
    ending.swap(sessions_);
  }
  for (auto& [id, session] : ending) {
    if (proto::GateHeader* header = session->gate_header()) header->daemon_gone.store(1, std::memory_order_release);
    session->hang_up();
  }
  ending.merge(dying_);
  dying_.clear();
  // What was interrupted answers on the executor; then nothing refers to this object any more.
  for (auto& [id, session] : ending)
    while (!session->idle()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (auto& [id, session] : ending) session->try_bury();
  context_.fs.executor().drain();
  if (listener_) ::unlink(context_.options.socket_path.c_str());
  listener_.reset();
}

}  // namespace pindax
