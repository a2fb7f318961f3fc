// SPDX-License-Identifier: BSD-3-Clause
#include "common/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "proto/mount_ioctl.h"
#include "proto/packet.h"

namespace pindax::tools {
namespace {

Status system_error(const std::string& what) {
  return Status(from_errno(errno), fmt::format("{}: {}", what, std::strerror(errno)));
}

Result<UniqueFd> connect_socket(const std::string& path) {
  UniqueFd fd;
  const int err = proto::connect_socket(path, fd);
  if (err == 0) return fd;
  if (err == ECONNREFUSED || err == ENOENT) return Status(Errc::kNotConnected, fmt::format("{}: no daemon listens there", path));
  return Status(from_errno(err), fmt::format("{}: {}", path, std::strerror(err)));
}

// Receives one packet; a descriptor that comes with it goes to `passed`.
Result<std::vector<char>> receive(int fd, UniqueFd& passed) {
  std::vector<char> packet(proto::kMaxMessageBytes);
  UniqueFd descriptors[proto::kMaxDescriptors];
  const long n = proto::receive_packet(fd, packet.data(), packet.size(), descriptors);
  if (n < 0) return Status(from_errno(static_cast<int>(-n)), "daemon: " + std::string(std::strerror(static_cast<int>(-n))));
  if (n == 0) return Status(Errc::kNotConnected, "the daemon closed the connection");
  passed = std::move(descriptors[0]);
  packet.resize(static_cast<std::size_t>(n));
  return packet;
}

Result<std::string> read_memfd(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return system_error("reply");
  std::string text(static_cast<std::size_t>(st.st_size), '\0');
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::pread(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (n <= 0) return system_error("reply");
    done += static_cast<std::size_t>(n);
  }
  return text;
}

}  // namespace

Result<Daemon> Daemon::connect(const std::string& where) {
  Daemon daemon;
  proto::TokenReply token{};
  struct stat st{};
  if (::stat(where.c_str(), &st) != 0) return system_error(where);
  if (S_ISSOCK(st.st_mode)) {
    daemon.socket_path_ = where;
  } else {
    UniqueFd fd(::open(where.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) return system_error(where);
    proto::MountInfo info{};
    if (::ioctl(fd.get(), proto::kIocMountInfo, &info) != 0)
      return Status(Errc::kInvalid, fmt::format("{} is not on a Pindax mount (and no daemon's socket)", where));
    info.socket_path[sizeof(info.socket_path) - 1] = '\0';
    daemon.socket_path_ = info.socket_path;
    if (::ioctl(fd.get(), proto::kIocToken, &token) != 0) return system_error(where + ": asking for a token");
  }
  PINDAX_ASSIGN(daemon.socket_, connect_socket(daemon.socket_path_));
  PINDAX_TRY(daemon.hello(token));
  return daemon;
}

Status Daemon::hello(const proto::TokenReply& token) {
  proto::HelloBody body{};
  body.version = proto::kProtocolVersion;
  body.flags = proto::kHelloControlOnly;
  std::memcpy(body.token, token.token, sizeof(body.token));
  PINDAX_ASSIGN(auto reply, call(proto::Type::kHello, {reinterpret_cast<const char*>(&body), sizeof(body)}));
  proto::WelcomeBody welcome{};
  if (reply.size() < sizeof(welcome)) return Status(Errc::kProtocol, "the daemon's welcome is too short");
  std::memcpy(&welcome, reply.data(), sizeof(welcome));
  if (welcome.version != proto::kProtocolVersion)
    return Status(Errc::kIncompatible, fmt::format("the daemon speaks protocol {}, this program {}: use the programs of one build",
                                                   welcome.version, proto::kProtocolVersion));
  session_ = welcome.session;
  return {};
}

Result<std::vector<char>> Daemon::call(proto::Type type, std::string_view body) {
  proto::Header header{type, static_cast<u32>(sizeof(header) + body.size()), next_request_++};
  iovec iov[2] = {{&header, sizeof(header)}, {const_cast<char*>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = iov;
  message.msg_iovlen = 2;
  ssize_t sent;
  do sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return system_error("daemon");
  for (;;) {
    UniqueFd passed;
    PINDAX_ASSIGN(auto packet, receive(socket_.get(), passed));
    proto::Header reply{};
    if (packet.size() < sizeof(reply)) return Status(Errc::kProtocol, "the daemon sent a short packet");
    std::memcpy(&reply, packet.data(), sizeof(reply));
    if (reply.type != proto::Type::kReply || reply.request != header.request) continue;
    proto::ReplyBody result{};
    if (packet.size() < sizeof(reply) + sizeof(result)) return Status(Errc::kProtocol, "the daemon sent a short reply");
    std::memcpy(&result, packet.data() + sizeof(reply), sizeof(result));
    std::vector<char> rest(packet.begin() + sizeof(reply) + sizeof(result), packet.end());
    if (result.status < 0) {
      const std::string text(rest.begin(), rest.end());
      const auto code = static_cast<int>(-result.status);
      return Status(from_errno(code), text.empty() ? std::strerror(code) : text);
    }
    if (passed && type == proto::Type::kControl) {
      PINDAX_ASSIGN(auto text, read_memfd(passed.get()));
      rest.assign(text.begin(), text.end());
    }
    return rest;
  }
}

Result<Json> Daemon::control(const Json& request) {
  PINDAX_ASSIGN(auto bytes, call(proto::Type::kControl, request.dump()));
  Json reply = Json::parse(bytes.begin(), bytes.end(), nullptr, false);
  if (reply.is_discarded()) return Status(Errc::kProtocol, "the daemon's reply is not JSON");
  if (reply.is_object() && reply.contains("error"))
    return Status(from_errno(reply.value("errno", EIO)), reply.value("error", std::string("failed")));
  return reply;
}

Result<MountedPath> split_mounted_path(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return system_error(path);
  struct stat st{};
  if (::lstat(resolved, &st) != 0) return system_error(path);
  std::string root = resolved;
  // The mount point is the highest directory that is still on the same device.
  while (root != "/") {
    const auto slash = root.rfind('/');
    const std::string parent = slash == 0 ? "/" : root.substr(0, slash);
    struct stat up{};
    if (::lstat(parent.c_str(), &up) != 0) return system_error(parent);
    if (up.st_dev != st.st_dev) break;
    root = parent;
  }
  std::string inner(std::string_view(resolved).substr(root == "/" ? 0 : root.size()));
  return MountedPath{root, inner.empty() ? "/" : inner};
}

}  // namespace pindax::tools
