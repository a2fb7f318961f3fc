// SPDX-License-Identifier: BSD-3-Clause
//
// pindax mount, pindax umount, and the names under which mount(8), umount(8), mkfs(8) and fsck(8) call us.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "common/command.h"
#include "daemon/mount_client.h"
#include "helpers.h"

namespace pindax::tools {

void add_mount(Commands& commands) {
  struct Options {
    std::string pool, mount_point;
    std::vector<std::string> options;
    bool foreground = false;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("mount", "Mount a pool; returns when the mount is usable");
  sub->add_option("POOL", o->pool, "the pool's file or device")->required();
  sub->add_option("MNT", o->mount_point, "an empty directory")->required();
  sub->add_option("-o", o->options, "mount options, separated by commas: see pindaxd --help")->type_name("OPTIONS");
  sub->add_flag("-f,--foreground", o->foreground, "stay in the foreground and log to standard error");
  commands.run(sub, [o] { return run_mount(o->pool, o->mount_point, o->options, o->foreground); });
}

void add_umount(Commands& commands) {
  struct Options {
    std::string mount_point;
    bool lazy = false;
    u64 timeout_ms = 60'000;
  };
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("umount", "Unmount; returns when the pool is free again");
  sub->add_option("MNT", o->mount_point, "the mount point")->required();
  sub->add_flag("--lazy", o->lazy, "detach now, end when the last user goes");
  add_duration(sub, "--timeout", o->timeout_ms, "how long to wait for the daemon to let go (60s)");
  commands.run(sub, [o] {
    return run_umount(o->mount_point, {.lazy = o->lazy, .timeout = std::chrono::milliseconds(o->timeout_ms)});
  });
}

namespace {

// mkfs.pindax and fsck.pindax take the subcommand's own arguments, and the flags that mkfs(8) and fsck(8) put in front.
int run_subcommand(const char* name, int argc, char** argv, const std::vector<std::string>& ignored) {
  CLI::App app{"", name};
  Commands commands(app);
  const bool fsck = std::strcmp(name, "fsck") == 0;
  if (fsck) add_fsck(commands);
  else add_mkfs(commands);
  std::vector<std::string> words{name};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (std::find(ignored.begin(), ignored.end(), word) != ignored.end()) continue;
    words.push_back(fsck && (word == "-y" || word == "-p") ? "--repair" : word);
  }
  std::reverse(words.begin(), words.end());
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kUsage;
  }
  return commands.exit_code();
}

}  // namespace

std::optional<int> run_helper_name(int argc, char** argv) {
  const std::string path = argc > 0 ? argv[0] : "";
  const std::string name = path.substr(path.rfind('/') + 1);
  if (name == "mount.fuse.pindax" || name == "mount.pindax") return run_mount_helper(argc, argv);
  if (name == "umount.fuse.pindax" || name == "umount.pindax") return run_umount_helper(argc, argv);
  if (name == "mkfs.pindax") return run_subcommand("mkfs", argc, argv, {"-V"});
  if (name == "fsck.pindax") return run_subcommand("fsck", argc, argv, {"-a", "-T", "-M", "-C", "-V"});
  return std::nullopt;
}

}  // namespace pindax::tools
