// SPDX-License-Identifier: BSD-3-Clause
//
// pindax fsck POOL: checks, and with --repair repairs, a pool that nobody has mounted.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>

#include "common/command.h"
#include "common/daemon.h"
#include "common/text.h"
#include "daemon/mount_client.h"
#include "fsck/fsck.h"
#include "pmem/pool_media.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string pool;
  bool repair = false, json = false, quiet = false;
};

// Right after an unmount the daemon may need a moment to let go.
constexpr std::chrono::seconds kReleaseBound{10};

void print_finding(const FsckFinding& f) {
  fmt::print("{}: {}: {}: {}{}\n", fsck_severity_name(f.severity), f.structure, escape(f.where), escape(f.message),
             f.repaired ? " (repaired)" : "");
}

// One line on a terminal, rewritten; nothing elsewhere.
void print_progress(const FsckProgress& p) {
  const u64 percent = p.total != 0 ? p.done * 100 / p.total : 0;
  fmt::print(stderr, "\r\x1b[K{}: {}%", p.phase, percent);
}

Json to_json(const std::string& pool, const FsckReport& r) {
  Json rows = Json::array();
  for (const FsckFinding& f : r.findings)
    rows.push_back({{"severity", fsck_severity_name(f.severity)}, {"structure", f.structure}, {"where", f.where},
                    {"message", f.message}, {"repaired", f.repaired}});
  Json damaged = Json::array();
  for (const FsckReport::Damage& d : r.damage)
    damaged.push_back({{"path", d.path}, {"inode", d.inode}, {"offset_bytes", d.offset_bytes}, {"length_bytes", d.length_bytes}, {"block", d.block}});
  return {{"pool", pool},
          {"clean", r.findings_total == 0},
          {"findings", rows},
          {"findings_total", r.findings_total},
          {"unrepaired", r.unrepaired},
          {"modified", r.modified},
          {"inodes", r.inodes},
          {"directories", r.directories},
          {"files", r.files},
          {"symlinks", r.symlinks},
          {"others", r.others},
          {"used_bytes", r.used_blocks * kBlockSize},
          {"total_bytes", r.total_blocks * kBlockSize},
          {"bad_bytes", r.bad_blocks * kBlockSize},
          {"retired_bytes", r.retired_blocks * kBlockSize},
          {"damaged", std::move(damaged)},
          {"journal_records", r.journal_records}};
}

int run(const Options& o) {
  (void)wait_until_free(o.pool, kReleaseBound);
  auto media = PoolMedia::open(o.pool, {.read_only = !o.repair, .exclusive = true});
  if (!media.ok()) return fail("fsck", media.status());
  if (o.repair) {
    // D2: a process of a former daemon that still maps the pool would store into what a repair moves.
    auto held = (*media)->witnesses_held();
    if (!held.ok()) return fail("fsck", held.status());
    if (!held->empty())
      return fail("fsck", Status(Errc::kBusy, fmt::format("{}: {} processes still map the pool: end them, then repair", o.pool, held->size())));
  }
  FsckOptions options;
  options.repair = o.repair;
  const bool bar = !o.json && !o.quiet && ::isatty(STDERR_FILENO) != 0;
  if (bar) options.progress = print_progress;
  if (!o.json) options.found = [&](const FsckFinding& f) {
    if (bar) fmt::print(stderr, "\r\x1b[K");
    if (!o.quiet || f.severity != FsckSeverity::kNote) print_finding(f);
  };
  auto report = fsck(**media, options);
  if (bar) fmt::print(stderr, "\r\x1b[K");
  if (!report.ok()) return fail("fsck", report.status().with_context(o.pool));
  if (o.json) {
    fmt::print("{}\n", to_json(o.pool, *report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else if (!o.quiet) {
    fmt::print("{}: {}, {} files, {} directories, {} other inodes, {} of {} used{}{}\n", escape(o.pool),
               report->findings_total == 0 ? "clean"
               : report->unrepaired == 0   ? fmt::format("{} problems repaired", report->findings_total)
                                           : fmt::format("{} problems, {} of them not repaired{}", report->findings_total, report->unrepaired,
                                                         o.repair ? "" : " (use --repair)"),
               report->files, report->directories, report->symlinks + report->others, size_text(report->used_blocks * kBlockSize),
               size_text(report->total_blocks * kBlockSize),
               report->bad_blocks != 0 ? fmt::format(", {} bad ({} retired)", size_text(report->bad_blocks * kBlockSize),
                                                     size_text(report->retired_blocks * kBlockSize)) : "",
               report->journal_records != 0 ? fmt::format(", {} journal records replayed", report->journal_records) : "");
  }
  return report->exit_code();
}

}  // namespace

void add_fsck(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("fsck", "Check a pool that is not mounted, and repair it");
  sub->add_option("POOL", o->pool, "the pool's file or device")->required();
  sub->add_flag("--repair", o->repair, "repair what is found");
  sub->add_flag("--json", o->json, "print an object");
  sub->add_flag("--quiet", o->quiet, "print only damage");
  sub->footer("Exit codes: 0 clean, 1 problems found and all repaired, 2 usage, 4 problems left or failed.");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
