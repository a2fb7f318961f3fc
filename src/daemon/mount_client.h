// SPDX-License-Identifier: BSD-3-Clause
//
// Mounting and unmounting from outside the daemon: behind `pindax mount|umount` and the helpers of mount(8)
// and umount(8).
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace pindax {

// Starts pindaxd on POOL and MOUNTPOINT and returns when the mount is usable. pindaxd is looked for beside
// this program, in the build tree, and in PATH; $PINDAXD overrides. Its own errors go to standard error as
// one line. Returns an exit code: 0, 2 usage, 4 failed.
int run_mount(const std::string& pool, const std::string& mount_point,
              const std::vector<std::string>& options, bool foreground = false);

struct UmountOptions {
  bool lazy = false;                         // detach now, end when its last user goes
  std::chrono::milliseconds timeout{60000};  // for the daemon to let go of the pool
};
// Unmounts and returns when the daemon has let go of the pool. Works too if the daemon is dead. Exit code as
// above.
int run_umount(const std::string& mount_point, const UmountOptions& options = {});

// mount.fuse.pindax, mount.pindax: argv as mount(8) gives it: POOL DIR [-sfnvrw] [-N ns] [-t type] [-o opts].
// Silent unless it fails.
int run_mount_helper(int argc, char** argv);
// umount.fuse.pindax: DIR [-flnrv] [-N ns] [-t type]. Returns when the pool is free, as users of umount(8)
// expect.
int run_umount_helper(int argc, char** argv);

// Process that owns the pool (has it mounted or works on it), or nothing. 0: somebody whose id the host does
// not tell.
std::optional<unsigned> pool_owner(const std::string& pool);
// True as soon as nobody owns the pool; false after `timeout`. Does not wait for an owner that has the pool
// mounted here, since that one will not let go by itself. For mkfs and fsck right after an unmount.
bool wait_until_free(const std::string& pool, std::chrono::milliseconds timeout);

struct MountedPool {
  std::string pool;  // source, as mount(8) shows it
  std::string mount_point;
};
// The Pindax mounts of this mount namespace, in the order of mounting.
std::vector<MountedPool> mounted_pools();

}  // namespace pindax
