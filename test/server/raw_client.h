// SPDX-License-Identifier: BSD-3-Clause
//
// A client that speaks the protocol by hand, right or wrong as the test wants, and a server to speak to.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "pmem/pool_media.h"
#include "proto/messages.h"
#include "proto/shared.h"
#include "server/server.h"

namespace pindax::test {

// A pool in shared memory, a file system on it, a server before it; all gone with the object.
class World {
 public:
  explicit World(bool map_pool = true, SyncMode sync = SyncMode::kStrict, u64 pool_bytes = u64{64} << 20) {
    char name[] = "/dev/shm/pindax-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    directory = name;
    {
      auto made = PoolMedia::create(pool_path(), pool_bytes, true, false);
      REQUIRE(made.ok());
      REQUIRE(make_file_system(**made, {.label = "test", .zeroed = true, .root_mode = 0777}).ok());
    }
    auto opened = PoolMedia::open(pool_path(), {});
    REQUIRE(opened.ok());
    pool = std::move(*opened);
    MountOptions options;
    options.sync = sync;
    auto mounted = FileSystem::mount(*pool, executor, options);
    REQUIRE(mounted.ok());
    fs = std::move(*mounted);
    auto started = Server::start(*fs, {.socket_path = socket_path(), .pool = map_pool ? pool.get() : nullptr});
    INFO(started.status().message());
    REQUIRE(started.ok());
    server = std::move(*started);
  }
  ~World() {
    server.reset();
    if (fs) (void)fs->unmount();
    fs.reset();
    executor.stop();
    pool.reset();
    std::filesystem::remove_all(directory);
  }
  std::string pool_path() const { return directory + "/pool"; }
  std::string socket_path() const { return directory + "/socket"; }

  // A file whose every block holds `fill`.
  InodeNo make_file(const char* name, u64 bytes, char fill) {
    auto root = fs->root();
    REQUIRE(root.ok());
    auto inode = fs->create(**root, name, {.mode = S_IFREG | 0666}, Caller{.umask = 0});
    REQUIRE(inode.ok());
    if (bytes != 0) {
      std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
      Result<u64> written = u64{0};
      fs->write(*inode, {.data = data}, [&](Result<u64> n) { written = n; });
      executor.drain();
      REQUIRE(written.ok());
      REQUIRE(*written == bytes);
    }
    return (*inode)->ino;
  }

  std::string directory;
  Executor executor{2};
  std::unique_ptr<PoolMedia> pool;
  std::unique_ptr<FileSystem> fs;
  std::unique_ptr<Server> server;
};

// Answers are expected at once; on a machine that is busy with other things that may take a while.
inline constexpr int kPatienceMs = 30'000;

class RawClient {
 public:
  struct Packet {
    proto::Header header{};
    std::vector<std::byte> body;  // behind the header
    std::vector<UniqueFd> descriptors;

    template <class T>
    T as(std::size_t at = 0) const {
      T out;
      REQUIRE(body.size() >= at + sizeof(T));
      std::memcpy(&out, body.data() + at, sizeof(T));
      return out;
    }
    i64 status() const { return as<proto::ReplyBody>().status; }
    template <class T>
    T reply() const { return as<T>(sizeof(proto::ReplyBody)); }
    std::string text() const {
      return {reinterpret_cast<const char*>(body.data()) + sizeof(proto::ReplyBody), body.size() - sizeof(proto::ReplyBody)};
    }
  };

  explicit RawClient(const World& world) : pool_path(world.pool_path()) {
    socket = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, world.socket_path().c_str(), sizeof(address.sun_path) - 1);
    REQUIRE(::connect(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) == 0);
  }
  ~RawClient() {
    if (gates != nullptr) ::munmap(gates, proto::kGateAreaBytes);
    if (slot_area != nullptr) ::munmap(slot_area, proto::kSlotAreaBytes);
  }

