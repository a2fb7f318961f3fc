// SPDX-License-Identifier: BSD-3-Clause
//
// Who holds what, and who waits for whom. Rows of other users are counted, not shown, unless the caller is root or the
// mount's owner.
#include <fmt/format.h>

#include <map>
#include <set>

#include "server/control_rows.h"
#include "server/path_walk.h"

namespace pindax::control {

namespace {

constexpr std::size_t kMaxPageRows = 1u << 16;      // of one listing with "pages"
constexpr std::size_t kMaxBlocksShown = 64;         // runs of blocks of one pin

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

// Paths by inode: one look each, whatever the number of rows.
class Paths {
 public:
  explicit Paths(const Request& r) : request_(r) {}
  const std::string& of(InodeNo ino) {
    const auto [at, fresh] = known_.try_emplace(ino.value);
    if (fresh) at->second = path_of(request_.context, ino);
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
    row["faults"] = !s.direct ? "mount" : s.faults_by_signals ? "signals" : "userfaultfd";
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

}  // namespace pindax::control
