// SPDX-License-Identifier: BSD-3-Clause
//
// pindax defrag FILE|DIRECTORY: makes files contiguous and aligned to 2 MiB, while they are in use. The daemon moves a chunk at a
// time; this command goes from chunk to chunk and from file to file, and names what was pinned.
#include <fmt/format.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <limits>

#include "common/command.h"
#include "common/daemon.h"
#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string path;
  u64 wait_ms = 0;
  bool json = false, quiet = false;
};

struct File {
  std::string path;   // as shown
  std::string inner;  // inside the file system
  u64 size_bytes = 0;
};

struct Totals {
  u64 files = 0, moved_bytes = 0, busy_chunks = 0, no_room_bytes = 0, failed = 0;
  Json busy = Json::array();
};

std::vector<File>* found_files = nullptr;

int visit(const char* path, const struct stat* st, int type, struct FTW*) {
  if (type == FTW_F && S_ISREG(st->st_mode) && st->st_blocks != 0) found_files->push_back({path, {}, static_cast<u64>(st->st_size)});
  return 0;
}

// Regular files below `path`, or it alone; one device only.
Result<std::vector<File>> list_files(const std::string& path) {
  std::vector<File> files;
  found_files = &files;
  if (::nftw(path.c_str(), visit, 64, FTW_PHYS | FTW_MOUNT) != 0) return Status(Errc::kIo, "cannot walk " + path);
  for (File& f : files) {
    PINDAX_ASSIGN(auto inner, split_mounted_path(f.path));
    f.inner = inner.inner;
  }
  return files;
}

class Progress {
 public:
  Progress(const Options& o, u64 total_bytes) : on_(!o.json && !o.quiet && ::isatty(STDERR_FILENO) == 1), total_(total_bytes) {}
  ~Progress() {
    if (on_) fmt::print(stderr, "\r\033[K");
  }
  void show(u64 done_bytes, const std::string& name) const {
    if (!on_) return;
    constexpr u64 kWidth = 30;
    const u64 part = total_ == 0 ? kWidth : std::min(done_bytes, total_) * kWidth / total_;
    const std::string file = escape(name).substr(0, 40);
    fmt::print(stderr, "\r[{:<{}}] {} of {}  {}\033[K", std::string(part, '#'), kWidth, size_text(std::min(done_bytes, total_)), size_text(total_), file);
    std::fflush(stderr);
  }

 private:
  const bool on_;
  const u64 total_;
};

// Once over the file.
Status pass(Daemon& daemon, const Options& o, const File& file, u64 done_before, const Progress& progress, Totals& totals) {
  bool was_busy = false;
  for (u64 at = 0; at != std::numeric_limits<u64>::max();) {
    PINDAX_ASSIGN(const Json step, daemon.control({{"op", "defragment"}, {"path", file.inner}, {"offset_bytes", at}, {"wait_ms", o.wait_ms}}));
    const u64 next = number_field(step, "next_bytes");
    if (next <= at) return Status(Errc::kProtocol, "the daemon does not get on");
    at = next;
    totals.moved_bytes += number_field(step, "moved_bytes");
    totals.no_room_bytes += number_field(step, "no_room_bytes");
    if (step.value("busy", false)) {
      ++totals.busy_chunks;
      was_busy = true;
    }
    progress.show(done_before + std::min(at, file.size_bytes), file.path);
  }
  if (was_busy) totals.busy.push_back(file.path);
  return {};
}

// Very many fragments go together 2 MiB at a time first, and these by another pass.
Status defragment(Daemon& daemon, const Options& o, const File& file, u64 done_before, const Progress& progress, Totals& totals) {
  constexpr int kPasses = 3;
  ++totals.files;
  for (int i = 0; i < kPasses; ++i) {
    const u64 moved = totals.moved_bytes, busy = totals.busy_chunks, no_room = totals.no_room_bytes;
    PINDAX_TRY(pass(daemon, o, file, done_before, progress, totals));
    if (totals.moved_bytes == moved || totals.busy_chunks != busy || i + 1 == kPasses) break;
    totals.no_room_bytes = no_room;  // the last pass tells
  }
  return {};
}

int run(const Options& o) {
  auto mount = split_mounted_path(o.path);
  if (!mount.ok()) return fail("defrag", mount.status());
  auto daemon = Daemon::connect(mount->mount_point);
  if (!daemon.ok()) return fail("defrag", daemon.status());
  auto files = list_files(o.path);
  if (!files.ok()) return fail("defrag", files.status());
  u64 total = 0, done = 0;
  for (const File& f : *files) total += f.size_bytes;
  Totals totals;
  {
    const Progress progress(o, total);
    for (const File& f : *files) {
      progress.show(done, f.path);
      const Status s = defragment(*daemon, o, f, done, progress, totals);
      done += f.size_bytes;
      if (s.ok() || s.code() == Errc::kNotFound || s.code() == Errc::kStale) continue;  // removed meanwhile
      ++totals.failed;
      (void)fail("defrag", s.with_context(escape(f.path)));
    }
  }
  if (o.json) {
    fmt::print("{}\n", Json{{"files", totals.files}, {"moved_bytes", totals.moved_bytes}, {"no_room_bytes", totals.no_room_bytes},
                            {"busy_chunks", totals.busy_chunks}, {"busy", totals.busy}, {"failed", totals.failed}}.dump());
  } else {
    for (const Json& name : totals.busy)
      fmt::print("{}: pinned, left as it is in part; see pindax pins, or --wait\n", escape(name.get<std::string>()));
    if (totals.no_room_bytes != 0) fmt::print("{} found no free run that is large enough\n", size_text(totals.no_room_bytes));
    if (!o.quiet) fmt::print("{} files, {} moved\n", totals.files, size_text(totals.moved_bytes));
  }
  if (totals.failed != 0) return kFailed;
  return totals.busy_chunks != 0 ? kFoundSomething : kDone;
}

}  // namespace

void add_defrag(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("defrag", "Make files contiguous and aligned to 2 MiB; exit code 1: something was pinned");
  sub->add_option("PATH", o->path, "a file or a directory on a mount")->required();
  add_duration(sub, "--wait", o->wait_ms, "how long to wait for pins, each time (0)");
  sub->add_flag("--json", o->json, "print JSON");
  sub->add_flag("-q,--quiet", o->quiet, "no progress bar, no summary");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
