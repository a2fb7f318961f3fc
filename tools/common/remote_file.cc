// SPDX-License-Identifier: BSD-3-Clause
#include "common/remote_file.h"

#include <algorithm>
#include <cstring>

namespace pindax::tools {
namespace {

template <class Body>
std::string with_body(const Body& body, std::string_view rest = {}) {
  std::string packet(reinterpret_cast<const char*>(&body), sizeof(body));
  packet.append(rest);
  return packet;
}

}  // namespace

Result<RemoteFile> RemoteFile::open(Daemon& daemon, const std::string& path, int flags, u32 mode) {
  const proto::OpenBody body{.flags = static_cast<u32>(flags), .mode = mode};
  PINDAX_ASSIGN(auto bytes, daemon.call(proto::Type::kOpen, with_body(body, path)));
  proto::OpenReply reply{};
  if (bytes.size() < sizeof(reply)) return Status(Errc::kProtocol, "short reply to open");
  std::memcpy(&reply, bytes.data(), sizeof(reply));
  return RemoteFile(daemon, reply);
}

RemoteFile::~RemoteFile() {
  if (reply_.handle == 0) return;
  (void)daemon_->call(proto::Type::kClose, with_body(proto::CloseBody{.handle = reply_.handle})).ok();
}

Result<std::vector<char>> RemoteFile::read(u64 offset, u64 length) {
  const proto::ReadBody body{.file = ref(), .offset = offset, .length = std::min<u64>(length, proto::kMaxDataBytes)};
  return daemon_->call(proto::Type::kRead, with_body(body));
}

Status RemoteFile::write(u64 offset, std::string_view data) {
  while (!data.empty()) {
    const auto piece = data.substr(0, proto::kMaxDataBytes);
    const proto::WriteBody body{.file = ref(), .offset = offset, .length = static_cast<u32>(piece.size()), .append = 0};
    PINDAX_ASSIGN(auto bytes, daemon_->call(proto::Type::kWrite, with_body(body, piece)));
    proto::WriteReply reply{};
    if (bytes.size() < sizeof(reply)) return Status(Errc::kProtocol, "short reply to write");
    std::memcpy(&reply, bytes.data(), sizeof(reply));
    if (reply.written == 0 || reply.written > piece.size()) return Status(Errc::kNoSpace, "no space left in the pool");
    offset += reply.written;
    data.remove_prefix(reply.written);
  }
  return {};
}

Status RemoteFile::truncate(u64 size_bytes) {
  const proto::TruncateBody body{.file = ref(), .size = size_bytes, .policy = 0, .deadline_ms = 0};
  return as_status(daemon_->call(proto::Type::kTruncate, with_body(body)));
}

}  // namespace pindax::tools
