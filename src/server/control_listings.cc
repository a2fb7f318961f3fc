// SPDX-License-Identifier: BSD-3-Clause
//
// Who holds what, and who waits for whom. Rows of other users are counted, not shown, unless the caller is root or the
// mount's owner.
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <map>
#include <set>

#include "server/control.h"
#include "server/path_walk.h"

namespace pindax::control {

namespace {

constexpr std::size_t kMaxPageRows = 1u << 16;      // of one listing with "pages"
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

Json client_row(const ClientIdentity& who) {
  return Json{{"session", who.session}, {"pid", who.pid}, {"uid", who.uid}, {"command", who.command}};
}

Json pin_row(const PinRow& pin) {
  Json row{{"inode", pin.ino.value}, {"offset_bytes", pin.range.begin}, {"length_bytes", pin.range.length()}};
  row.update(client_row(pin.client));
  row["thread"] = pin.thread;
  row["kind"] = kind_name(pin.kind);
  row["write"] = (pin.kind & proto::kPinWrite) != 0;
  row["transferable"] = (pin.kind & proto::kPinTransferable) != 0;
  row["age_ms"] = pin.age_ns / 1'000'000;
  row["stuck"] = pin.stuck;
  row["asked_ms"] = pin.asked_ns < 0 ? Json(nullptr) : Json(pin.asked_ns / 1'000'000);
  return row;
}

// Paths by inode: one look each, whatever the number of rows.
class Paths {
 public:
  explicit Paths(const Request& r) : request_(r) {}
  const std::string& of(InodeNo ino) {
    const auto [at, fresh] = known_.try_emplace(ino.value);
    if (fresh) at->second = path_of(request_, ino);
    return at->second;
  }

 private:
  const Request& request_;
  std::map<u64, std::string> known_;
};

bool flag_argument(const Request& r, const char* key) {
  const auto at = r.arguments.find(key);
  return at != r.arguments.end() && at->is_boolean() && at->get<bool>();
}

struct PinFilter {
  std::optional<u64> inode, pid;
  std::string kind;
  bool waited = false, stuck = false;

