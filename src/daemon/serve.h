// SPDX-License-Identifier: BSD-3-Clause
//
// Joins the server of clients to the mount: the ioctls that lead clients from a descriptor to the socket.
#pragma once

#include <functional>
#include <memory>

#include "daemon/options.h"
#include "fuse/mount.h"
#include "pmem/pool_media.h"
#include "server/server.h"

namespace pindax {

// /run/pindax/UUID-PID.sock for root, else in $XDG_RUNTIME_DIR/pindax or /tmp/pindax-UID. Makes the folder
// (others may enter root's only) and checks that it is ours.
Result<std::string> default_socket_path(const u8 (&uuid)[16]);

class ClientService : public MountService {
 public:
  // `shutdown` runs when a tool asks the daemon to end. `ClientService` must be stopped before its file
  // system goes.
  static Result<std::unique_ptr<ClientService>> start(FileSystem& fs, PoolMedia& pool,
                                                      const DaemonOptions& options,
                                                      std::function<void()> shutdown);
  ~ClientService() override { stop(); }
  void stop();

  proto::MountInfo mount_info() override { return info_; }
  Result<proto::TokenReply> issue_token(const InodeRef& inode, u32 access, u32 pid) override;

 private:
  ClientService() = default;
  proto::MountInfo info_{};
  std::unique_ptr<Server> server_;
};

}  // namespace pindax
