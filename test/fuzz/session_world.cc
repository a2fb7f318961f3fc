// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/session_world.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "fs/file_system_impl.h"

namespace pindax::fuzz {
namespace {

constexpr u64 kPoolBytes = 8u << 20;

// One for the whole process; every input finds the same files with the same contents.
struct Host {
  std::unique_ptr<PoolMedia> pool;
  std::string path;
  Executor executor{1};
  std::unique_ptr<FileSystem> fs;

  Host() {
    spdlog::set_level(spdlog::level::off);
    char name[] = "/dev/shm/pindax-fuzz-XXXXXX";
    int fd = ::mkstemp(name);
    path = name;
    if (fd < 0) {
      char other[] = "/tmp/pindax-fuzz-XXXXXX";
      fd = ::mkstemp(other);
      path = other;
    }
    FUZZ_REQUIRE(fd >= 0, "a temporary file");
    ::close(fd);
    auto created = PoolMedia::create(path, kPoolBytes, false, true);
    FUZZ_REQUIRE(created.ok(), created.status().message());
    pool = std::move(*created);
    FUZZ_REQUIRE(make_file_system(*pool, {.label = "fuzz", .zeroed = true}).ok(), path);
    pool.reset();
    auto opened = PoolMedia::open(path, {});
    FUZZ_REQUIRE(opened.ok(), opened.status().message());
    pool = std::move(*opened);
    MountOptions options;
    options.background = false;
    options.layout.recall_deadline = std::chrono::milliseconds(50);  // clients here are often silent
    auto mounted = FileSystem::mount(*pool, executor, options);
    FUZZ_REQUIRE(mounted.ok(), mounted.status().message());
    fs = std::move(*mounted);
    // Nobody else opens it by name; descriptors of it come from /proc/self/fd.
    ::unlink(path.c_str());
  }
  ~Host() {
    executor.drain();
    (void)fs->unmount();
    executor.drain();
    static_cast<FileSystemImpl&>(*fs).take_dirty();
    fs.reset();
    executor.stop();
  }

