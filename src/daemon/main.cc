// SPDX-License-Identifier: BSD-3-Clause
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "daemon/daemon.h"

int main(int argc, char** argv) {
  using namespace pindax;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  auto parsed = parse_arguments(arguments);
  if (!parsed.ok()) {
    std::fprintf(stderr, "pindaxd: %s\n", std::string(parsed.status().message()).c_str());
    return 2;
  }
  DaemonOptions& options = *parsed;
  if (options.help) return std::fputs(usage_text().c_str(), stdout), 0;
  if (options.version) return std::puts("pindaxd " PINDAX_VERSION), 0;
  if (::geteuid() == 0) options.allow_other = true;

  Readiness readiness;
  if (!options.foreground) readiness = Readiness::go_to_background();
  const Status status = run_daemon(options, readiness);
  if (status.ok()) return 0;
  if (!readiness.failed(status.message()))
    std::fprintf(stderr, "pindaxd: %s\n", std::string(status.message()).c_str());
  return 4;
}
