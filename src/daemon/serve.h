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

class ClientService : public MountService, private KernelView {
 public:
  // `shutdown` runs when a tool asks the daemon to end. The file system outlives the service.
  static Result<std::unique_ptr<ClientService>> start(FileSystem& fs, PoolMedia& pool,
                                                      const DaemonOptions& options,
                                                      std::function<void()> shutdown);
  // Hangs up on all clients. What they asked for may still be answered into the void until the object goes.
  void stop() { server_->stop(); }
  // From now on the mount learns what clients change. It stands until stop() has returned.
  void set_mount(Mount* mount) {
    mount_ = mount;
    server_->set_kernel_view(this);
  }

  proto::MountInfo mount_info() override { return info_; }
  Result<proto::TokenReply> issue_token(const InodeRef& inode, u32 access, u32 pid) override;
  Result<InodeRef> redeem_for_reading(const u8 (&token)[proto::kTokenBytes], u32 pid) override;

 private:
  ClientService() = default;
  void refresh(InodeNo ino, bool resized, std::function<void()> done) override { mount_->refresh(ino, resized, std::move(done)); }
  void forget_name(InodeNo dir, std::string name, std::function<void()> done) override {
    mount_->forget_name(dir, std::move(name), std::move(done));
  }

  proto::MountInfo info_{};
  Mount* mount_ = nullptr;
  std::unique_ptr<Server> server_;
};

}  // namespace pindax
