// SPDX-License-Identifier: BSD-3-Clause
//
// What pindaxd is told: its command line and the comma list of -o, which mount(8) and fstab hand through as
// well.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "fs/file_system.h"

namespace pindax {

struct DaemonOptions {
  std::string pool;         // absolute
  std::string mount_point;  // absolute; empty with --no-mount
  bool foreground = false;
  bool help = false, version = false;
  std::string socket_path;  // empty: chosen by default_socket_path()
  std::string log_file;     // empty: standard error in the foreground, else syslog
  std::string log_level = "info";
  std::string source;  // fsname=: what mount(8) shows; empty: the pool

  MountOptions fs;
  std::optional<SyncMode> sync;  // empty: by the pool's granularity
  bool no_recovery = false;      // nothing to do: read_only writes nothing to the pool
  bool allow_other = false;      // always for root's mounts
  bool share_userfaultfd = false;
  double attr_timeout_s = 1.0;
  unsigned threads = 0;
  std::vector<std::string> kernel_options;  // dev, suid, noexec, …
};

// `arguments` without the program's name:
//   POOL MOUNTPOINT [-o opts] [--foreground]
//   --no-mount --socket SOCKET POOL [-o opts] [--foreground]
// kInvalid with one line that says what is wrong.
Result<DaemonOptions> parse_arguments(std::span<const std::string> arguments);

// Adds a comma list ("strict,on_busy=refuse,ro"; a comma inside a value is "\,"). kInvalid names the option.
Status add_mount_options(DaemonOptions& options, std::string_view list);

std::string usage_text();

// An absolute path of what need not exist; symlinks stay.
std::string absolute_path(const std::string& path);

}  // namespace pindax
