// SPDX-License-Identifier: BSD-3-Clause
//
// What the command-line tools show. Snapshots: each row was true at some moment of the call.
#include "layout/layout_impl.h"

namespace pindax {
namespace {

std::vector<std::shared_ptr<Mapping>> mappings_of(ClientState& client) {
  std::vector<std::shared_ptr<Mapping>> all;
  MutexLock lock(client.mutex);
  for (const auto& [id, m] : client.mappings) all.push_back(m);
  return all;
}

PinRow pin_row(const Mapping& m, ByteRange range, u32 thread, u32 kind, u64 since_ns) {
  PinRow row;
  row.ino = m.inode->ino;
  row.range = range;
  row.client = m.client->port->identity();
  row.thread = thread;
  row.kind = kind;
  const u64 now = monotonic_ns();
  row.age_ns = now > since_ns ? now - since_ns : 0;
  return row;
}

std::vector<PinRow> pins_of(ClientState& client) {
  std::vector<PinRow> rows;
  if (client.gone.load()) return rows;
  const auto mappings = mappings_of(client);
  for (const auto& m : mappings) {
    MutexLock lock(m->inode->mutex);
    for (const auto& [id, p] : m->message_pins) rows.push_back(pin_row(*m, p.range, p.thread, p.kind, p.since_ns));
  }
  scan_slots(*client.port, [&](const SeenPin& pin, bool&) {
    if (pin.unstable) return true;
    for (const auto& m : mappings) {
      const ByteRange r = intersect(pin.range, m->range);
      if (m->id == pin.mapping && !r.empty()) rows.push_back(pin_row(*m, r, pin.thread, pin.kind, pin.since_ns));
    }
    return true;
  });
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
    auto of_client = pins_of(*client);
    rows.insert(rows.end(), of_client.begin(), of_client.end());
  }
  for (const auto& b : operations()) {
    if (b->kind() == Break::Kind::kFault || b->row().phase != "waiting for pins") continue;
    for (PinRow& row : rows)
      if (row.ino == b->inode().ino && row.range.overlaps(b->range())) row.waiting_changes.push_back(b->id());
  }
  return rows;
}

std::vector<ChangeRow> LayoutImpl::list_changes() {
  std::vector<ChangeRow> rows;
  const std::vector<PinRow> pins = list_pins();
  for (const auto& b : operations()) {
    rows.push_back(b->row());
    for (const PinRow& pin : pins)
      if (std::find(pin.waiting_changes.begin(), pin.waiting_changes.end(), b->id()) != pin.waiting_changes.end())
        rows.back().waits_for.push_back(pin);
  }
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
      MutexLock lock(m->inode->mutex);
      if (m->removed) continue;
      m->granted.each(m->range, [&](ByteRange r, const Mapping::Granted& g) {
        if (!g.hole) row.granted_bytes += r.length();
        return true;
      });
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace pindax
