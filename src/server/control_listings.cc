// SPDX-License-Identifier: BSD-3-Clause
//
// Who holds what, and who waits for whom. Rows of other users are counted, not shown, unless the caller is root or the
// mount's owner.
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <map>

#include "server/control.h"
#include "server/path_walk.h"

namespace pindax::control {

namespace {

constexpr std::size_t kMaxPageRows = 1u << 16;      // of one listing with "pages"
constexpr u64 kStuckAgeNs = 10'000'000'000;         // a transient pin this old is shown as stuck
constexpr std::size_t kMaxBlocksShown = 64;         // runs of blocks of one pin

const char* kind_name(u32 kind) {
  switch (static_cast<proto::PinKind>(kind & proto::kPinKindMask)) {
    case proto::PinKind::kTransient: return "transient";
    case proto::PinKind::kLease: return "lease";
    case proto::PinKind::kLongterm: return "longterm";
  }
  return "unknown";
}

const char* policy_name(BusyPolicy p) {
  switch (p) {
    case BusyPolicy::kInherit: return "inherit";
    case BusyPolicy::kWait: return "wait";
    case BusyPolicy::kRefuse: return "refuse";
    case BusyPolicy::kQuarantine: return "quarantine";
    case BusyPolicy::kEvict: return "evict";
  }
  return "unknown";
}

bool may_see(const Request& r, u32 uid) { return r.sees_all || uid == r.caller.uid; }

std::string path_of(const Request& r, InodeNo ino) {
  auto paths = r.context.fs.paths(ino, 1);
  return paths.empty() ? std::string() : std::move(paths.front());
}

Json blocks_of(const Request& r, InodeNo ino, ByteRange range) {
  Json blocks = Json::array();
  auto inode = r.context.fs.get(ino);
  if (!inode.ok()) return blocks;
  auto extents = r.context.fs.extents(**inode, block_aligned(range));
  if (!extents.ok()) return blocks;
  const u64 first = range.begin >> kBlockShift;
  const u64 last = blocks_for(range.end);
  for (const auto& e : *extents) {
    const u64 begin = std::max(e.file_block.value, first);
    const u64 end = std::min(e.file_end().value, last);
    if (begin >= end || blocks.size() >= kMaxBlocksShown) continue;
    blocks.push_back({{"block", e.block.value + (begin - e.file_block.value)}, {"length_blocks", end - begin}});
  }
  return blocks;
}

Json pin_row(const PinRow& pin) {
  return Json{{"inode", pin.ino.value},
              {"offset_bytes", pin.range.begin},
              {"length_bytes", pin.range.length()},
              {"pid", pin.client.pid},
              {"uid", pin.client.uid},
              {"command", pin.client.command},
              {"thread", pin.thread},
              {"kind", kind_name(pin.kind)},
              {"write", (pin.kind & proto::kPinWrite) != 0},
              {"age_ms", pin.age_ns / 1'000'000}};
}

bool is_stuck(const PinRow& pin) {
  return (pin.kind & proto::kPinKindMask) == static_cast<u32>(proto::PinKind::kTransient) && pin.age_ns > kStuckAgeNs;
}

struct PinFilter {
  std::optional<u64> inode, pid;
};

Result<PinFilter> pin_filter(const Request& r) {
  PinFilter filter{optional_number(r, "inode"), optional_number(r, "pid")};
  if (r.arguments.contains("path")) {
    PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
    PINDAX_ASSIGN(InodeRef inode, walk_existing(r.context.fs, r.caller, path, true));
    filter.inode = inode->ino.value;
  }
  return filter;
}

std::string hint_for(const ChangeRow& row) {
  if (row.waits_for.empty()) return "";
  const PinRow& holder = row.waits_for.front();
  switch (row.policy) {
    case BusyPolicy::kRefuse: return "it gives up with ETXTBSY at its deadline";
    case BusyPolicy::kEvict: return fmt::format("process {} is killed at the deadline", holder.client.pid);
    case BusyPolicy::kQuarantine: return "it goes on without the pinned blocks";
    default:
      return fmt::format("it goes on when process {} unpins; to end that process: kill {}", holder.client.pid,
                         holder.client.pid);
  }
}

}  // namespace

Result<Json> list_pins(const Request& r) {
  PINDAX_ASSIGN(const PinFilter filter, pin_filter(r));
  const auto pages_argument = r.arguments.find("pages");
  const bool pages = pages_argument != r.arguments.end() && pages_argument->is_boolean() && pages_argument->get<bool>();
  std::map<u64, ChangeRow> changes;
  for (auto& c : r.context.clients().list_changes()) changes.emplace(c.id, std::move(c));
  Json rows = Json::array();
  u64 hidden = 0;
  for (const PinRow& pin : r.context.clients().list_pins()) {
    if ((filter.inode && pin.ino.value != *filter.inode) || (filter.pid && pin.client.pid != *filter.pid)) continue;
    if (!may_see(r, pin.client.uid)) {
      ++hidden;
      continue;
    }
    Json row{{"path", path_of(r, pin.ino)}};
    row.update(pin_row(pin));
    row["stuck"] = is_stuck(pin);
    Json waited_by = Json::array();
    for (u64 id : pin.waiting_changes)
      if (auto it = changes.find(id); it != changes.end())
        waited_by.push_back({{"operation", it->second.operation},
                             {"pid", it->second.requester.pid},
                             {"command", it->second.requester.command},
                             {"waiting_ms", it->second.waiting_ns / 1'000'000}});
    row["waited_by"] = std::move(waited_by);
    if (!pages) {
      row["blocks"] = blocks_of(r, pin.ino, pin.range);
      rows.push_back(std::move(row));
      continue;
    }
    const ByteRange whole = block_aligned(pin.range);
    for (u64 at = whole.begin; at < whole.end && rows.size() < kMaxPageRows; at += kBlockSize) {
      row["offset_bytes"] = at;
      row["length_bytes"] = kBlockSize;
      row["blocks"] = blocks_of(r, pin.ino, {at, at + kBlockSize});
      rows.push_back(row);
    }
  }
  if (hidden != 0) rows.push_back({{"hidden_rows", hidden}});
  return rows;
}

Result<Json> list_clients(const Request& r) {
  struct Sums {
    u64 mappings = 0, mapped_bytes = 0, pins = 0;
  };
  std::map<u64, Sums> sums;
  for (const MappingRow& m : r.context.clients().list_mappings()) {
    ++sums[m.session].mappings;
    sums[m.session].mapped_bytes += m.granted_bytes;
  }
  for (const PinRow& pin : r.context.clients().list_pins()) ++sums[pin.client.session].pins;
  Json rows = Json::array();
  u64 hidden = 0;
  for (const auto& session : r.context.sessions()) {
    const Session::Summary s = session->summary();
    if (!s.attached) continue;  // a tool
    const ClientIdentity& who = session->identity();
    if (!may_see(r, who.uid)) {
      ++hidden;
      continue;
    }
    const Sums& sum = sums[who.session];
    Json row{{"session", who.session},
             {"pid", who.pid},
             {"uid", who.uid},
             {"command", who.command},
             {"direct", s.direct},
             {"mappings", sum.mappings},
             {"mapped_bytes", sum.mapped_bytes},
             {"pins", sum.pins},
             {"age_ms", s.age_ms},
             {"recalls_pending", s.queued_packets}};
    row["witness"] = s.witness >= 0 ? Json(s.witness) : Json(nullptr);
    rows.push_back(std::move(row));
  }
  if (hidden != 0) rows.push_back({{"hidden_rows", hidden}});
  return rows;
}

Result<Json> list_waiters(const Request& r) {
  Json rows = Json::array();
  u64 hidden = 0;
  for (const ChangeRow& c : r.context.clients().list_changes()) {
    if (!may_see(r, c.requester.uid)) {
      ++hidden;
      continue;
    }
    Json row{{"operation", c.operation},
             {"path", path_of(r, c.ino)},
             {"inode", c.ino.value},
             {"offset_bytes", c.range.begin},
             {"length_bytes", c.range.length()},
             {"pid", c.requester.pid},
             {"thread", c.requester.tid},
             {"uid", c.requester.uid},
             {"command", c.requester.command},
             {"policy", policy_name(c.policy)},
             {"phase", c.phase},
             {"waiting_ms", c.waiting_ns / 1'000'000},
             {"scans", c.scans},
             {"retries", c.retries}};
    row["busy_page_offset_bytes"] = c.waits_for.empty() ? Json(nullptr) : Json(round_down(c.busy_offset, kBlockSize));
    row["deadline_ms"] = c.deadline_ms;
    Json holders = Json::array();
    for (const PinRow& pin : c.waits_for)
      if (may_see(r, pin.client.uid)) holders.push_back(pin_row(pin));
    row["waits_for"] = std::move(holders);
    row["hint"] = hint_for(c);
    rows.push_back(std::move(row));
  }
  if (hidden != 0) rows.push_back({{"hidden_rows", hidden}});
  return rows;
}

Result<Json> show_layout(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(fs, r.caller, path, true));
  PINDAX_TRY(fs.access(*inode, R_OK, r.caller));
  PINDAX_ASSIGN(const Attributes a, fs.attributes(*inode));
  Json row{{"path", path}, {"inode", a.ino.value}, {"size_bytes", a.size_bytes}};
  PINDAX_ASSIGN(const auto extents, fs.extents(*inode, {0, u64{1} << 60}));
  Json list = Json::array();
  for (const auto& e : extents) {
    const char* state = e.state == format::ExtentState::kUnwritten ? "unwritten" : e.state == format::ExtentState::kProvisional
                                                                                      ? "provisional"
                                                                                      : "written";
    const u64 offset = e.file_block.value << kBlockShift;
    list.push_back({{"offset_bytes", offset},
                    {"length_bytes", u64{e.length} << kBlockShift},
                    {"block", e.block.value},
                    {"length_blocks", e.length},
                    {"state", state},
                    {"shared", e.shared},
                    {"huge_aligned", offset % kHugePageSize == block_offset(e.block).value % kHugePageSize}});
  }
  row["extents"] = std::move(list);
  std::map<u64, ClientIdentity> who;
  for (const auto& s : r.context.sessions()) who.emplace(s->id(), s->identity());
  Json mappings = Json::array();
  for (const MappingRow& m : r.context.clients().list_mappings()) {
    auto owner = who.find(m.session);
    if (m.ino != a.ino || owner == who.end() || !may_see(r, owner->second.uid)) continue;
    mappings.push_back({{"session", m.session},
                        {"pid", owner->second.pid},
                        {"uid", owner->second.uid},
                        {"command", owner->second.command},
                        {"offset_bytes", m.range.begin},
                        {"length_bytes", m.range.length()},
                        {"writable", m.writable},
                        {"granted_bytes", m.granted_bytes}});
  }
  row["mappings"] = std::move(mappings);
  Json pins = Json::array();
  for (const PinRow& pin : r.context.clients().list_pins())
    if (pin.ino == a.ino && may_see(r, pin.client.uid)) pins.push_back(pin_row(pin));
  row["pins"] = std::move(pins);
  return row;
}

Result<Json> show_info(const Request& r) {
  FileSystem& fs = r.context.fs;
  const format::Superblock& sb = fs.superblock();
  std::string uuid;
  for (std::size_t i = 0; i < sizeof(sb.uuid); ++i)
    uuid += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", sb.uuid[i]);
  const auto* label = reinterpret_cast<const char*>(sb.label);
  PINDAX_ASSIGN(const struct statvfs space, fs.statfs());
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
  if (r.context.options.pool != nullptr) row["pool_kind"] = pool_kind_name(r.context.options.pool->kind());
  return row;
}

}  // namespace pindax::control
