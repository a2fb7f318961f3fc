// SPDX-License-Identifier: BSD-3-Clause
//
// The frame of every listing command: where to ask, --json, --watch.
#pragma once

#include <functional>
#include <string>

#include "common/command.h"
#include "common/daemon.h"

namespace pindax::tools {

struct ListingOptions {
  std::string where;  // mount, path on it, or socket
  bool json = false;
  u64 watch_ms = 0;  // 0: once
  bool watch = false;
};
void add_listing_options(CLI::App* sub, ListingOptions& options);
// The same without MNT, for commands whose argument is a file.
void add_watch_options(CLI::App* sub, ListingOptions& options);
// For such a command: where to ask and the path inside. `socket` empty: `file` lies on a mount.
Status locate(const std::string& file, const std::string& socket, ListingOptions& options, std::string& inner);

constexpr const char* kHiddenText = "{} more of other users (shown to root and the mount's owner)\n";

// Asks, prints (JSON or by `print`), again and again with --watch. Exit code: kDone.
int run_listing(const char* command, const ListingOptions& options, const Json& request,
                const std::function<std::string(const Json&)>& print);

// Field access that survives a missing or foreign value.
std::string text_field(const Json& row, const char* key);
u64 number_field(const Json& row, const char* key);

}  // namespace pindax::tools
