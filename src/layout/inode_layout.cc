// SPDX-License-Identifier: BSD-3-Clause
#include "layout/inode_layout.h"

#include "base/steps.h"
#include "layout/break.h"
#include "layout/slow_pin.h"

namespace pindax {

void InodeLayout::recheck() {
  for (const auto& b : breaks) b->recheck_locked();
  for (const auto& h : held_back) h->wake();
}

// C2: from here on the kernel's work is the fuse room's, on threads of its own.
void InodeLayout::issue(const std::vector<PageCacheOwners::Drop>& drops) {
  KernelCache* cache = core->kernel_cache.load();
  for (const PageCacheOwners::Drop& d : drops) {
    if (cache == nullptr) drop_done(d.id);
    else cache->drop(ino, d.range, [self = shared_from_this(), id = d.id] { self->drop_done(id); });
  }
}

void InodeLayout::drop_done(u64 drop) {
  PINDAX_STEP("layout.drop_done");
  MutexLock lock(mutex);
  pages.drop_done(drop);
  recheck();
}

bool InodeLayout::purge(const std::shared_ptr<Mapping>& mapping) {
  bool named = false;
  if (!mapping->client->gone.load()) {
    scan_slots(*mapping->client->port, [&](const SeenPin& pin, bool&) {
      named = pin.unstable || pin.mapping == mapping->id;
      return !named;
    });
  }
  if (named) return false;
  {
    MutexLock lock(mutex);
    if (!mapping->removed || !mapping->message_pins.empty()) return false;
    if (mappings.contains(mapping.get())) mappings.erase(*mapping);
  }
  MutexLock lock(mapping->client->mutex);
  auto& by_id = mapping->client->mappings;
  if (const auto it = by_id.find(mapping->id); it != by_id.end() && it->second == mapping) by_id.erase(it);
  return true;
}

void InodeLayout::abandon() {
  std::list<std::shared_ptr<Break>> old_breaks;
  std::list<std::shared_ptr<SlowPin>> old_pins;
  std::list<std::shared_ptr<HeldBack>> old_held;
  std::vector<std::shared_ptr<Mapping>> old_mappings;
  {
    MutexLock lock(mutex);
    old_breaks.swap(breaks);
    old_pins.swap(queued_pins);
    old_held.swap(held_back);
    mappings.each([&](Mapping& m) { old_mappings.push_back(m.shared_from_this()); });
    for (const auto& m : old_mappings) {
      m->forget_translations();
      mappings.erase(*m);
    }
  }
  for (const auto& b : old_breaks) b->abandon();
  for (const auto& p : old_pins) p->abandon();
  for (const auto& m : old_mappings) {
    MutexLock lock(m->client->mutex);
    auto& by_id = m->client->mappings;
    if (const auto it = by_id.find(m->id); it != by_id.end() && it->second == m) by_id.erase(it);
    std::erase_if(m->client->message_pins, [&](const auto& pin) { return pin.second == m; });
  }
}

void InodeLayoutDeleter::operator()(InodeLayout* p) const {
  if (p == nullptr) return;
  p->abandon();
  const std::shared_ptr<InodeLayout> last = std::move(p->self);
}

SharedHold::SharedHold() = default;
SharedHold::SharedHold(std::unique_ptr<State> s) : state_(std::move(s)) {}
SharedHold::SharedHold(SharedHold&&) noexcept = default;
SharedHold& SharedHold::operator=(SharedHold&& o) noexcept {
  if (this != &o) {
    release();
    state_ = std::move(o.state_);
  }
  return *this;
}
SharedHold::~SharedHold() { release(); }

const ChangeGrant& SharedHold::grant() const { return state_->grant; }

void SharedHold::release() {
  if (state_ == nullptr) return;
  if (state_->before_release) state_->before_release();
  state_->inode->range_lock.release(*state_->request);
  state_.reset();
}

}  // namespace pindax
