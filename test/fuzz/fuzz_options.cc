// SPDX-License-Identifier: BSD-3-Clause
//
// Options of the daemon: a command line and a comma list of any bytes.
// Promises: no crash; a refusal has a message on one line; what was accepted is accepted again.
#include "daemon/options.h"
#include "fuzz/input.h"

using namespace pindax;
using namespace pindax::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  Input in(data, size);
  const u8 how = in.byte();
  if (how % 2 == 0) {
    const std::string list(in.bytes(in.left()));
    DaemonOptions options;
    const Status s = add_mount_options(options, list);
    FUZZ_REQUIRE(s.ok() || (s.code() == Errc::kInvalid && !s.message().empty()), list);
    DaemonOptions again;
    FUZZ_REQUIRE(add_mount_options(again, list).ok() == s.ok(), list);
    FUZZ_REQUIRE(!s.ok() || (options.attr_timeout_s >= 0 && options.fs.commit_interval.count() >= 0), list);
    return 0;
  }
  std::vector<std::string> arguments;
  while (!in.empty()) arguments.emplace_back(in.text());
  const auto parsed = parse_arguments(arguments);
  if (!parsed.ok()) {
    FUZZ_REQUIRE(!parsed.status().message().empty(), "a refusal without a word");
  } else if (!parsed->help && !parsed->version) {
    FUZZ_REQUIRE(parsed->pool.starts_with('/'), parsed->pool);
    FUZZ_REQUIRE(parsed->mount_point.empty() || parsed->mount_point.starts_with('/'), parsed->mount_point);
  }
  return 0;
}
