// SPDX-License-Identifier: BSD-3-Clause
//
// pindax resize POOL: makes an unmounted pool larger.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/command.h"
#include "common/text.h"
#include "fs/resize.h"
#include "pmem/pool_media.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string pool;
  u64 size = 0;
  bool sparse = false, json = false;
};

Status lengthen(PoolMedia& media, u64 size, bool sparse) {
  if (media.kind() == PoolKind::kDevdax) return Status(Errc::kInvalid, "--size is for files; a device is used whole");
  if (size < media.size())
    return Status(Errc::kInvalid, fmt::format("the pool has {}: it can only grow", size_text(media.size())));
  const auto failed = [&](const char* what) {
    return Status(from_errno(errno), fmt::format("{}: {}: {}", media.path(), what, std::strerror(errno)));
  };
  const auto old = static_cast<off_t>(media.size());
  if (!sparse && ::fallocate(media.fd(), 0, old, static_cast<off_t>(size) - old) != 0 && size != media.size())
    return failed("cannot reserve space on the host (--sparse does without)");
  if (::ftruncate(media.fd(), static_cast<off_t>(size)) != 0) return failed("cannot make the file longer");
  return {};
}

Result<ResizeReport> resize(const Options& o) {
  {
    PINDAX_ASSIGN(const auto media, PoolMedia::open(o.pool, {}));
    PINDAX_ASSIGN(const auto holders, media->witnesses_held());
    if (!holders.empty())
      return Status(Errc::kBusy, fmt::format("{} former client(s) still map the pool: end them first", holders.size()));
    if (o.size != 0) PINDAX_TRY(lengthen(*media, round_down(o.size, kBlockSize), o.sparse));
  }
  PINDAX_ASSIGN(const auto media, PoolMedia::open(o.pool, {}));
  return grow_file_system(*media);
}

int run(const Options& o) {
  const auto report = resize(o);
  if (!report.ok()) return fail("resize", report.status());
  if (o.json)
    fmt::print("{{\"pool\": \"{}\", \"old_bytes\": {}, \"size_bytes\": {}}}\n", escape(o.pool), report->old_bytes, report->new_bytes);
  else if (report->new_bytes == report->old_bytes)
    fmt::print("{}: {}, as before\n", escape(o.pool), size_text(report->new_bytes));
  else
    fmt::print("{}: {}, grown from {}\n", escape(o.pool), size_text(report->new_bytes), size_text(report->old_bytes));
  return kDone;
}

}  // namespace

void add_resize(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("resize", "Make a pool that is not mounted larger");
  sub->add_option("POOL", o->pool, "file or device")->required();
  add_size(sub, "--size", o->size, "new size of the pool file (default: what the file or device has by now)");
  sub->add_flag("--sparse", o->sparse, "do not reserve the new space on the host");
  sub->add_flag("--json", o->json, "print an object");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