  void empty(const InodeRef& dir, int depth) {
    std::vector<std::string> names;
    (void)fs->read_directory(*dir, 2, [&](const FileSystem::DirectoryEntry& e) {
      names.emplace_back(e.name);
      return true;
    });
    for (const auto& n : names) {
      auto inode = fs->lookup(*dir, n);
      if (!inode.ok()) continue;
      auto a = fs->attributes(**inode);
      (void)fs->set_flags(**inode, 0);
      if (a.ok() && S_ISDIR(a->mode)) {
        if (depth < 20) empty(*inode, depth + 1);
        (void)fs->rmdir(*dir, n);
      } else {
        (void)fs->unlink(*dir, n);
      }
    }
  }
  void fresh() {
    auto root = fs->root();
    FUZZ_REQUIRE(root.ok(), root.status().message());
    (void)fs->set_flags(**root, 0);
    empty(*root, 0);
    clean_up();
    SetAttributes set;
    set.valid = SetAttributes::kMode | SetAttributes::kUid | SetAttributes::kGid;
    set.mode = 0755;
    (void)fs->set_attributes(**root, set, {});
    FUZZ_REQUIRE(fs->create(**root, "d", {.mode = S_IFDIR | 0755}, {}).ok(), "d");
    for (const char* n : {"f", "g"}) {
      auto file = fs->create(**root, n, {.mode = S_IFREG | 0644}, {});
      FUZZ_REQUIRE(file.ok(), file.status().message());
      const std::string text(65536, *n);
      FileSystem::WriteRequest request;
      request.data = std::as_bytes(std::span(text));
      fs->write(*file, request, [&](Result<u64> w) { FUZZ_REQUIRE(w.ok(), w.status().message()); });
    }
    executor.drain();
  }
  // Nothing runs in the background: what the last input unlinked is freed here.
  void clean_up() {
    auto& impl = static_cast<FileSystemImpl&>(*fs);
    FUZZ_REQUIRE(fs->sync_all().ok(), "sync");
    impl.take_dirty();
    const Status cleaned = impl.clean_orphans();
    FUZZ_REQUIRE(cleaned.ok(), cleaned.message());
    executor.drain();
    FUZZ_REQUIRE(impl.orphan_count() == 0, "somebody still holds an unlinked file");
  }
};

Host& host() {
  static Host instance;
  return instance;
}

ServerOptions options_of(Host& h) {
  ServerOptions o;
  o.socket_path = "/nowhere";
  o.mount_point = "/mnt";
  o.pool = h.pool.get();
  return o;
}

}  // namespace

FileSystem& World::fs() { return *host().fs; }

World::World() : context_(*host().fs, options_of(host())) {
  Host& h = host();
  h.fresh();
  const struct stat& s = h.pool->identity();
  context_.pool_identity = {.device = s.st_dev, .inode = s.st_ino, .special = 0, .mode = s.st_mode};
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  context_.epoll_fd = epoll_.get();
  context_.on_shutdown = [] {};
  context_.sessions = [this] { return std::vector<std::shared_ptr<Session>>{session_}; };
  int ends[2];
  FUZZ_REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0, "socketpair");
  client_ = UniqueFd(ends[0]);
  death_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Peer peer;
  peer.pid = static_cast<u32>(::getpid());
  peer.pidfd = UniqueFd(::fcntl(death_.get(), F_DUPFD_CLOEXEC, 0));
  peer.command = "fuzz\n\x1b[31m";
  session_ = std::make_shared<Session>(context_, 1, UniqueFd(ends[1]), std::move(peer));
  struct epoll_event event = {};
  event.data.u64 = watch_tag(1, WatchKind::kSocket);
  event.events = EPOLLIN;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, session_->socket(), &event);
  slot_fd_ = UniqueFd(::memfd_create("slots", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  FUZZ_REQUIRE(::ftruncate(slot_fd_.get(), static_cast<off_t>(proto::kSlotAreaBytes)) == 0, "the slot area");
  ::fcntl(slot_fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  void* at = ::mmap(nullptr, proto::kSlotAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, slot_fd_.get(), 0);
  FUZZ_REQUIRE(at != MAP_FAILED, "the slot area");
  slots_ = static_cast<char*>(at);
  slot_header().magic = proto::kSlotMagic;
  slot_header().version = proto::kSharedVersion;
  slot_header().high_water = 64;
  doorbell_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  pool_fd_ = UniqueFd(::open(("/proc/self/fd/" + std::to_string(h.pool->fd())).c_str(), O_RDWR | O_CLOEXEC));
}

World::~World() {
  settle();
  session_->hang_up();
  pool_fd_.reset();
  client_.reset();
  const u64 one = 1;
  (void)!::write(death_.get(), &one, sizeof one);
  bool buried = false;
  for (int i = 0; i < 3000 && !buried; ++i) {
    host().executor.drain();
    buried = session_->try_bury();
    if (!buried) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  FUZZ_REQUIRE(buried, "a dead client's session stays");
  for (const auto& w : waiting_) {
    for (int i = 0; i < 3000 && !w->done; ++i) {
      host().executor.drain();
      if (!w->done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    FUZZ_REQUIRE(w->done, "a change waits for a client that is dead");
  }
  host().executor.drain();
  FUZZ_REQUIRE(session_.use_count() == 1, "somebody still holds the session");
  FUZZ_REQUIRE(context_.clients().list_pins().empty() && context_.clients().list_changes().empty() &&
                   context_.clients().list_mappings().empty(),
               "a dead client's rows");
  session_.reset();
  ::munmap(slots_, proto::kSlotAreaBytes);
}

void World::attach(bool direct) {
  request(proto::Type::kHello, proto::HelloBody{.version = proto::kProtocolVersion, .flags = 0, .token = {}});
  std::string packet(sizeof(proto::Header), 0);
  const proto::AttachPoolBody body{.has_pool = direct ? 1u : 0u, .pool_writable = direct ? 1u : 0u, .has_userfaultfd = 0, .revocable = 0};
  packet.append(reinterpret_cast<const char*>(&body), sizeof body);
  const proto::Header h{
      .type = proto::Type::kAttachPool, .size = static_cast<u32>(packet.size()), .request = next_request_++};
  std::memcpy(packet.data(), &h, sizeof h);
  std::vector<int> descriptors{slot_fd_.get(), doorbell_.get()};
  if (direct) descriptors.insert(descriptors.begin(), pool_fd_.get());
  send(packet, descriptors);
}

void World::send(std::string_view packet, const std::vector<int>& descriptors) {
  if (!alive_) return;
  struct iovec part = {const_cast<char*>(packet.data()), packet.size()};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(struct cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  if (const std::size_t n = std::min<std::size_t>(descriptors.size(), 8); n != 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(n * sizeof(int));
    struct cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    std::memcpy(CMSG_DATA(c), descriptors.data(), n * sizeof(int));
  }
  (void)!::sendmsg(client_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  alive_ = session_->receive().ok();
  settle();
}

void World::settle() {
  for (int i = 0; i < 3; ++i) {
    host().executor.drain();
    struct epoll_event events[8];
    const int n = ::epoll_wait(epoll_.get(), events, 8, 0);
    for (int e = 0; e < n; ++e) {
      if (events[e].data.u64 == watch_tag(1, WatchKind::kDoorbell)) session_->on_doorbell();
      else if ((events[e].events & EPOLLOUT) != 0) session_->outbox().flush();
    }
    receive();
  }
}

void World::receive() {
  alignas(8) static thread_local char buffer[proto::kMaxMessageBytes];
  for (;;) {
    alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(client_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0) return;
    for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c))
      for (std::size_t k = 0; k < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++k) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(c) + k * sizeof fd, sizeof fd);
        ::close(fd);
      }
    proto::Header h;
    FUZZ_REQUIRE(static_cast<std::size_t>(n) >= sizeof h && (message.msg_flags & MSG_TRUNC) == 0, "the daemon's packet");
    std::memcpy(&h, buffer, sizeof h);
    FUZZ_REQUIRE(h.size == static_cast<u32>(n), "the daemon's packet says another size");
    if (h.type != proto::Type::kRecall) continue;
    proto::RecallBody body;
    FUZZ_REQUIRE(h.size == sizeof h + sizeof body, "a recall");
    std::memcpy(&body, buffer + sizeof h, sizeof body);
    FUZZ_REQUIRE(body.begin < body.end, "an empty recall");
    recalls_.insert(body.recall);
  }
}

void World::acknowledge(std::size_t most) {
  for (; most > 0 && !recalls_.empty(); --most) {
    const proto::RecallAckBody body{.recall = *recalls_.begin()};
    recalls_.erase(recalls_.begin());
    request(proto::Type::kRecallAck, body);
  }
}

void World::ring() {
  const u64 one = 1;
  (void)!::write(doorbell_.get(), &one, sizeof one);
  settle();
}

void World::change(const std::string& path, int how, ByteRange range, BusyPolicy policy, u32 deadline_ms) {
  auto file = fs().resolve(path);
  if (!file.ok()) return;
  FileSystem::ChangeContext context;
  context.policy = policy;
  if (deadline_ms != 0) context.deadline = std::chrono::milliseconds(deadline_ms);
  auto waiting = std::make_shared<Waiting>();
  waiting_.push_back(waiting);
  const auto done = [waiting](const Status&) {
    FUZZ_REQUIRE(!waiting->done, "a change answers twice");
    waiting->done = true;
  };
  if (how % 3 == 0) waiting->change = fs().truncate(*file, range.begin, context, done);
  else
    waiting->change = fs().fallocate(*file, how % 3 == 1 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE,
                                     range.begin, range.length(), context, done);
  settle();
  if (how >= 128 && waiting->change) waiting->change->interrupt();
  settle();
}

void World::list() {
  (void)context_.clients().list_pins();
  (void)context_.clients().list_changes();
  (void)context_.clients().list_mappings();
}

}  // namespace pindax::fuzz
