// SPDX-License-Identifier: BSD-3-Clause
//
// Break: gates and scans. The order is G3's: close, full fence (inside GateWriter), then read the slots.
#include "base/steps.h"
#include "layout/break.h"

namespace pindax {

// A1: the ticket is drawn and shown to the clients before the first gate closes: an episode that began later cannot look
// older than this break. G1: counted in once, whatever the number of sleeps; mappings that appear meanwhile are born with
// this closing (LayoutImpl::add_mapping).
void Break::close_gates() {
  MutexLock lock(inode_->mutex);
  if (counted_in_) return;
  core_.counts.breaks.fetch_add(1, std::memory_order_relaxed);
  ticket_ = core_.last_ticket.fetch_add(1) + 1;
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) { Core::publish_ticket(*m.client, ticket_); });
  PINDAX_STEP("break.ticket");
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) { m.gate.close(this, range_); });
  counted_in_ = true;
}

// Mappings of live clients over the range, by client. Removed ones are among them while pins name them (R7).
std::vector<Break::ScanTarget> Break::scan_targets() {
  std::vector<ScanTarget> targets;
  MutexLock lock(inode_->mutex);
  ++scans_;
  core_.counts.scans.fetch_add(1, std::memory_order_relaxed);
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
    if (m.client->gone.load() || (kind_ == Kind::kFill && m.indirect)) return;
    auto it = std::find_if(targets.begin(), targets.end(), [&](const ScanTarget& t) { return t.client == m.client; });
    if (it == targets.end()) it = targets.insert(targets.end(), ScanTarget{m.client, {}});
    it->mappings.push_back(m.shared_from_this());
  });
  return targets;
}

std::vector<Break::BusyPin> Break::scan_message_pins() {
  std::vector<BusyPin> busy;
  MutexLock lock(inode_->mutex);
  inode_->mappings.each_overlapping(range_, [&](Mapping& m) {
    if (m.client->gone.load() || (kind_ == Kind::kFill && m.indirect)) return;
    for (const auto& [id, p] : m.message_pins) {
      const ByteRange r = intersect(intersect(p.range, m.range), range_);
      if (r.empty()) continue;
      SeenPin pin;
      pin.thread = p.thread;
      pin.kind = p.kind;
      busy.push_back({m.shared_from_this(), pin, id, r});
    }
  });
  return busy;
}

// The predicate (R26, R13): a published pin whose range, clipped to its mapping, overlaps the break's. Without `mark`, stops at the
// first.
std::vector<Break::BusyPin> Break::scan_clients(const std::vector<ScanTarget>& targets, bool mark) {
  std::vector<BusyPin> busy;
  for (const ScanTarget& target : targets) {
    proto::Slot* slots = target.client->port->slots();
    scan_slots(*target.client->port, [&](const SeenPin& pin, bool& again) {
      if (target.client->gone.load()) return false;
      if (pin.unstable) {
        busy.push_back({nullptr, pin, 0, range_});
        return mark;
      }
      for (const auto& m : target.mappings) {
        if (m->id != pin.mapping) continue;
        const ByteRange r = intersect(intersect(pin.range, m->range), range_);
        if (r.empty()) continue;
        if (mark) {
          PINDAX_STEP("break.mark");
          if (!mark_awaited(slots, pin)) {  // U2: it may be another pin by now
            again = true;
            return true;
          }
        }
        busy.push_back({m, pin, 0, r});
        if (!mark) return false;
      }
      return true;
    });
    if (!mark && !busy.empty()) return busy;
  }
  return busy;
}

// Looks first and marks only if something is there: an idle range costs no registration. What counts is the second scan:
// it follows the registration, so the bell of every pin that it marks wakes this break (U2).
std::vector<Break::BusyPin> Break::scan() {
  stop_waiting();
  const std::vector<ScanTarget> targets = scan_targets();
  if (targets.empty()) return {};
  std::vector<BusyPin> busy = scan_message_pins();
  if (busy.empty()) busy = scan_clients(targets, false);
  if (busy.empty()) return busy;
  for (const ScanTarget& t : targets) {
    t.client->wait(shared_from_this());
    waits_on_.push_back(t.client);
  }
  PINDAX_STEP("break.registered");
  busy = scan_message_pins();
  std::vector<BusyPin> published = scan_clients(targets, true);
  busy.insert(busy.end(), std::make_move_iterator(published.begin()), std::make_move_iterator(published.end()));
  return busy;
}

void Break::stop_waiting() {
  for (const auto& client : waits_on_) client->stop_waiting(this);
  waits_on_.clear();
}

}  // namespace pindax
