// SPDX-License-Identifier: BSD-3-Clause
//
// Pin and unpin: the fast path of proto/pin_fast_path.h, and the slow path through the daemon (P3).
//
// struct pindax_pin: opaque[0] slot + 1 (0: no pin), opaque[1] the ThreadSlots whose episode it belongs to, opaque[2] the client: a pin
// may outlive its mapping (R7), so unpin asks nothing of that.
#include <pthread.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/steps.h"
#include "client/error.h"
#include "client/mapping.h"
#include "client/slots.h"
#include "proto/pin_fast_path.h"

using namespace pindax;
using namespace pindax::client;

namespace {

// Ages are shown in milliseconds: the coarse clock is a few nanoseconds cheaper.
u64 coarse_now_ns() { return clock_ns(CLOCK_MONOTONIC_COARSE); }

// U1: nothing between the exchange and the ring is a cancellation point, and the ring itself is shielded.
struct Ring {
  pindax_client* client;
  void operator()() const {
    int old;
    ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    PINDAX_STEP("client.ring");
    client->ring_doorbell();
    ::pthread_setcancelstate(old, nullptr);
  }
};

// Not inlined: formats no text on the fast path.
[[gnu::noinline]] int refuse_range(const pindax_mapping* m, size_t offset, size_t length) {
  if (length == 0) return fail(EINVAL, "a pin needs a length");
  (void)m, (void)offset;
  return fail(EINVAL, "the pin reaches beyond its mapping");
}

// A2: an episode begins with the first pin of a thread that holds none.
void begin_episode(pindax_client& c, ThreadSlots& t) {
  ++t.episode;
  t.age = reinterpret_cast<proto::GateHeader*>(c.gates)->ticket.load(std::memory_order_acquire);
}

[[gnu::noinline]] int pin_slow(pindax_mapping& m, ThreadSlots& t, u32 index, const proto::PinFields& f, bool try_only,
                               struct pindax_pin* out) {
  pindax_client& c = *m.client;
  proto::Slot& slot = c.slot_pool->slot(index);
  const u64 word = c.gate(m.id).word.load(std::memory_order_acquire);
  proto::publish_slot(slot, f, proto::SlotState::kAsked);
  PINDAX_STEP("client.asked");
  const proto::PinBody body{f.mapping, index, f.kind, try_only ? proto::kPinTry : 0, f.begin, f.end, f.age, f.thread, f.episode};
  Reply reply;
  if (const int error = c.call(proto::Type::kPin, body, reply); error != 0) {
    proto::fast_unpin(slot, Ring{&c});
    c.slot_pool->give(t, index);
    return error;
  }
  PINDAX_STEP("client.slow_pinned");
  proto::PinReply answer{};
  std::memcpy(&answer, reply.bytes.data(), std::min(reply.length, sizeof(answer)));
  if (answer.writable_end > answer.writable_begin) {
    // Readers check the word last: make the old one useless before the range changes.
    m.writable_word.store(proto::kNoGateWord, std::memory_order_release);
    m.writable_begin.store(answer.writable_begin, std::memory_order_relaxed);
    m.writable_end.store(answer.writable_end, std::memory_order_relaxed);
    m.writable_word.store(word, std::memory_order_release);
  }
  ++t.pins;
  out->opaque[0] = u64{index} + 1;
  out->opaque[1] = reinterpret_cast<u64>(&t);
  out->opaque[2] = reinterpret_cast<u64>(&c);
  out->generation = answer.generation;
  return 0;
}

// P4: under this gate word a write pin of [begin, end) needs no message; kNoGateWord if unknown.
u64 known_writable(const pindax_mapping& m, u64 begin, u64 end) {
  const u64 word = m.writable_word.load(std::memory_order_acquire);
  const bool inside = begin >= m.writable_begin.load(std::memory_order_relaxed) && end <= m.writable_end.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return inside && m.writable_word.load(std::memory_order_relaxed) == word ? word : proto::kNoGateWord;
}

enum class How { kWait, kTry, kCopyOut };

int pin(pindax_mapping* m, size_t offset, size_t length, unsigned flags, struct pindax_pin* out, How how) {
  if (length == 0 || offset > m->span || length > m->span - offset) [[unlikely]] return refuse_range(m, offset, length);
  pindax_client& c = *m->client;
  if (c.born != fork_generation.load(std::memory_order_relaxed)) [[unlikely]] return c.usable();
  if ((flags & ~(proto::kPinKindMask | proto::kPinFlags)) != 0 || (flags & proto::kPinKindMask) > PINDAX_PIN_LONGTERM) [[unlikely]]
    return fail(EINVAL, "unknown kind of pin");
  if ((flags & proto::kPinKindMask) == PINDAX_PIN_LEASE && c.options.lease_recall == nullptr) [[unlikely]]
    return fail(EOPNOTSUPP, "leases need a lease_recall callback in the options of pindax_attach");
  if ((flags & PINDAX_PIN_WRITE) != 0 && (m->prot & 2) == 0) [[unlikely]] return fail(EACCES, "a write pin needs a writable mapping");
  ThreadSlots* t = c.slot_pool->mine();
  if (t == nullptr) [[unlikely]] return fail(ENOMEM, "out of memory for this thread's pins");
  const u32 index = c.slot_pool->take(*t);
  if (index == proto::kMaxSlots) [[unlikely]] return fail(ENOMEM, "no memory for another pin, or a million of them are held, which is the limit");
  if (!t->holds_pins()) begin_episode(c, *t);
  const proto::PinFields f{m->id, flags, m->file_offset + offset, m->file_offset + offset + length, t->age, t->thread, t->episode, coarse_now_ns()};
  u64 word = proto::kNoGateWord;
  // Transient pins only: the daemon decides about leases and long-term pins. A write pin must know its blocks.
  bool fast = (flags & proto::kPinKindMask) == PINDAX_PIN_TRANSIENT;
  if ((flags & PINDAX_PIN_WRITE) != 0) {
    word = known_writable(*m, f.begin, f.end);
    fast = fast && word != proto::kNoGateWord;
  }
  const u32 passable = how == How::kCopyOut ? proto::kGateShared : 0;
  if (!fast || !proto::fast_pin(*m->gate, c.slot_pool->slot(index), f, Ring{&c}, 0, word, passable)) [[unlikely]] {
    if (how != How::kCopyOut) return pin_slow(*m, *t, index, f, how == How::kTry, out);
    c.slot_pool->give(*t, index);
    return -EAGAIN;
  }
  ++t->pins;
  out->opaque[0] = u64{index} + 1;
  out->opaque[1] = reinterpret_cast<u64>(t);
  out->opaque[2] = reinterpret_cast<u64>(&c);
  out->generation = m->gate->generation.load(std::memory_order_relaxed);
  return 0;
}

}  // namespace

