// SPDX-License-Identifier: BSD-3-Clause
//
// What every subcommand shares: registration, exit codes, how errors are printed.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

#include "base/result.h"
#include "base/types.h"

namespace pindax::tools {

// The exit codes of all pindax commands (fsck adds its own reading of 1: repaired).
enum ExitCode : int { kDone = 0, kFoundSomething = 1, kUsage = 2, kFailed = 4 };

// A subcommand registers itself: options bound to state that the callback owns, and the callback returns an exit code.
class Commands {
 public:
  explicit Commands(CLI::App& app) : app_(app) {}
  CLI::App* add(const std::string& name, const std::string& about) { return app_.add_subcommand(name, about); }
  void run(CLI::App* sub, std::function<int()> action) {
    sub->callback([this, action = std::move(action)] { exit_code_ = action(); });
  }
  int exit_code() const { return exit_code_; }

 private:
  CLI::App& app_;
  int exit_code_ = kDone;
};

// "pindax NAME: message" on standard error; returns kFailed.
int fail(const char* command, const Status& status);
int usage(const char* command, const std::string& message);

// Options of type "size" and "time" that accept 4K and 30s.
CLI::Option* add_size(CLI::App* sub, const std::string& name, u64& value, const std::string& about);
CLI::Option* add_duration(CLI::App* sub, const std::string& name, u64& milliseconds, const std::string& about);

void add_defrag(Commands&);
void add_fallocate(Commands&);
void add_mkfs(Commands&);
void add_mount(Commands&);
void add_umount(Commands&);
void add_fsck(Commands&);
void add_info(Commands&);
void add_dump(Commands&);
void add_pins(Commands&);
void add_resize(Commands&);
void add_clients(Commands&);
void add_waiters(Commands&);
void add_layout(Commands&);
void add_clone(Commands&);
void add_pin(Commands&);
void add_map(Commands&);
void add_ls(Commands&);
void add_stat(Commands&);
void add_import(Commands&);
void add_export(Commands&);
void add_evict(Commands&);
void add_recall(Commands&);
void add_top(Commands&);
void add_run(Commands&);
void add_scrub(Commands&);

}  // namespace pindax::tools
