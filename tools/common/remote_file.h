// SPDX-License-Identifier: BSD-3-Clause
//
// A file of the daemon's, read and written by messages: slow and simple, for import and export without a mount.
#pragma once

#include <string>

#include "common/daemon.h"

namespace pindax::tools {

class RemoteFile {
 public:
  // flags: O_*; closes the handle when destroyed.
  static Result<RemoteFile> open(Daemon& daemon, const std::string& path, int flags, u32 mode);
  RemoteFile(RemoteFile&& o) noexcept : daemon_(o.daemon_), reply_(o.reply_) { o.reply_.handle = 0; }
  RemoteFile& operator=(RemoteFile&&) = delete;
  RemoteFile(const RemoteFile&) = delete;
  RemoteFile& operator=(const RemoteFile&) = delete;
  ~RemoteFile();

  u64 size_bytes() const { return reply_.size_bytes; }
  Result<std::vector<char>> read(u64 offset, u64 length);  // at most proto::kMaxDataBytes; shorter at the end
  Status write(u64 offset, std::string_view data);
  Status truncate(u64 size_bytes);  // also extends

 private:
  RemoteFile(Daemon& daemon, const proto::OpenReply& reply) : daemon_(&daemon), reply_(reply) {}
  proto::FileRef ref() const { return {.handle = reply_.handle, .token = {}}; }

  Daemon* daemon_;
  proto::OpenReply reply_;
};

}  // namespace pindax::tools
