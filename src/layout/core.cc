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
  std::vector<std::shared_ptr<Mapping>> mappings;
  {
    MutexLock lock(client.mutex);
    for (const auto& [id, m] : client.mappings) mappings.push_back(m);
    client.message_pins.clear();
    client.episodes.clear();
  }
  std::vector<std::shared_ptr<SlowPin>> pins;
  for (const auto& m : mappings) {
    MutexLock lock(m->inode->mutex);
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
