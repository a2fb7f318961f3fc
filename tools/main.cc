// SPDX-License-Identifier: BSD-3-Clause
//
// `pindax`: one file a subcommand. The same binary answers to mount.fuse.pindax, mount.pindax, umount.fuse.pindax, mkfs.pindax and
// fsck.pindax, the names under which mount(8), umount(8), mkfs(8) and fsck(8) look for helpers.

#include <string>

#include "common/command.h"
#include "helpers.h"

int main(int argc, char** argv) {
  using namespace pindax::tools;
  if (auto code = run_helper_name(argc, argv)) return *code;

  CLI::App app{"Pindax: a user-space file system with fs-dax semantics", "pindax"};
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("pindax ") + PINDAX_VERSION);
  app.footer("Exit codes: 0 done, 1 found something, 2 usage, 4 failed.");
  Commands commands(app);
  add_mkfs(commands);
  add_mount(commands);
  add_umount(commands);
  add_fsck(commands);
  add_info(commands);
  add_dump(commands);
  add_pins(commands);
  add_resize(commands);
  add_clients(commands);
  add_waiters(commands);
  add_layout(commands);
  add_clone(commands);
  add_recall(commands);
  add_evict(commands);
  add_top(commands);
  add_defrag(commands);
  add_fallocate(commands);
  add_pin(commands);
  add_map(commands);
  add_ls(commands);
  add_stat(commands);
  add_import(commands);
  add_export(commands);
  add_run(commands);
  add_scrub(commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kDone : kUsage;
  }
  return commands.exit_code();
}
