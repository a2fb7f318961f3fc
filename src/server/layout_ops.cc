// SPDX-License-Identifier: BSD-3-Clause
//
// Requests that change a file's layout and may wait for pins, and the message that ends such a wait.
#include <fcntl.h>

#include "server/session.h"

namespace pindax {

namespace {

Result<std::optional<BusyPolicy>> policy_of(u32 raw) {
  if (raw > static_cast<u32>(BusyPolicy::kEvict)) return Status(Errc::kProtocol, "an unknown policy");
  if (raw == 0) return std::optional<BusyPolicy>();
  return std::optional(static_cast<BusyPolicy>(raw));
}

std::optional<std::chrono::milliseconds> deadline_of(u64 ms) {
  constexpr u64 kMaxDeadlineMs = u64{1} << 40;  // decades
  if (ms == 0) return std::nullopt;
  return std::chrono::milliseconds(std::min(ms, kMaxDeadlineMs));
}

FileSystem::ChangeContext change_context(const Peer& peer, Caller caller, u32 thread, std::optional<BusyPolicy> policy,
                                         u64 deadline_ms) {
  FileSystem::ChangeContext c;
  c.requester = {.pid = peer.pid, .tid = thread, .uid = peer.uid, .command = peer.command};
  c.caller = std::move(caller);
  c.policy = policy;
  c.deadline = deadline_of(deadline_ms);
  return c;
}

}  // namespace

void Session::after_change(Inode& inode, const Status& status, bool resized, std::function<void()> then) {
  if (status.ok() && resized) publish_size(inode);
  KernelView* kernel = context_.kernel_view.load();
  if (!status.ok() || kernel == nullptr) return then();
  kernel->refresh(inode.ino, resized, std::move(then));
}

Status Session::handle_fallocate(Packet& p) {
  proto::FallocateBody body;
  PINDAX_TRY(take_body(p, body));
  PINDAX_ASSIGN(const auto policy, policy_of(body.policy));
  const u64 request = p.header.request;
  auto file = use_file(body.file);
  if (file.ok() && file->access == O_RDONLY) file = Status(Errc::kBadDescriptor, "the file is not open for writing");
  if (file.ok() && (body.length == 0 || body.offset > kMaxOffset - body.length))
    file = Status(Errc::kInvalid, "the range is empty or too large");
  if (!file.ok()) {
    reply(request, file.status());
    return {};
  }
  if (!begin_pending(request)) return {};
  auto self = shared_from_this();
  set_pending_change(request, context_.fs.fallocate(file->inode, static_cast<int>(body.mode), body.offset, body.length,
                                                    change_context(peer_, caller(), body.thread, policy, body.deadline_ms),
                                                    [self, request, inode = file->inode, mode = body.mode](const Status& s) {
                                                      self->after_change(*inode, s, FileSystem::may_resize(mode), [self, request, s] {
                                                        self->reply(request, s);
                                                        self->end_pending(request);
                                                      });
                                                    }));
  return {};
}

Status Session::handle_truncate(Packet& p) {
  proto::TruncateBody body;
  PINDAX_TRY(take_body(p, body));
  PINDAX_ASSIGN(const auto policy, policy_of(body.policy));
  const u64 request = p.header.request;
  auto file = use_file(body.file);
  if (file.ok() && file->access == O_RDONLY) file = Status(Errc::kBadDescriptor, "the file is not open for writing");
  if (!file.ok()) {
    reply(request, file.status());
    return {};
  }
  if (!begin_pending(request)) return {};
  auto self = shared_from_this();
  set_pending_change(request, context_.fs.truncate(file->inode, body.size,
                                                   change_context(peer_, caller(), body.thread, policy, body.deadline_ms),
                                                   [self, request, inode = file->inode](const Status& s) {
                                                     self->after_change(*inode, s, true, [self, request, s] {
                                                       self->reply(request, s);
                                                       self->end_pending(request);
                                                     });
                                                   }));
  return {};
}

Status Session::handle_clone(Packet& p) {
  proto::CloneBody body;
  PINDAX_TRY(take_body(p, body));
  const u64 request = p.header.request;
  auto source = use_file(body.source);  // both, whatever comes: tokens are single use
  auto destination = use_file(body.destination);
  Status status = source.ok() ? destination.status() : source.status();
  if (status.ok() && source->access == O_WRONLY) status = Status(Errc::kBadDescriptor, "the source is open for writing only");
  if (status.ok() && destination->access == O_RDONLY) status = Status(Errc::kBadDescriptor, "the destination is not open for writing");
  if (status.ok() && (body.flags & ~proto::kCloneDedupe) != 0) status = Status(Errc::kInvalid, "unknown flags for a clone");
  if (!status.ok()) {
    reply(request, status);
    return {};
  }
  if (!begin_pending(request)) return {};
  const FileSystem::CloneRequest what{.source = source->inode,
                                      .destination = destination->inode,
                                      .source_offset = body.source_offset,
                                      .destination_offset = body.destination_offset,
                                      .length = body.length,
                                      .dedupe = (body.flags & proto::kCloneDedupe) != 0};
  auto self = shared_from_this();
  set_pending_change(request, context_.fs.clone_range(
                                  what, change_context(peer_, caller(), body.thread, std::nullopt, 0),
                                  [self, request, inode = destination->inode](Result<u64> shared) {
                                    self->after_change(*inode, shared.status(), true, [self, request, shared] {
                                      if (shared.ok()) self->reply_body(request, proto::CloneReply{.bytes = *shared});
                                      else self->reply(request, shared.status());
                                      self->end_pending(request);
                                    });
                                  }));
  return {};
}

Status Session::handle_cancel(Packet& p) {
  proto::CancelBody body;
  PINDAX_TRY(take_body(p, body));
  std::shared_ptr<Change> change;
  {
    MutexLock lock(mutex_);
    auto it = pending_.find(body.request);
    if (it == pending_.end()) return {};  // answered meanwhile
    it->second.cancelled = true;
    change = it->second.change;
  }
  if (change) change->interrupt();
  return {};
}

}  // namespace pindax
