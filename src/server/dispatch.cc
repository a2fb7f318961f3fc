// SPDX-License-Identifier: BSD-3-Clause
//
// Which messages are welcome in which phase, and who handles them.
#include "server/session.h"

namespace pindax {

Status Session::dispatch(Packet& p) {
  using proto::Type;
  if (p.lost_control) return Status(Errc::kProtocol, "more descriptors than the message may bring");
  if (!p.descriptors.empty() && p.header.type != Type::kAttachPool)
    return Status(Errc::kProtocol, "descriptors with a message that brings none");
  if (phase_ == Phase::kHello) {
    if (p.header.type != Type::kHello) return Status(Errc::kProtocol, "the first message is not a hello");
    return handle_hello(p);
  }
  if (phase_ == Phase::kWelcomed) {
    switch (p.header.type) {
      case Type::kAttachPool: return handle_attach_pool(p);
      case Type::kControl: return handle_control(p);
      case Type::kCancel: return handle_cancel(p);
      default: break;
    }
    if (!control_only_) return Status(Errc::kProtocol, "a request before the pool was attached");
  }
  switch (p.header.type) {
    case Type::kOpen: return handle_open(p);
    case Type::kClose: return handle_close(p);
    case Type::kRead: return handle_read(p);
    case Type::kWrite: return handle_write(p);
    case Type::kStat: return handle_stat(p);
    case Type::kSync: return handle_sync(p);
    case Type::kFallocate: return handle_fallocate(p);
    case Type::kTruncate: return handle_truncate(p);
    case Type::kClone: return handle_clone(p);
    case Type::kCancel: return handle_cancel(p);
    case Type::kControl: return handle_control(p);
    default: break;
  }
  if (phase_ != Phase::kAttached) return Status(Errc::kProtocol, "a mapping request of a tool without shared memory");
  switch (p.header.type) {
    case Type::kMap: return handle_map(p);
    case Type::kUnmap: return handle_unmap(p);
    case Type::kFault: return handle_fault(p);
    case Type::kPersist: return handle_persist(p);
    case Type::kRecallAck: return handle_recall_ack(p);
    case Type::kPin: return handle_pin(p);
    case Type::kUnpinMessage: return handle_unpin(p);
    default: break;
  }
  return Status(Errc::kProtocol, "a message of unknown type");
}

}  // namespace pindax
