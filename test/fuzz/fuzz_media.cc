// SPDX-License-Identifier: BSD-3-Clause
//
// The media parser: a pool with damaged structures is checked, mounted, walked, changed, repaired and mounted again.
// Promises: no crash and no hang; a check without repair stores nothing; what a repair calls whole can be mounted.
#include "fsck/dump.h"
#include "fsck/fsck.h"
#include "fuzz/pool.h"

using namespace pindax;
using namespace pindax::fuzz;

namespace {

void check_only(Pool& pool) {
  MediaLog log;
  pool.media().record(&log);
  (void)fsck(pool.media(), {});
  pool.media().record(nullptr);
  for (const MediaEvent& e : log.events)
    FUZZ_REQUIRE(e.kind != MediaEvent::Kind::kStore && e.kind != MediaEvent::Kind::kStoreNt, "a check stores");
}

void dump(Pool& pool, Input& in) {
  auto dump = Dump::open(pool.media());
  if (!dump.ok()) return;
  Dump& d = **dump;
  std::string text = render_dump(d.superblock()) + render_dump(d.journal()) + render_dump(d.state()) +
                     render_dump(d.groups()) + render_dump(d.orphans()) + render_dump(d.quarantine());
  if (auto run = d.free_runs(0); run.ok()) text += render_dump(*run);
  for (int i = 0; i < 6; ++i) {
    const u64 block = pool.pick_structure(in);
    if (auto shown = d.block(BlockNo(block)); shown.ok()) text += render_dump(*shown);
    const InodeNo ino(block * format::kInodesPerBlock + static_cast<u64>(i));
    for (const auto& part : {d.inode(ino), d.extents(ino), d.directory(ino), d.xattrs(ino), d.parents(ino)})
      if (part.ok()) text += render_dump(*part);
  }
}

void use(Pool& pool, Input& in, u8 how) {
  auto fs = mount(pool.media(), {.read_only = (how & 1) != 0, .same_boot = (how & 2) == 0, .posix = (how & 4) != 0});
  if (!fs) return;
  walk(*fs);
  change(*fs, in);
  walk(*fs);
  end(std::move(fs), (how & 8) != 0);
}

void repair(Pool& pool, Input& in) {
  FsckOptions options;
  options.repair = true;
  (void)fsck(pool.media(), options);
  const auto second = fsck(pool.media(), options);
  if (!second.ok() || second->unrepaired != 0) return;
  const auto third = fsck(pool.media(), {});
  FUZZ_REQUIRE(third.ok(), third.status().message());
  for (const auto& f : third->findings)
    FUZZ_REQUIRE(f.severity == FsckSeverity::kNote, f.structure + " " + f.where + ": " + f.message);
  Status why;
  auto fs = mount(pool.media(), {}, &why);
  if (why.code() == Errc::kIncompatible) return;  // features that a newer version may have set: nothing to repair
  FUZZ_REQUIRE(fs != nullptr, why.message());
  walk(*fs);
  change(*fs, in);
  end(std::move(fs), false);
  const auto fourth = fsck(pool.media(), {});
  FUZZ_REQUIRE(fourth.ok(), fourth.status().message());
  for (const auto& f : fourth->findings)
    FUZZ_REQUIRE(f.severity == FsckSeverity::kNote, f.structure + " " + f.where + ": " + f.message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static Pool clean(Left::kClean), killed(Left::kKilled);
  Input in(data, size);
  const u8 how = in.byte();
  Pool& pool = (how & 0x10) != 0 ? killed : clean;
  pool.revert();
  for (u64 n = 1 + in.below(8); n > 0; --n) pool.edit(in);
  check_only(pool);
  dump(pool, in);
  if ((how & 0x20) != 0) use(pool, in, how);
  repair(pool, in);
  return 0;
}
