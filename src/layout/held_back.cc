// SPDX-License-Identifier: BSD-3-Clause
#include "layout/held_back.h"

#include "base/steps.h"

namespace pindax {

u32 HeldSet::add(ByteRange range) {
  MutexLock lock(mutex_);
  leftovers_.push_back({range, false});
  return static_cast<u32>(leftovers_.size() - 1);
}

void HeldSet::quarantined(ByteRange file_range, u64 block, u64 length_blocks) {
  MutexLock lock(mutex_);
  runs_.push_back({file_range, block, length_blocks});
}

void HeldSet::released(u32 number) {
  std::vector<Run> free;
  {
    MutexLock lock(mutex_);
    leftovers_[number].released = true;
    if (active_) free = take_free_runs();
  }
  give_back(free);
}

void HeldSet::activate() {
  std::vector<Run> free;
  {
    MutexLock lock(mutex_);
    active_ = true;
    free = take_free_runs();
  }
  give_back(free);
}

std::vector<HeldSet::Run> HeldSet::take_free_runs() {
  std::vector<Run> free, rest;
  for (const Run& run : runs_) {
    bool held = false;
    for (const Leftover& l : leftovers_) held = held || (!l.released && l.range.overlaps(run.file_range));
    (held ? rest : free).push_back(run);
  }
  runs_ = std::move(rest);
  return free;
}

void HeldSet::give_back(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    core_->executor.post([core = core_, run] {
      PINDAX_STEP("layout.release_quarantine");
      if (QuarantineOwner* owner = core->quarantine_owner.load()) owner->release(run.block, run.length_blocks);
    });
  }
}

void HeldBack::start() {
  spec_.mapping->client->wait(shared_from_this());
  check();
  rearm();
}

void HeldBack::wake() {
  spec_.mapping->inode->core->executor.post([self = shared_from_this()] { self->check(); });
}

// U2, as a break does it: marked after this leftover was registered with the client's bell; a mark that fails has a
// reason, so look again. Inode mutex held; one slot is read, not all.
bool HeldBack::pin_lasts() {
  const Mapping& m = *spec_.mapping;
  if (m.client->gone.load()) return false;
  if (spec_.message_pin != 0) return m.message_pins.contains(spec_.message_pin);
  if (!spec_.pin) return false;
  proto::Slot* slots = m.client->port->slots();
  return still_pinned(slots, *spec_.pin) && mark_awaited(slots, *spec_.pin);
}

void HeldBack::check() {
  Mapping& m = *spec_.mapping;
  InodeLayout& inode = *m.inode;
  bool release = false;
  {
    MutexLock lock(inode.mutex);
    if (released_) return;
    if (!m.client->memory_gone.load()) {
      if (!recalled_) {
        if (pin_lasts()) return;
        recalled_ = true;
        PINDAX_STEP("held_back.pin_ended");
        // What the pin protected is still translated to the old blocks.
        if (!m.removed && !m.client->gone.load()) m.send_recall({spec_.range}, Mapping::RecallWhat::kAll);
      }
      if (m.pending_in(spec_.range)) return;
      // Dead: what it had translated or pinned may still be stored to (D1).
      if (m.client->gone.load()) return;
    }
    released_ = release = true;
    inode.held_back.remove_if([this](const std::shared_ptr<HeldBack>& h) { return h.get() == this; });
  }
  if (!release) return;
  m.client->stop_waiting(this);
  set_->released(number_);
}

// U3: for clients that never ring. Ends by itself when released.
void HeldBack::rearm() {
  Core& core = *spec_.mapping->inode->core;
  std::weak_ptr<HeldBack> weak = weak_from_this();
  core.executor.post_at(Clock::now() + core.options.rescan_period, [weak] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    ClientState& client = *self->spec_.mapping->client;
    Core& c = *self->spec_.mapping->inode->core;
    if (!client.gone.load() && client.time_to_poll(Clock::now(), c.options.rescan_period) && client.port->poll_dead())
      c.client_gone(client);
    self->check();
    self->rearm();
  });
}

}  // namespace pindax
