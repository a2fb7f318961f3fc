// SPDX-License-Identifier: BSD-3-Clause
//
// What `pindax info` prints of a mounted pool: the pool, its promise and its space, and what the daemon has counted.
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server/control_rows.h"

namespace pindax::control {

Result<Json> show_info(const Request& r) {
  FileSystem& fs = r.context.fs;
  const format::Superblock& sb = fs.superblock();
  std::string uuid;
  for (std::size_t i = 0; i < sizeof(sb.uuid); ++i)
    uuid += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", sb.uuid[i]);
  const auto* label = reinterpret_cast<const char*>(sb.label);
  PINDAX_ASSIGN(const struct statvfs space, fs.statfs());
  const SpaceSummary held = fs.allocator().summary();
  const Granularity g = fs.media().granularity();
  Json row{{"pool", r.context.options.pool != nullptr ? r.context.options.pool->path() : std::string("memory")},
           {"uuid", uuid},
           {"label", std::string(label, ::strnlen(label, sizeof(sb.label)))},
           {"mount_point", r.context.options.mount_point},
           {"socket", r.context.options.socket_path},
           {"daemon_pid", static_cast<u64>(::getpid())},
           {"granularity", granularity_name(g)},
           {"promise", granularity_promise(g)},
           {"sync_mode", fs.options().sync == SyncMode::kStrict ? "strict" : "posix"},
           {"policy", policy_name(fs.options().layout.policy)},
           {"size_bytes", u64{space.f_blocks} * space.f_frsize},
           {"free_bytes", u64{space.f_bfree} * space.f_frsize},
           {"quarantine_bytes", held.quarantine_blocks * kBlockSize},
           {"resting_bytes", held.resting_blocks * kBlockSize},
           {"punching_ms", held.punching_ms},
           {"inodes", static_cast<u64>(space.f_files)},
           {"free_inodes", static_cast<u64>(space.f_ffree)},
           {"format_version", sb.version.get()},
           {"clients", static_cast<u64>(r.context.sessions().size())}};
  const LayoutTotals totals = r.context.clients().totals();
  row["breaks"] = totals.breaks;
  row["breaks_that_waited"] = totals.waited;
  row["break_retries"] = totals.retries;
  row["scans"] = totals.scans;
  row["recalls"] = totals.recalls;
  row["lease_recalls"] = totals.lease_recalls;
  row["evictions"] = totals.evictions;
  row["evictions_refused"] = totals.evictions_refused;
  row["faults"] = totals.faults;
  row["pins_made"] = totals.pins;
  row["stuck_pins"] = r.context.stuck_pins.load();
  row["stuck_pins_ever"] = r.context.stuck_pins_ever.load();
  row["revoked"] = totals.revoked;
  if (r.context.options.pool != nullptr) row["pool_kind"] = pool_kind_name(r.context.options.pool->kind());
  return row;
}

}  // namespace pindax::control
