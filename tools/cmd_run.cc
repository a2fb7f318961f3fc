// SPDX-License-Identifier: BSD-3-Clause
//
// pindax run MNT COMMAND…: runs a command that uses the client library with what it needs to find the daemon. The command's memory
// mappings of ordinary programs are not redirected: they go through the mount, as without this.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/command.h"
#include "common/daemon.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string where;
  std::vector<std::string> command;
};

int run(const Options& o) {
  auto daemon = Daemon::connect(o.where);
  if (!daemon.ok()) return fail("run", daemon.status());
  auto info = daemon->control({{"op", "info"}});
  if (!info.ok()) return fail("run", info.status());
  const std::string mount = info->value("mount_point", std::string());
  ::setenv("PINDAX_SOCKET", daemon->socket_path().c_str(), 1);
  ::setenv("PINDAX_POOL", info->value("pool", std::string()).c_str(), 1);
  if (mount.empty()) ::unsetenv("PINDAX_MOUNT");
  else ::setenv("PINDAX_MOUNT", mount.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& word : o.command)
    if (!words.empty() || word != "--") words.push_back(const_cast<char*>(word.c_str()));
  if (words.empty()) return usage("run", "which command?");
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  const int error = errno;
  fmt::print(stderr, "pindax run: {}: {}\n", words[0], std::strerror(error));
  return error == ENOENT ? 127 : 126;  // as a shell says it
}

}  // namespace

void add_run(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("run", "Run a command with PINDAX_MOUNT, PINDAX_SOCKET and PINDAX_POOL set for a mount");
  sub->add_option("MNT", o->where, "mount point, any path on the mount, or a daemon's socket")->required();
  sub->add_option("COMMAND", o->command, "the command and its arguments")->required();
  sub->prefix_command();
  sub->positionals_at_end();
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
