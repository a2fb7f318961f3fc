// SPDX-License-Identifier: BSD-3-Clause
#include "base/check.h"
#include "base/steps.h"
#include "layout/layout_impl.h"
#include "layout/slow_pin.h"

namespace pindax {

void LayoutImpl::add_client(std::shared_ptr<ClientPort> client) {
  auto state = std::make_shared<ClientState>(std::move(client));
  MutexLock lock(core_->mutex);
  core_->clients.emplace(state->port.get(), state);
}

void LayoutImpl::client_gone(ClientPort& client) {
  if (const auto state = core_->find(client)) core_->client_gone(*state);
}

// D1: nothing maps the pool for it any more. Its translations count as acknowledged.
void LayoutImpl::client_memory_gone(ClientPort& client) {
  const auto state = core_->find(client);
  if (state == nullptr) return;
  core_->client_gone(*state);
  state->memory_gone.store(true);
  std::vector<std::shared_ptr<Mapping>> mappings;
  {
    MutexLock lock(state->mutex);
    for (const auto& [id, m] : state->mappings) mappings.push_back(m);
    state->mappings.clear();
  }
  for (const auto& m : mappings) {
    MutexLock lock(m->inode->mutex);
    m->removed = true;
    m->forget_translations();
    m->message_pins.clear();
    if (m->inode->mappings.contains(m.get())) m->inode->mappings.erase(*m);
    m->inode->recheck();
  }
  state->wake_all();
  MutexLock lock(core_->mutex);
  core_->clients.erase(&client);
}

Mapping* LayoutImpl::add_mapping(InodeLayout& inode, ClientPort& client, u32 id, ByteRange range, bool writable,
                                bool indirect) {
  const auto state = core_->find(client);
  PINDAX_ASSERT(state != nullptr);
  auto mapping = std::make_shared<Mapping>(state, inode.shared_from_this(), id, block_aligned(range), writable, indirect);
  {
    MutexLock lock(inode.mutex);
    // Born with the closings of the breaks that hold the range, and after their tickets were shown (A1): before it is
    // open, no pin through it can look older than they are.
    Core::publish_ticket(*state, core_->last_ticket.load());
    for (const auto& b : inode.breaks)
      if (b->blocks_pins_in(mapping->range)) mapping->gate.close(b.get(), b->range());
    mapping->gate.set_slow(inode.slow_reasons(mapping->range));
    mapping->gate.open(core_->generations.next(), inode.uncommitted, inode.size_bytes);
    inode.mappings.insert(mapping);
  }
  MutexLock lock(state->mutex);
  state->mappings.insert_or_assign(id, mapping);
  return mapping.get();
}

void LayoutImpl::remove_mapping(Mapping* mapping) {
  const std::shared_ptr<Mapping> m = mapping->shared_from_this();
  InodeLayout& inode = *m->inode;
  std::vector<std::shared_ptr<SlowPin>> pins;
  {
    MutexLock lock(inode.mutex);
    m->removed = true;
    m->gate.retire();  // no new pins; those that there are stay (R7)
    m->forget_translations();
    inode.recheck();
    for (const auto& p : inode.queued_pins)
      if (&p->client() == m->client.get()) pins.push_back(p);
  }
  for (const auto& p : pins) p->wake();
  inode.purge(m);
}

bool LayoutImpl::id_reusable(ClientPort& client, u32 id) {
  const auto state = core_->find(client);
  if (state == nullptr) return true;
  std::shared_ptr<Mapping> mapping;
  {
    MutexLock lock(state->mutex);
    const auto it = state->mappings.find(id);
    if (it == state->mappings.end()) return true;
    mapping = it->second;
  }
  return mapping->inode->purge(mapping);
}

u64 LayoutImpl::generation(Mapping& mapping) {
  MutexLock lock(mapping.inode->mutex);
  return mapping.gate.generation();
}

// F1: the caller looked the pieces up under the very hold that is still held; book and FIFO change in one step, so that a
// recall that follows comes after the grant on the wire, too.
void LayoutImpl::grant(Mapping& mapping, const SharedHold& hold, const std::vector<GrantPiece>& pieces) {
  PINDAX_ASSERT(static_cast<bool>(hold));
  PINDAX_STEP("layout.grant");
  InodeLayout& inode = *mapping.inode;
  MutexLock lock(inode.mutex);
  if (mapping.removed) return;  // unmapped while the fault was under way: nobody there to take it
  const u64 generation = mapping.gate.generation();  // G4
  for (const GrantPiece& piece : pieces) {
    const ByteRange r = intersect(block_aligned(piece.range), mapping.range);
    if (piece.kind != GrantPiece::Kind::kError && !r.empty()) {
      const bool hole = piece.kind != GrantPiece::Kind::kBlocks;
      if (!hole) inode.ever_mapped.store(true);
      mapping.granted.assign(r, {piece.writable, hole, piece.copied});
    }
    const u64 number = mapping.client->port->send_grant(mapping.id, piece, generation);
    if (piece.kind == GrantPiece::Kind::kBlocks && !r.empty()) mapping.granted_as(number, r);
  }
}

void LayoutImpl::recall_acknowledged(ClientPort& client, u64 recall) {
  const auto state = core_->find(client);
  if (state == nullptr) return;
  std::shared_ptr<Mapping> mapping;
  {
    MutexLock lock(state->mutex);
    const auto it = state->recalls.find(recall);
    if (it == state->recalls.end()) return;  // a client may say anything; or it was forgotten meanwhile
    mapping = it->second;
    state->recalls.erase(it);
  }
  PINDAX_STEP("layout.acknowledged");
  MutexLock lock(mapping->inode->mutex);
  std::erase_if(mapping->pending, [&](const Mapping::PendingRecall& p) { return p.id == recall; });
  mapping->inode->recheck();
}

// The quick way needs no break: no kernel page in the range, and for a write no zeros in other hands. Both are looked at
// under the hold and stay so until it ends: fills hold the range exclusively, and a write fault does so too, since
// a reader that was told "hole" before the allocation must not get its zero page after it (R18). Two write faults of one
// hole meet here: one allocates, the other finds the block (R17).
void LayoutImpl::with_fault(Mapping& mapping, ByteRange range, FaultKind kind, std::function<void(Result<SharedHold>)> go) {
  InodeLayout& in = *mapping.inode;
  const ByteRange pages = intersect(block_aligned(range), mapping.range);
  core_->counts.faults.fetch_add(1, std::memory_order_relaxed);
  if (pages.empty()) return go(Errc::kInvalid);
  auto slow = [inode = in.shared_from_this(), m = mapping.shared_from_this(), pages, kind](auto next) {
    Break::fault(inode, m, pages, kind, std::move(next))->begin();
  };
  if (kind == FaultKind::kCopy) return slow(std::move(go));
  const bool write = kind != FaultKind::kRead, ahead = kind == FaultKind::kWriteAhead;
  const auto mode = write ? RangeLock::Mode::kExclusive : RangeLock::Mode::kShared;
  with_hold(in, pages, mode, [m = mapping.shared_from_this(), pages, write, ahead, slow, go = std::move(go)](SharedHold hold) mutable {
    bool quick = true;
    {
      MutexLock lock(m->inode->mutex);
      quick = m->indirect || !m->inode->pages.owns(pages);
      for (const auto& b : m->inode->breaks) quick = quick && !(ahead && b->range().overlaps(pages));
      if (quick && write)
        m->inode->mappings.each_overlapping(pages, [&](Mapping& other) {
          if (&other == m.get()) return;
          other.granted.each(pages, [&](ByteRange, const Mapping::Granted& g) { return (quick = quick && !g.hole); });
          for (const auto& p : other.pending) quick = quick && !(p.holes && p.range.overlaps(pages));
        });
    }
    if (m->client->gone.load()) return go(Errc::kNotConnected);
    if (quick) return go(std::move(hold));
    hold.release();
    if (ahead) return go(Errc::kTryAgain);
    slow(go);
  });
}

// U2: drained first; every pin that rang before this is free by now, and everybody who marked one looks again.
void LayoutImpl::doorbell(ClientPort& client) {
  const auto state = core_->find(client);
  client.drain_doorbell();
  PINDAX_STEP("layout.doorbell");
  if (state != nullptr) state->wake_all();
}

std::shared_ptr<Change> LayoutImpl::pin(Mapping& mapping, const PinRequest& request,
                                        std::function<void(Result<u64>)> done) {
  auto refuse = [&](Status why) -> std::shared_ptr<Change> {
    auto nothing = std::make_shared<SlowPin>(mapping.shared_from_this(), request, nullptr);
    done(std::move(why));
    return nothing;
  };
  const u32 kind = request.kind & proto::kPinKindMask;
  const bool known = kind <= static_cast<u32>(proto::PinKind::kLongterm) &&
                     (request.kind & ~(proto::kPinKindMask | proto::kPinFlags)) == 0;
  if (request.range.empty() || !mapping.range.contains(request.range) || !known) return refuse(Status(Errc::kInvalid));
  if (kind == static_cast<u32>(proto::PinKind::kLongterm) && !core_->options.allow_longterm)
    return refuse(Status(Errc::kNotSupported, "this mount does not allow long-term pins (option long_term_pins)"));
  auto p = std::make_shared<SlowPin>(mapping.shared_from_this(), request, std::move(done));
  p->begin();
  return p;
}

Status LayoutImpl::unpin(ClientPort& client, u64 pin) {
  const auto state = core_->find(client);
  if (state == nullptr) return Status(Errc::kNotConnected);
  std::shared_ptr<Mapping> mapping;
  {
    MutexLock lock(state->mutex);
    const auto it = state->message_pins.find(pin);
    if (it == state->message_pins.end()) return Status(Errc::kInvalid, "no such pin");
    mapping = it->second;
    state->message_pins.erase(it);
  }
  u32 thread = 0;
  {
    MutexLock lock(mapping->inode->mutex);
    const auto it = mapping->message_pins.find(pin);
    if (it == mapping->message_pins.end()) return Status(Errc::kInvalid, "no such pin");
    thread = it->second.thread;
    mapping->message_pins.erase(it);
  }
  {
    MutexLock lock(state->mutex);
    const auto it = state->episodes.find(thread);
    if (it != state->episodes.end() && --it->second.pins == 0) state->episodes.erase(it);
  }
  state->wake_all();
  return {};
}

void LayoutImpl::set_uncommitted(InodeLayout& inode, bool uncommitted) {
  MutexLock lock(inode.mutex);
  inode.uncommitted = uncommitted;
  inode.mappings.each([&](Mapping& m) { m.gate.set_uncommitted(uncommitted); });
}

void LayoutImpl::set_size(InodeLayout& inode, u64 size_bytes) {
  MutexLock lock(inode.mutex);
  inode.size_bytes = size_bytes;
  inode.mappings.each([&](Mapping& m) { m.gate.set_size(size_bytes); });
}

}  // namespace pindax
