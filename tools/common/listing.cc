// SPDX-License-Identifier: BSD-3-Clause
#include "common/listing.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "common/text.h"

namespace pindax::tools {

void add_listing_options(CLI::App* sub, ListingOptions& options) {
  sub->add_option("MNT", options.where, "mount point, any path on the mount, or a daemon's socket")->required();
  add_watch_options(sub, options);
}

Status locate(const std::string& file, const std::string& socket, ListingOptions& options, std::string& inner) {
  options.where = socket;
  inner = file;
  if (!socket.empty()) return {};
  PINDAX_ASSIGN(auto path, split_mounted_path(file));
  inner = path.inner;
  options.where = path.mount_point;
  return {};
}

void add_watch_options(CLI::App* sub, ListingOptions& options) {
  sub->add_flag("--json", options.json, "print JSON");
  auto* watch = sub->add_option_function<std::string>(
      "--watch",
      [&options](const std::string& text) {
        options.watch = true;
        options.watch_ms = 1000;
        if (text.empty()) return;
        auto parsed = parse_duration_ms(text);
        if (!parsed.ok()) throw CLI::ValidationError("--watch", std::string(parsed.status().message()));
        options.watch_ms = *parsed;
      },
      "repeat every TIME (1s) until interrupted");
  watch->expected(0, 1)->type_name("TIME");
}

int run_listing(const char* command, const ListingOptions& options, const Json& request,
                const std::function<std::string(const Json&)>& print) {
  auto daemon = Daemon::connect(options.where);
  if (!daemon.ok()) return fail(command, daemon.status());
  const bool clear = options.watch && !options.json && ::isatty(STDOUT_FILENO) != 0;
  for (;;) {
    auto reply = daemon->control(request);
    if (!reply.ok()) return fail(command, reply.status());
    if (clear) fmt::print("\x1b[H\x1b[2J");
    const std::string text = options.json ? reply->dump(options.watch ? -1 : 2) + "\n" : print(*reply);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    if (!options.watch) return kDone;
    std::this_thread::sleep_for(std::chrono::milliseconds(options.watch_ms));
  }
}

std::string text_field(const Json& row, const char* key) {
  auto it = row.find(key);
  if (it == row.end() || it->is_null()) return "-";
  if (it->is_string()) return escape(it->get<std::string>());
  return it->dump();
}

u64 number_field(const Json& row, const char* key) {
  auto it = row.find(key);
  return it != row.end() && it->is_number() ? it->get<u64>() : 0;
}

}  // namespace pindax::tools
