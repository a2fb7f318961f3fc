// SPDX-License-Identifier: BSD-3-Clause
//
// pindax dump POOL [WHAT [N]]: what stands on media. Reads only, also while the pool is mounted (then as of a moment ago).
#include <fmt/format.h>

#include <map>

#include "common/command.h"
#include "common/text.h"
#include "fsck/dump.h"
#include "pmem/pool_media.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string pool, what = "superblock";
  u64 number = 0;
  bool json = false;
};

using DumpJson = ::pindax::Json;
using Shower = std::function<Result<DumpJson>(Dump&, u64)>;

const std::map<std::string, Shower>& showers() {
  static const std::map<std::string, Shower> kShowers = {
      {"superblock", [](Dump& d, u64) -> Result<DumpJson> { return d.superblock(); }},
      {"journal", [](Dump& d, u64) -> Result<DumpJson> { return d.journal(); }},
      {"state", [](Dump& d, u64) -> Result<DumpJson> { return d.state(); }},
      {"groups", [](Dump& d, u64) -> Result<DumpJson> { return d.groups(); }},
      {"group", [](Dump& d, u64 n) { return d.group(static_cast<u32>(n)); }},
      {"free", [](Dump& d, u64 n) { return d.free_runs(static_cast<u32>(n)); }},
      {"inode", [](Dump& d, u64 n) { return d.inode(InodeNo(n)); }},
      {"extents", [](Dump& d, u64 n) { return d.extents(InodeNo(n)); }},
      {"directory", [](Dump& d, u64 n) { return d.directory(InodeNo(n)); }},
      {"xattrs", [](Dump& d, u64 n) { return d.xattrs(InodeNo(n)); }},
      {"parents", [](Dump& d, u64 n) { return d.parents(InodeNo(n)); }},
      {"orphans", [](Dump& d, u64) -> Result<DumpJson> { return d.orphans(); }},
      {"quarantine", [](Dump& d, u64) -> Result<DumpJson> { return d.quarantine(); }},
      {"badblocks", [](Dump& d, u64) -> Result<DumpJson> { return d.bad_blocks(); }},
      {"shares", [](Dump& d, u64) -> Result<DumpJson> { return d.shares(); }},
      {"block", [](Dump& d, u64 n) { return d.block(BlockNo(n)); }},
  };
  return kShowers;
}

std::string names() {
  std::string text;
  for (const auto& [name, shower] : showers()) text += (text.empty() ? "" : ", ") + name;
  return text;
}

int run(const Options& o) {
  auto shower = showers().find(o.what);
  if (shower == showers().end()) return usage("dump", fmt::format("'{}' is none of {}", o.what, names()));
  auto media = PoolMedia::open(o.pool, {.read_only = true, .exclusive = false});
  if (!media.ok()) return fail("dump", media.status());
  auto dump = Dump::open(**media);
  if (!dump.ok()) return fail("dump", dump.status().with_context(o.pool));
  auto shown = shower->second(**dump, o.number);
  if (!shown.ok()) return fail("dump", shown.status());
  const std::string text =
      o.json ? shown->dump(2, ' ', false, DumpJson::error_handler_t::replace) + "\n" : render_dump(*shown);
  fmt::print("{}", text);
  return kDone;
}

}  // namespace

void add_dump(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("dump", "Show what stands on media");
  sub->add_option("POOL", o->pool, "the pool's file or device")->required();
  sub->add_option("WHAT", o->what, names())->capture_default_str();
  sub->add_option("N", o->number, "number of the inode, block or allocation group");
  sub->add_flag("--json", o->json, "print JSON");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
