// SPDX-License-Identifier: BSD-3-Clause
#include "layout/core.h"

#include "base/steps.h"
#include "layout/break.h"
#include "layout/slow_pin.h"

namespace pindax {

void ClientState::wait(const std::shared_ptr<Wakeable>& who) {
  MutexLock lock(mutex);
  waiting_.emplace(who.get(), who);
}

void ClientState::stop_waiting(Wakeable* who) {
  MutexLock lock(mutex);
  waiting_.erase(who);
}

void ClientState::wake_all() {
  std::vector<std::shared_ptr<Wakeable>> all;
  {
    MutexLock lock(mutex);
    for (const auto& [who, weak] : waiting_)
      if (auto strong = weak.lock()) all.push_back(std::move(strong));
  }
  for (const auto& who : all) who->wake();
}

bool ClientState::time_to_poll(Clock::time_point now, Clock::duration period) {
  MutexLock lock(mutex);
  if (now < next_poll_) return false;
  next_poll_ = now + period;
  return true;
}

bool ClientState::admit_longterm(const LongtermPin& pin, u64 quota_bytes) {
  const auto fits = [&]() REQUIRES(mutex) { return longterm_bytes_ <= quota_bytes && pin.bytes <= quota_bytes - longterm_bytes_; };
  if (!fits() || longterm_.size() >= 2 * longterm_kept_ + 64) {
    std::erase_if(longterm_, [&](const LongtermPin& p) REQUIRES(mutex) {
      const bool lasts = p.message_pin != 0 ? message_pins.contains(p.message_pin)
                                            : (port->slots()[p.slot].state.load() & ~proto::kSlotAwaited) == p.state;
      if (!lasts) longterm_bytes_ -= p.bytes;
      return !lasts;
    });
    longterm_kept_ = longterm_.size();
  }
  if (!fits()) return false;
  longterm_.push_back(pin);
  longterm_bytes_ += pin.bytes;
  return true;
}

void Core::publish_ticket(ClientState& client, u64 ticket) {
  proto::GateHeader* header = client.port->gate_header();
  if (header == nullptr) return;
  u64 shown = header->ticket.load(std::memory_order_relaxed);
  while (shown < ticket && !header->ticket.compare_exchange_weak(shown, ticket, std::memory_order_seq_cst)) {
  }
}

std::shared_ptr<ClientState> Core::find(ClientPort& port) {
  MutexLock lock(mutex);
  const auto it = clients.find(&port);
  return it == clients.end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<ClientState>> Core::all_clients() {
  std::vector<std::shared_ptr<ClientState>> all;
  MutexLock lock(mutex);
  for (const auto& [port, client] : clients) all.push_back(client);
  return all;
}

void Core::client_gone(ClientState& client) {
  if (client.gone.exchange(true)) return;
  PINDAX_STEP("layout.client_gone");
  std::map<u32, std::shared_ptr<Mapping>> mappings;
  counts.pins_of_the_gone.fetch_add(published_pins(*client.port), std::memory_order_relaxed);
  {
    MutexLock lock(client.mutex);
    mappings = client.mappings;
    client.message_pins.clear();
    client.episodes.clear();
  }
  // What it had pinned counts as translated until its memory is gone, as if a recall of it were under way: a device may be
  // at work there although nothing is mapped any more.
  auto outlives = [&](Mapping& m, ByteRange r) {  // its inode's mutex is held
    const ByteRange range = intersect(block_aligned(r), m.range);
    const auto now = Clock::now();
    if (!range.empty()) m.pending.push_back({new_id(), range, false, true, true, now + options.recall_deadline, now});
  };
  scan_slots(*client.port, [&](const SeenPin& pin, bool&) {
    const auto it = mappings.find(pin.mapping);
    if (pin.unstable || it == mappings.end()) return true;
    MutexLock lock(it->second->inode->mutex);
    outlives(*it->second, pin.range);
    return true;
  });
  std::vector<std::shared_ptr<SlowPin>> pins;
  for (const auto& [id, m] : mappings) {
    MutexLock lock(m->inode->mutex);
    for (const auto& [pin, p] : m->message_pins) outlives(*m, p.range);
    m->message_pins.clear();
    for (const auto& p : m->inode->queued_pins)
      if (&p->client() == &client) pins.push_back(p);
  }
  for (const auto& p : pins) p->wake();
  client.wake_all();
}

void Core::add(Break& b) {
  MutexLock lock(mutex);
  operations.emplace(b.id(), &b);
}

void Core::remove(Break& b) {
  MutexLock lock(mutex);
  operations.erase(b.id());
}

}  // namespace pindax
