// SPDX-License-Identifier: BSD-3-Clause
#include "common/session.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "common/daemon.h"

namespace pindax::tools {

Status library_status(int error) {
  const char* why = pindax_last_error();
  return Status(from_errno(-error), why != nullptr && *why != '\0' ? why : pindax_strerror(error));
}

Result<Session> Session::open(const std::string& file, const std::string& socket, int flags,
                              const struct pindax_attach_options* options) {
  Session session;
  std::string where = socket, inner = file;
  if (socket.empty()) {
    PINDAX_ASSIGN(auto path, split_mounted_path(file));
    where = path.mount_point;
    inner = path.inner;
  }
  if (const int error = pindax_attach(where.c_str(), options, &session.client_); error != 0) return library_status(error);
  session.fd_ = pindax_open(session.client_, inner.c_str(), flags, 0);
  if (session.fd_ < 0) return library_status(session.fd_).with_context(file);
  PINDAX_TRY(session.learn_size(file, socket));
  return session;
}

Status Session::learn_size(const std::string& file, const std::string& socket) {
  struct stat st{};
  if (socket.empty()) {
    if (::fstat(fd_, &st) != 0) return Status(from_errno(errno), fmt::format("{}: {}", file, std::strerror(errno)));
    if (!S_ISREG(st.st_mode)) return Status(Errc::kInvalid, file + " is not a regular file");
    size_bytes_ = static_cast<u64>(st.st_size);
    return {};
  }
  PINDAX_ASSIGN(auto daemon, Daemon::connect(socket));
  PINDAX_ASSIGN(const Json row, daemon.control({{"op", "stat"}, {"path", file}}));
  size_bytes_ = row.value("size_bytes", u64{0});
  return {};
}

Session::~Session() {
  if (fd_ >= 0) pindax_close(client_, fd_);
  if (client_ != nullptr) pindax_detach(client_);
}

Result<pindax_mapping*> Session::map(u64 offset, u64 length, int prot, int flags) {
  pindax_mapping* mapping = nullptr;
  if (const int error = pindax_map(client_, fd_, offset, length, prot, flags, &mapping); error != 0) return library_status(error);
  return mapping;
}

}  // namespace pindax::tools