  bool takes(const PinRow& pin) const {
    return (!inode || pin.ino.value == *inode) && (!pid || pin.client.pid == *pid) &&
           (kind.empty() || kind == kind_name(pin.kind)) && (!waited || !pin.waiting_changes.empty()) && (!stuck || pin.stuck);
  }
};

Result<PinFilter> pin_filter(const Request& r) {
  PinFilter filter{optional_number(r, "inode"), optional_number(r, "pid"), "", flag_argument(r, "waited"), flag_argument(r, "stuck")};
  if (r.arguments.contains("kind")) {
    PINDAX_ASSIGN(filter.kind, text_argument(r, "kind"));
  }
  if (r.arguments.contains("path")) {
    PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
    PINDAX_ASSIGN(InodeRef inode, walk_existing(r.context.fs, r.caller, path, true));
    filter.inode = inode->ino.value;
  }
  return filter;
}

// Where the pindax command finds this daemon.
std::string here(const Request& r) {
  const ServerOptions& o = r.context.options;
  return o.mount_point.empty() ? o.socket_path : o.mount_point;
}

// What ends the wait, in words; `commands` gets what to type.
std::string hint_for(const Request& r, const ChangeRow& row, Json& commands) {
  const ClientIdentity* holder = !row.waits_for.empty() ? &row.waits_for.front().client
                                 : !row.recalls.empty() ? &row.recalls.front().client
                                                        : nullptr;
  const bool shown = holder != nullptr && may_see(r, holder->uid);
  std::set<u64> sessions;
  for (const PinRow& pin : row.waits_for)
    if (may_see(r, pin.client.uid)) sessions.insert(pin.client.session);
  for (const RecallRow& recall : row.recalls)
    if (may_see(r, recall.client.uid)) sessions.insert(recall.client.session);
  if (!sessions.empty()) {
    std::string command = "pindax evict " + here(r);
    for (const u64 session : sessions) command += fmt::format(" --session {}", session);
    commands.push_back(std::move(command));
  }
  if (row.requester.pid != 0) commands.push_back(fmt::format("kill -INT {}", row.requester.tid != 0 ? row.requester.tid : row.requester.pid));
  std::string who = shown ? fmt::format("process {}", holder->pid) : "another user's process";
  if (sessions.size() > 1) who += fmt::format(" and {} more", sessions.size() - 1);
  if (!row.behind.empty()) return "it goes on when the change before it is done";
  if (!row.recalls.empty()) {
    const char* then = row.policy == BusyPolicy::kEvict ? "it is killed then" : row.quarantines ? "then the blocks are kept aside" : "then it fails";
    return fmt::format("it goes on when {} gives its translations back ({})", who, then);
  }
  if (row.waits_for_kernel) return "it goes on when the kernel has dropped its pages of the range";
  if (holder == nullptr) return row.phase == "queued" ? "it goes on when the operations before it are done" : "";
  switch (row.policy) {
    case BusyPolicy::kRefuse: return fmt::format("it goes on when {} unpins, and gives up with ETXTBSY at its deadline", who);
    case BusyPolicy::kEvict: return fmt::format("it goes on when {} unpins or is gone; at the deadline it is killed", who);
    case BusyPolicy::kQuarantine:
      return row.quarantines ? "at its deadline it goes on without the pinned blocks" : fmt::format("it goes on when {} unpins", who);
    default: return fmt::format("it goes on when {} unpins", who);
  }
}

}  // namespace

Result<Json> list_pins(const Request& r) {
  PINDAX_ASSIGN(const PinFilter filter, pin_filter(r));
  const bool pages = flag_argument(r, "pages");
  std::map<u64, ChangeRow> changes;
  for (auto& c : r.context.clients().list_changes()) changes.emplace(c.id, std::move(c));
  Json rows = Json::array();
  Paths paths(r);
  u64 hidden = 0;
  for (const PinRow& pin : r.context.clients().list_pins()) {
    if (!filter.takes(pin)) continue;
    if (!may_see(r, pin.client.uid)) {
      ++hidden;
      continue;
    }
    Json row{{"path", paths.of(pin.ino)}};
    row.update(pin_row(pin));
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
    u64 mappings = 0, mapped_bytes = 0, pins = 0, stuck = 0, recalls = 0;
  };
  std::map<u64, Sums> sums;
  for (const MappingRow& m : r.context.clients().list_mappings()) {
    Sums& sum = sums[m.session];
    ++sum.mappings;
    sum.mapped_bytes += m.granted_bytes;
    sum.recalls += m.recalls_pending;
  }
  for (const PinRow& pin : r.context.clients().list_pins()) {
    Sums& sum = sums[pin.client.session];
    ++sum.pins;
    sum.stuck += pin.stuck ? 1 : 0;
  }
  const auto pid = optional_number(r, "pid");
  Json rows = Json::array();
  u64 hidden = 0;
  for (const auto& session : r.context.sessions()) {
    const Session::Summary s = session->summary();
    const ClientIdentity& who = session->identity();
    if (!s.attached || (pid && who.pid != *pid)) continue;  // not attached: a tool
    if (!may_see(r, who.uid)) {
      ++hidden;
      continue;
    }
    const Sums& sum = sums[who.session];
    Json row = client_row(who);
    row["direct"] = s.direct;
    row["mappings"] = sum.mappings;
    row["mapped_bytes"] = sum.mapped_bytes;
    row["pins"] = sum.pins;
    row["stuck_pins"] = sum.stuck;
    row["age_ms"] = s.age_ms;
    row["recalls_pending"] = sum.recalls;
    row["queued_packets"] = s.queued_packets;
    row["witness"] = s.witness >= 0 ? Json(s.witness) : Json(nullptr);
    rows.push_back(std::move(row));
  }
  if (hidden != 0) rows.push_back({{"hidden_rows", hidden}});
  return rows;
}

Result<Json> list_waiters(const Request& r) {
  Json rows = Json::array();
  Paths paths(r);
  const auto pid = optional_number(r, "pid");
  std::optional<u64> inode;
  if (r.arguments.contains("path")) {
    PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
    PINDAX_ASSIGN(InodeRef found, walk_existing(r.context.fs, r.caller, path, true));
    inode = found->ino.value;
  }
  u64 hidden = 0;
  for (const ChangeRow& c : r.context.clients().list_changes()) {
    if ((pid && c.requester.pid != *pid) || (inode && c.ino.value != *inode)) continue;
    if (!may_see(r, c.requester.uid)) {
      ++hidden;
      continue;
    }
    Json row{{"operation", c.operation},
             {"path", paths.of(c.ino)},
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
    Json holders = Json::array(), recalls = Json::array();
    u64 hidden_holders = 0;
    for (const PinRow& pin : c.waits_for) {
      if (may_see(r, pin.client.uid)) holders.push_back(pin_row(pin));
      else ++hidden_holders;
    }
    for (const RecallRow& recall : c.recalls) {
      if (!may_see(r, recall.client.uid)) {
        ++hidden_holders;
        continue;
      }
      Json one = client_row(recall.client);
      one["offset_bytes"] = recall.range.begin;
      one["length_bytes"] = recall.range.length();
      one["age_ms"] = recall.age_ns / 1'000'000;
      one["deadline_ms"] = recall.deadline_ms;
      recalls.push_back(std::move(one));
    }
    row["waits_for"] = std::move(holders);
    row["recalls"] = std::move(recalls);
    row["waits_for_kernel"] = c.waits_for_kernel;
    row["id"] = c.id;
    row["behind"] = c.behind;
    row["hidden_holders"] = hidden_holders;
    Json commands = Json::array();
    row["hint"] = hint_for(r, c, commands);
    row["ends_with"] = std::move(commands);
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
                        {"direct", !m.indirect},
                        {"granted_bytes", m.granted_bytes},
                        {"recalls_pending", m.recalls_pending}});
  }
  row["mappings"] = std::move(mappings);
  Json pins = Json::array();
  for (const PinRow& pin : r.context.clients().list_pins())
    if (pin.ino == a.ino && may_see(r, pin.client.uid)) pins.push_back(pin_row(pin));
  row["pins"] = std::move(pins);
  return row;
}

