// SPDX-License-Identifier: BSD-3-Clause
//
// What the command-line tools show. Snapshots: each row was true at some moment of the call. Costs grow with the pins and with the
// operations of the files that are pinned, not with their product.
#include <unordered_map>

#include "base/clock.h"
#include "layout/layout_impl.h"
#include "layout/slow_pin.h"

namespace pindax {
namespace {

std::vector<std::shared_ptr<Mapping>> mappings_of(ClientState& client) {
  std::vector<std::shared_ptr<Mapping>> all;
  MutexLock lock(client.mutex);
  for (const auto& [id, m] : client.mappings) all.push_back(m);
  return all;
}

PinRow pin_row(const Mapping& m, ByteRange range, u32 thread, u32 kind, u64 since_ns, const ClientState::AskedLease& asked) {
  PinRow row;
  row.ino = m.inode->ino;
  row.range = range;
  row.client = m.client->port->identity();
  row.thread = thread;
  row.kind = kind;
  const u64 now = monotonic_ns();
  row.age_ns = now > since_ns ? now - since_ns : 0;
  const LayoutOptions& o = m.inode->core->options;
  const auto pin_kind = static_cast<proto::PinKind>(kind & proto::kPinKindMask);
  if (pin_kind == proto::PinKind::kTransient)
    row.stuck = row.age_ns > static_cast<u64>(std::chrono::nanoseconds(o.stuck_after).count());
  if (asked.since != Clock::time_point()) {
    const auto ago = Clock::now() - asked.since;
    row.asked_ns = std::chrono::nanoseconds(ago).count();
    row.stuck = pin_kind == proto::PinKind::kLease && ago > o.lease_deadline;
  }
  return row;
}

// `stuck_only`: no more than what is needed to find those.
std::vector<PinRow> pins_of(ClientState& client, const LayoutOptions& options, bool stuck_only) {
  std::vector<PinRow> rows;
  if (client.gone.load()) return rows;
  const auto mappings = mappings_of(client);
  std::unordered_map<u32, std::vector<Mapping*>> by_id;
  for (const auto& m : mappings) {
    by_id[m->id].push_back(m.get());
    MutexLock lock(m->inode->mutex);
    for (const auto& [id, p] : m->message_pins) {
      rows.push_back(pin_row(*m, p.range, p.thread, p.kind, p.since_ns, p.asked));
      rows.back().publication = id;
    }
  }
  std::map<u32, ClientState::AskedLease> asked;
  {
    MutexLock lock(client.mutex);
    asked = client.asked_leases;
  }
  const u64 now = monotonic_ns();
  const auto stuck_after = static_cast<u64>(std::chrono::nanoseconds(options.stuck_after).count());
  scan_slots(*client.port, [&](const SeenPin& pin, bool&) {
    const auto at = by_id.find(pin.mapping);
    if (pin.unstable || at == by_id.end()) return true;
    const auto lease = asked.find(pin.slot);
    const bool was_asked = lease != asked.end() && lease->second.state == pin.state;
    if (stuck_only && !was_asked && now < pin.since_ns + stuck_after) return true;
    for (const Mapping* m : at->second) {
      const ByteRange r = intersect(pin.range, m->range);
      if (r.empty()) continue;
      rows.push_back(pin_row(*m, r, pin.thread, pin.kind, pin.since_ns,
                             was_asked ? lease->second : ClientState::AskedLease{}));
      rows.back().slot = pin.slot;
      rows.back().publication = pin.state;
    }
    return true;
  });
  if (stuck_only) std::erase_if(rows, [](const PinRow& row) { return !row.stuck; });
  return rows;
}

}  // namespace

std::vector<std::shared_ptr<Break>> LayoutImpl::operations() {
  std::vector<std::shared_ptr<Break>> all;
  MutexLock lock(core_->mutex);
  for (const auto& [id, b] : core_->operations)
    if (auto strong = b->weak_from_this().lock()) all.push_back(std::move(strong));
  return all;
}

std::vector<PinRow> LayoutImpl::list_pins() {
  std::vector<PinRow> rows;
  for (const auto& client : core_->all_clients()) {
    auto of_client = pins_of(*client, core_->options, false);
    rows.insert(rows.end(), std::make_move_iterator(of_client.begin()), std::make_move_iterator(of_client.end()));
  }
  std::unordered_map<u64, std::vector<std::pair<ByteRange, u64>>> waiting;  // by inode
  for (const auto& b : operations())
    if (b->kind() != Break::Kind::kFault && b->row().phase == "waiting for pins")
      waiting[b->inode().ino.value].emplace_back(b->range(), b->id());
  if (waiting.empty()) return rows;
  for (PinRow& row : rows) {
    const auto at = waiting.find(row.ino.value);
    if (at == waiting.end()) continue;
    for (const auto& [range, id] : at->second)
      if (row.range.overlaps(range)) row.waiting_changes.push_back(id);
  }
  return rows;
}

std::vector<PinRow> LayoutImpl::list_stuck_pins() {
  std::vector<PinRow> rows;
  for (const auto& client : core_->all_clients()) {
    auto of_client = pins_of(*client, core_->options, true);
    rows.insert(rows.end(), std::make_move_iterator(of_client.begin()), std::make_move_iterator(of_client.end()));
  }
  return rows;
}

std::vector<ChangeRow> LayoutImpl::list_changes() {
  std::vector<ChangeRow> rows;
  std::unordered_map<u64, std::size_t> by_id;
  for (const auto& b : operations()) {
    by_id.emplace(b->id(), rows.size());
    rows.push_back(b->row());
    rows.back().recalls = b->recall_rows();
  }
  std::unordered_map<InodeLayout*, std::shared_ptr<InodeLayout>> mapped;
  for (const auto& client : core_->all_clients())
    for (const auto& m : mappings_of(*client)) mapped.emplace(m->inode.get(), m->inode);
  for (const auto& [key, inode] : mapped) {
    MutexLock lock(inode->mutex);
    for (const auto& p : inode->queued_pins) rows.push_back(p->row());
  }
  for (const PinRow& pin : list_pins())
    for (const u64 id : pin.waiting_changes)
      if (const auto at = by_id.find(id); at != by_id.end()) rows[at->second].waits_for.push_back(pin);
  return rows;
}

std::vector<MappingRow> LayoutImpl::list_mappings() {
  std::vector<MappingRow> rows;
  for (const auto& client : core_->all_clients()) {
    for (const auto& m : mappings_of(*client)) {
      MappingRow row;
      row.ino = m->inode->ino;
      row.session = client->port->identity().session;
      row.mapping = m->id;
      row.range = m->range;
      row.writable = m->writable;
      row.indirect = m->indirect;
      MutexLock lock(m->inode->mutex);
      if (m->removed) continue;
      row.recalls_pending = m->pending.size();
      m->granted.each(m->range, [&](ByteRange r, const Mapping::Granted& g) {
        if (!g.hole) row.granted_bytes += r.length();
        return true;
      });
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

LayoutTotals LayoutImpl::totals() const {
  const Core::Counts& c = core_->counts;
  LayoutTotals t;
  t.breaks = c.breaks.load();
  t.waited = c.waited.load();
  t.retries = c.retries.load();
  t.scans = c.scans.load();
  t.recalls = c.recalls.load();
  t.revoked = c.revoked.load();
  t.lease_recalls = c.lease_recalls.load();
  t.evictions = c.evictions.load();
  t.evictions_refused = c.evictions_refused.load();
  t.faults = c.faults.load();
  t.pins = c.pins_of_the_gone.load();
  for (const auto& client : core_->all_clients())
    if (!client->gone.load()) t.pins += published_pins(*client->port);
  return t;
}

}  // namespace pindax