int pindax::client::pin_for_copy_out(pindax_mapping& m, u64 offset, size_t length, struct pindax_pin* out) {
  return pin(&m, offset, length, PINDAX_PIN_TRANSIENT, out, How::kCopyOut);
}

extern "C" {

PINDAX_API int pindax_pin(struct pindax_mapping* m, size_t offset, size_t length, unsigned flags, struct pindax_pin* out) {
  return pin(m, offset, length, flags, out, How::kWait);
}

PINDAX_API int pindax_try_pin(struct pindax_mapping* m, size_t offset, size_t length, unsigned flags, struct pindax_pin* out) {
  return pin(m, offset, length, flags, out, How::kTry);
}

PINDAX_API int pindax_unpin(struct pindax_mapping*, struct pindax_pin* p) {
  if (p->opaque[0] == 0 || p->opaque[0] > proto::kMaxSlots) [[unlikely]] return fail(EINVAL, "this pin is not held");
  pindax_client& c = *reinterpret_cast<pindax_client*>(p->opaque[2]);
  if (c.born != fork_generation.load(std::memory_order_relaxed)) [[unlikely]] return c.usable();
  const u32 index = static_cast<u32>(p->opaque[0] - 1);
  auto* t = reinterpret_cast<ThreadSlots*>(p->opaque[1]);
  p->opaque[0] = 0;
  proto::fast_unpin(c.slot_pool->slot(index), Ring{&c});
  ThreadSlots* mine = c.slot_pool->mine();
  if (t == mine) [[likely]] {
    ++t->own_unpins;
    c.slot_pool->give(*t, index);
  } else {
    t->foreign_unpins.fetch_add(1, std::memory_order_relaxed);
    c.slot_pool->give_shared(index);
  }
  return 0;
}

}  // extern "C"