// The owners that were found, with the clients that map or pin the bytes there.
Json describe_block(ServerContext& context, const FileSystem::OwnerScan& scan) {
  std::map<u64, ClientIdentity> who;
  for (const auto& s : context.sessions()) who.emplace(s->id(), s->identity());
  const auto mappings = context.clients().list_mappings();
  const auto pins = context.clients().list_pins();
  Json files = Json::array();
  for (const auto& owner : scan.owners) {
    auto paths = context.fs.paths(owner.ino, 1);
    const ByteRange there{owner.file_offset, owner.file_offset + (owner.run.length << kBlockShift)};
    Json clients = Json::array();
    for (const MappingRow& m : mappings) {
      const auto it = who.find(m.session);
      if (m.ino != owner.ino || !m.range.overlaps(there) || it == who.end()) continue;
      const bool pinned = std::any_of(pins.begin(), pins.end(), [&](const PinRow& p) {
        return p.ino == owner.ino && p.client.session == m.session && p.range.overlaps(there);
      });
      clients.push_back({{"session", m.session},
                         {"pid", it->second.pid},
                         {"uid", it->second.uid},
                         {"command", it->second.command},
                         {"writable", m.writable},
                         {"pinned", pinned}});
    }
    files.push_back({{"path", paths.empty() ? std::string() : std::move(paths.front())},
                     {"inode", owner.ino.value},
                     {"offset_bytes", owner.file_offset},
                     {"length_bytes", there.length()},
                     {"shared", owner.shared},
                     {"clients", std::move(clients)}});
  }
  return Json{{"block", scan.run.start.value}, {"length_blocks", scan.run.length}, {"bad", context.fs.allocator().first_bad(scan.run).has_value()}, {"owners", scan.owners.size()}, {"files", std::move(files)}};
}

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
  const SpaceSummary summary = fs.allocator().summary();
  row["quarantine_bytes"] = summary.quarantine_blocks * kBlockSize;
  row["resting_bytes"] = summary.resting_blocks * kBlockSize;
  row["bad_bytes"] = summary.bad_blocks * kBlockSize;
  row["retired_bytes"] = summary.retired_blocks * kBlockSize;
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