  void send_bytes(const void* data, std::size_t bytes, const std::vector<int>& descriptors = {}) {
    struct iovec part = {const_cast<void*>(data), bytes};
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      struct cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
      std::memcpy(CMSG_DATA(c), descriptors.data(), descriptors.size() * sizeof(int));
    }
    (void)!::sendmsg(socket.get(), &message, MSG_NOSIGNAL);
  }
  template <class Body>
  u64 send(proto::Type type, const Body& body, std::string_view tail = {}, const std::vector<int>& descriptors = {}) {
    return send_as(++next_request, type, body, tail, descriptors);
  }
  template <class Body>
  u64 send_as(u64 request, proto::Type type, const Body& body, std::string_view tail = {},
              const std::vector<int>& descriptors = {}) {
    std::string packet(sizeof(proto::Header) + sizeof(Body), '\0');
    std::memcpy(packet.data() + sizeof(proto::Header), &body, sizeof(Body));
    packet.append(tail);
    const proto::Header header{.type = type, .size = static_cast<u32>(packet.size()), .request = request};
    std::memcpy(packet.data(), &header, sizeof(header));
    send_bytes(packet.data(), packet.size(), descriptors);
    return request;
  }
  // The next packet; a zero header after a hang-up or two seconds of silence.
  Packet receive(int timeout_ms = kPatienceMs) {
    if (!stash.empty()) {
      Packet p = std::move(stash.front());
      stash.pop_front();
      return p;
    }
    return receive_fresh(timeout_ms);
  }
  Packet receive_fresh(int timeout_ms) {
    Packet p;
    struct pollfd waiting = {socket.get(), POLLIN, 0};
    if (::poll(&waiting, 1, timeout_ms) != 1) return p;
    std::vector<std::byte> buffer(proto::kMaxMessageBytes);
    alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec part = {buffer.data(), buffer.size()};
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t n = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
    if (n < static_cast<ssize_t>(sizeof(p.header))) return p;
    std::memcpy(&p.header, buffer.data(), sizeof(p.header));
    p.body.assign(buffer.begin() + sizeof(p.header), buffer.begin() + n);
    for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      for (std::size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        p.descriptors.emplace_back(fd);
      }
    }
    return p;
  }
  // Waits for the answer; what else arrives is kept for receive().
  Packet answer(u64 request, int timeout_ms = kPatienceMs) {
    for (auto it = stash.begin(); it != stash.end(); ++it) {
      if (it->header.type != proto::Type::kReply || it->header.request != request) continue;
      Packet p = std::move(*it);
      stash.erase(it);
      return p;
    }
    for (;;) {
      Packet p = receive_fresh(timeout_ms);
      if (p.header.size == 0 || (p.header.type == proto::Type::kReply && p.header.request == request)) return p;
      stash.push_back(std::move(p));
    }
  }
  template <class Body>
  Packet call(proto::Type type, const Body& body, std::string_view tail = {}, const std::vector<int>& descriptors = {}) {
    Packet p = answer(send(type, body, tail, descriptors));
    REQUIRE(p.header.size != 0);
    return p;
  }
  bool hung_up(int timeout_ms = kPatienceMs) {
    for (;;) {
      struct pollfd waiting = {socket.get(), POLLIN, 0};
      if (::poll(&waiting, 1, timeout_ms) != 1) return false;
      char byte = 0;
      const ssize_t n = ::recv(socket.get(), &byte, 1, MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN)) return true;
    }
  }

  proto::WelcomeBody hello(u32 flags = 0) {
    proto::HelloBody body{};
    body.version = proto::kProtocolVersion;
    body.flags = flags;
    Packet p = call(proto::Type::kHello, body);
    REQUIRE(p.status() == 0);
    if (!p.descriptors.empty()) {
      void* at = ::mmap(nullptr, proto::kGateAreaBytes, PROT_READ, MAP_SHARED, p.descriptors[0].get(), 0);
      REQUIRE(at != MAP_FAILED);
      gates = at;
      gate_fd = std::move(p.descriptors[0]);
    }
    return p.reply<proto::WelcomeBody>();
  }
  static UniqueFd make_slots(unsigned seals = F_SEAL_SHRINK | F_SEAL_GROW, u64 bytes = proto::kSlotAreaBytes) {
    UniqueFd fd(::memfd_create("slots", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
    proto::SlotHeader header{};
    header.magic.store(proto::kSlotMagic);
    header.version.store(proto::kSharedVersion);
    REQUIRE(::pwrite(fd.get(), &header, sizeof(header), 0) == sizeof(header));
    if (seals != 0) REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, seals) == 0);
    return fd;
  }
  Packet attach() {
    hello();
    UniqueFd pool(::open(pool_path.c_str(), O_RDWR | O_CLOEXEC));
    slot_fd = make_slots();
    slot_area = ::mmap(nullptr, proto::kSlotAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, slot_fd.get(), 0);
    REQUIRE(slot_area != MAP_FAILED);
    doorbell = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    Packet p = call(proto::Type::kAttachPool, proto::AttachPoolBody{1, 1, 0, 0}, {},
                    {pool.get(), slot_fd.get(), doorbell.get()});
    pool_fd = std::move(pool);
    return p;
  }
  u64 open(std::string_view path, int flags = O_RDWR, u32 mode = 0644) {
    Packet p = call(proto::Type::kOpen, proto::OpenBody{static_cast<u32>(flags), mode, 022, 0}, path);
    REQUIRE(p.status() == 0);
    return p.reply<proto::OpenReply>().handle;
  }
  proto::MapReply map(u64 handle, u64 offset, u64 length, int prot = PROT_READ | PROT_WRITE) {
    const proto::MapBody body{{handle, {}}, offset, length, static_cast<u32>(prot), 0};
    Packet p = call(proto::Type::kMap, body);
    REQUIRE(p.status() == 0);
    return p.reply<proto::MapReply>();
  }
  // Faults and returns the grants that came before the answer.
  std::vector<proto::GrantBody> fault(u32 mapping, u64 offset, u64 length, bool write) {
    Packet p = call(proto::Type::kFault, proto::FaultBody{mapping, write ? 1u : 0u, offset, length});
    std::vector<proto::GrantBody> grants;
    for (const auto& s : stash)
      if (s.header.type == proto::Type::kGrant) grants.push_back(s.as<proto::GrantBody>());
    std::erase_if(stash, [](const Packet& s) { return s.header.type == proto::Type::kGrant; });
    return grants;
  }
  proto::Gate& gate(u32 mapping) {
    return reinterpret_cast<proto::Gate*>(static_cast<char*>(gates) + proto::kGateOffset)[mapping];
  }
  proto::SlotHeader& slot_header() { return *static_cast<proto::SlotHeader*>(slot_area); }
  proto::Slot& slot(u32 index) {
    return reinterpret_cast<proto::Slot*>(static_cast<char*>(slot_area) + proto::kSlotOffset)[index];
  }

  std::string pool_path;
  UniqueFd socket, gate_fd, slot_fd, doorbell, pool_fd;
  void* gates = nullptr;
  void* slot_area = nullptr;
  u64 next_request = 0;
  std::deque<Packet> stash;
};

}  // namespace pindax::test
