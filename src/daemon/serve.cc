// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/serve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace pindax {
namespace {

std::string uuid_text(const u8 (&uuid)[16]) {
  std::string text;
  for (std::size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

// A folder that nobody else may write to.
Status make_private_folder(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0) {
    (void)::chmod(path.c_str(), mode);  // whatever the umask
    return {};
  }
  struct stat s {};
  if (errno != EEXIST || ::lstat(path.c_str(), &s) != 0)
    return Status(from_errno(errno), fmt::format("{}: {}", path, std::strerror(errno)));
  if (!S_ISDIR(s.st_mode) || s.st_uid != ::geteuid() || (s.st_mode & 022) != 0)
    return Status(Errc::kPermission,
                  path + ": not a folder that only you can write to; move it away, or use -o socket=PATH");
  return {};
}

template <std::size_t N>
void copy_text(char (&to)[N], const std::string& from) {
  const std::size_t n = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), n);
  to[n] = '\0';
}

}  // namespace

Result<std::string> default_socket_path(const u8 (&uuid)[16]) {
  std::string folder;
  mode_t mode = 0700;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (::geteuid() == 0) {
    folder = "/run/pindax";
    mode = 0755;
  } else if (runtime != nullptr && runtime[0] == '/') {
    folder = std::string(runtime) + "/pindax";
  } else {
    folder = fmt::format("/tmp/pindax-{}", ::geteuid());
  }
  PINDAX_TRY(make_private_folder(folder, mode));
  return fmt::format("{}/{}-{}.sock", folder, uuid_text(uuid), ::getpid());
}

Result<std::unique_ptr<ClientService>> ClientService::start(FileSystem& fs, PoolMedia& pool,
                                                            const DaemonOptions& options,
                                                            std::function<void()> shutdown) {
  auto service = std::unique_ptr<ClientService>(new ClientService);
  const format::Superblock& superblock = fs.superblock();
  std::string socket = options.socket_path;
  if (socket.empty()) {
    PINDAX_ASSIGN(socket, default_socket_path(superblock.uuid));
  }
  proto::MountInfo& info = service->info_;
  info.version = proto::kProtocolVersion;
  info.daemon_pid = static_cast<u32>(::getpid());
  if (socket.size() >= sizeof info.socket_path)
    return Status(Errc::kNameTooLong,
                  fmt::format("{}: the path of a socket may have {} bytes; use -o socket=PATH", socket,
                              sizeof info.socket_path - 1));
  copy_text(info.socket_path, socket);
  copy_text(info.pool_path, pool.path());
  std::memcpy(info.uuid, superblock.uuid, sizeof info.uuid);

  ServerOptions server{.socket_path = socket,
                       .mount_point = options.mount_point,
                       .owner_uid = ::geteuid(),
                       .allow_other = options.allow_other,
                       .share_userfaultfd = options.share_userfaultfd,
                       .pool = &pool};
  PINDAX_ASSIGN(service->server_, Server::start(fs, std::move(server)));
  service->server_->set_shutdown(std::move(shutdown));
  return service;
}

Result<proto::TokenReply> ClientService::issue_token(const InodeRef& inode, u32 access, u32 pid) {
  PINDAX_ASSIGN(const Token token,
                server_->tokens().issue({.inode = inode, .access = static_cast<int>(access), .pid = pid}));
  proto::TokenReply reply{};
  std::memcpy(reply.token, token.data(), sizeof reply.token);
  reply.inode = inode->ino.value;
  reply.access = access;
  return reply;
}

Result<InodeRef> ClientService::redeem_for_reading(const u8 (&token)[proto::kTokenBytes], u32 pid) {
  Token wanted;
  std::copy(std::begin(token), std::end(token), wanted.begin());
  PINDAX_ASSIGN(TokenTable::Grant grant, server_->tokens().redeem(wanted, pid));
  if (grant.access == O_WRONLY) return Status(Errc::kBadDescriptor, "the source is open for writing only");
  return std::move(grant.inode);
}

}  // namespace pindax
