// SPDX-License-Identifier: BSD-3-Clause
//
// pindax scrub MNT: reads all that is allocated in a mounted pool, to find bad blocks before somebody needs them, and says what they
// have destroyed. The daemon reads a piece at a time; this command goes from piece to piece, and may be ended at any moment.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "common/command.h"
#include "common/daemon.h"
#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string where;
  bool json = false, quiet = false;
};

void show_progress(u64 done_blocks, u64 all_blocks) {
  constexpr u64 kWidth = 30;
  const u64 part = all_blocks == 0 ? kWidth : std::min(done_blocks, all_blocks) * kWidth / all_blocks;
  fmt::print(stderr, "\r[{:<{}}] {} of {}\033[K", std::string(part, '#'), kWidth, size_text(done_blocks * kBlockSize), size_text(all_blocks * kBlockSize));
  std::fflush(stderr);
}

// Everything there is to say: totals, and the daemon's list of damage.
Result<Json> scrub(Daemon& daemon, bool bar) {
  u64 read_bytes = 0, found = 0;
  Json list_error;
  for (u64 at = 0;;) {
    PINDAX_ASSIGN(const Json step, daemon.control({{"op", "scrub"}, {"from_block", at}}));
    read_bytes += number_field(step, "read_bytes");
    found += number_field(step, "found_blocks") + number_field(step, "listed_blocks");
    if (step.contains("list_error")) list_error = step["list_error"];
    const u64 next = number_field(step, "next_block");
    if (bar) show_progress(next, number_field(step, "pool_blocks"));
    if (step.value("done", false)) break;
    if (next <= at) return Status(Errc::kProtocol, "the daemon does not get on");
    at = next;
  }
  PINDAX_ASSIGN(const Json damage, daemon.control({{"op", "damage"}}));
  Json result{{"read_bytes", read_bytes}, {"found_bytes", found * kBlockSize}};
  if (!list_error.is_null()) result["list_error"] = list_error;
  result.update(damage);
  return result;
}

int run(const Options& o) {
  auto daemon = Daemon::connect(o.where);
  if (!daemon.ok()) return fail("scrub", daemon.status());
  const bool bar = !o.json && !o.quiet && ::isatty(STDERR_FILENO) == 1;
  auto result = scrub(*daemon, bar);
  if (bar) fmt::print(stderr, "\r\033[K");
  if (!result.ok()) return fail("scrub", result.status());
  const Json damaged = result->value("damaged", Json::array()), metadata = result->value("damaged_metadata_blocks", Json::array());
  if (o.json) {
    fmt::print("{}\n", result->dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    if (result->contains("list_error") && !o.quiet) fmt::print("note: {}\n", escape((*result)["list_error"].get<std::string>()));
    for (const Json& d : damaged) {
      const std::string path = d.value("path", std::string());
      fmt::print("{}: {} at offset {} are lost (block {})\n", path.empty() ? fmt::format("inode {}", number_field(d, "inode")) : escape(path),
                 size_text(number_field(d, "length_bytes")), number_field(d, "offset_bytes"), number_field(d, "block"));
    }
    for (const Json& block : metadata) fmt::print("block {}: bad, holds no bytes of a file: run pindax fsck when the pool is unmounted\n", block.dump());
    if (!o.quiet)
      fmt::print("{} read, {} found bad; {} bad altogether, {} of them retired\n", size_text(number_field(*result, "read_bytes")),
                 size_text(number_field(*result, "found_bytes")), size_text(number_field(*result, "bad_bytes")), size_text(number_field(*result, "retired_bytes")));
  }
  return damaged.empty() && metadata.empty() ? kDone : kFoundSomething;
}

}  // namespace

void add_scrub(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("scrub", "Read everything in a mounted pool, to find bad blocks; exit code 1: something is lost");
  sub->add_option("MNT", o->where, "a mount point, or a daemon's socket")->required();
  sub->add_flag("--json", o->json, "print JSON");
  sub->add_flag("-q,--quiet", o->quiet, "no progress bar, only what is lost");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
