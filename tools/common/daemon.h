// SPDX-License-Identifier: BSD-3-Clause
//
// A command's connection to a daemon: found through any path on its mount, or by its socket. Not thread-safe.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "proto/messages.h"
#include "proto/mount_ioctl.h"

namespace pindax::tools {

using Json = nlohmann::json;

class Daemon {
 public:
  // `where`: a socket, or a path on a mount. kNotConnected, kInvalid ("is not on a Pindax mount") with advice.
  static Result<Daemon> connect(const std::string& where);

  // One control request (proto/control.h). An {"error"} reply becomes a Status.
  Result<Json> control(const Json& request);

  // Plain requests of the client protocol, for import and export.
  Result<std::vector<char>> call(proto::Type type, std::string_view body);

  u64 session() const { return session_; }
  const std::string& socket_path() const { return socket_path_; }

 private:
  Status hello(const proto::TokenReply& token);

  UniqueFd socket_;
  std::string socket_path_;
  u64 session_ = 0;
  u64 next_request_ = 1;
};

// The path inside the file system of `path` on a mount, "/" for its root; and the mount point.
struct MountedPath {
  std::string mount_point;
  std::string inner;
};
Result<MountedPath> split_mounted_path(const std::string& path);

}  // namespace pindax::tools
