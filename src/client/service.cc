// SPDX-License-Identifier: BSD-3-Clause
//
// The service thread: carries out what the daemon's FIFO says, in its order (F1), and acknowledges recalls after the translations
// are gone. Its head comment in client.h says what it must not do (F3).
#include <pthread.h>
#include <unistd.h>

#include <cstring>

#include "base/steps.h"
#include "client/client.h"
#include "client/leases.h"
#include "client/mapping.h"
#include "proto/packet.h"

using namespace pindax;
using namespace pindax::client;

namespace {

template <class Body>
bool take(const std::byte* packet, std::size_t length, Body& body) {
  if (length < sizeof(proto::Header) + sizeof(body)) return false;
  std::memcpy(&body, packet + sizeof(proto::Header), sizeof(body));
  return true;
}

}  // namespace

pindax_mapping* pindax_client::mapping_by_id(u32 id) { return id < by_id.size() ? by_id[id] : nullptr; }

void pindax_client::run_service() {
  ::pthread_setname_np(::pthread_self(), "pindax-service");
  std::atomic<u64>& processed = reinterpret_cast<proto::SlotHeader*>(slots)->processed;
  for (u64 packets = 1;; ++packets) {
    processed.store(packets, std::memory_order_release);
    const long received = proto::receive_packet(socket.get(), packet.get(), proto::kMaxMessageBytes, nullptr);
    if (received <= 0) break;
    const auto length = static_cast<std::size_t>(received);
    proto::Header header;
    if (length < sizeof(header)) continue;
    std::memcpy(&header, packet.get(), sizeof(header));
    if (header.type == proto::Type::kReply) {
      proto::ReplyBody reply;
      constexpr std::size_t kFront = sizeof(header) + sizeof(reply);
      if (take(packet.get(), length, reply)) requests.deliver(header.request, reply.status, packet.get() + kFront, length - kFront);
    } else if (header.type == proto::Type::kGrant) {
      proto::GrantBody grant;
      if (!take(packet.get(), length, grant)) continue;
      PINDAX_STEP("client.grant");
      MutexLock lock(mappings_mutex);
      if (pindax_mapping* m = mapping_by_id(grant.mapping); m != nullptr && m->direct && !m->closing) install_grant(*this, *m, grant);
    } else if (header.type == proto::Type::kRecall) {
      proto::RecallBody recall;
      if (!take(packet.get(), length, recall)) continue;
      PINDAX_STEP("client.recall");
      {
        MutexLock lock(mappings_mutex);
        pindax_mapping* m = mapping_by_id(recall.mapping);
        if (m != nullptr && m->direct && !m->closing) remove_translations(*m, recall.begin, recall.end);
      }
      PINDAX_STEP("client.recalled");
      const proto::RecallAckBody ack{recall.recall};
      (void)send(proto::Type::kRecallAck, 0, &ack, sizeof(ack));
    } else if (header.type == proto::Type::kPinRecall) {
      proto::PinRecallBody recall;
      if (take(packet.get(), length, recall)) leases->recalled(recall.slot, recall.deadline_ms);
    }
  }
  lost.store(true);
  requests.connection_lost();
  const u64 one = 1;
  (void)!::write(stop.get(), &one, sizeof(one));  // the fault thread answers by itself from now on
  signals.served_all();
  if (!uffd) return;
  // Faults that the daemon had been told of happen again, and are answered.
  MutexLock lock(mappings_mutex);
  for (const pindax_mapping* m : by_id)
    if (m != nullptr && m->direct && !m->closing) uffd.wake(m->base, m->span);
}
