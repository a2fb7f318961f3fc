// SPDX-License-Identifier: BSD-3-Clause
//
// Mappings of a session: made, found, ended; persist; acknowledged recalls.
//
// A continuation (fault, pin) that uses Mapping counts itself in with begin_use; a mapping is removed from the layout room by
// whoever comes last, kUnmap or the last continuation.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "server/session.h"

namespace pindax {

Result<u32> Session::free_mapping_id() {
  for (u32 tries = 0; tries < proto::kMaxMappings; ++tries) {
    const u32 id = next_mapping_;
    next_mapping_ = (next_mapping_ + 1) % proto::kMaxMappings;
    if (!mappings_.contains(id) && !retired_.contains(id)) return id;
  }
  return Status(Errc::kNoMemory, "this client has too many mappings");
}

Session::EntryPtr Session::find_mapping(u32 id) {
  auto it = mappings_.find(id);
  if (it == mappings_.end()) return nullptr;
  MutexLock lock(mutex_);
  return it->second->unmapping ? nullptr : it->second;
}

Status Session::handle_map(Packet& p) {
  proto::MapBody body;
  PINDAX_TRY(take_body(p, body));
  const u64 request = p.header.request;
  if ((body.flags & ~proto::kMapIndirect) != 0 || (body.prot & ~u32{PROT_READ | PROT_WRITE}) != 0)
    return Status(Errc::kProtocol, "unknown flags in a map request");
  if ((body.offset & kBlockMask) != 0) return Status(Errc::kProtocol, "a mapping at an unaligned offset");
  sweep();
  auto refuse = [&](const Status& why) {
    reply(request, why);
    return Status();
  };
  auto file = use_file(body.file);
  if (!file.ok()) return refuse(file.status());
  const ByteRange range = block_aligned({body.offset, body.offset + body.length});
  if (body.length == 0 || body.offset + body.length < body.offset || range.end > (u64{1} << 62))
    return refuse(Status(Errc::kInvalid, "the range to map is empty or too large"));
  const bool writable = (body.prot & PROT_WRITE) != 0;
  if (file->access == O_WRONLY || (writable && file->access != O_RDWR))
    return refuse(Status(Errc::kAccess, "a shared mapping needs the file open for reading, and to write it O_RDWR"));
  auto attributes = context_.fs.attributes(*file->inode);
  if (!attributes.ok()) return refuse(attributes.status());
  if (!S_ISREG(attributes->mode)) return refuse(Status(Errc::kNoDevice, "only regular files can be mapped"));
  if (writable && (attributes->flags & (format::kFlagImmutable | format::kFlagAppend)) != 0)
    return refuse(Status(Errc::kPermission, "the file is immutable or append-only: stores through a mapping are not allowed"));
  const bool indirect = (body.flags & proto::kMapIndirect) != 0;
  if (!indirect && !direct_.load()) return refuse(Status(Errc::kNotSupported, "this client may not map the pool"));
  auto id = free_mapping_id();
  if (!id.ok()) return refuse(id.status());

  auto entry = std::make_shared<MappingEntry>();
  entry->id = *id;
  entry->inode = file->inode;
  entry->range = range;
  entry->writable = writable;
  entry->indirect = indirect;
  if (const Status s = context_.fs.publish_for_gates(*entry->inode, range); !s.ok()) return refuse(s);
  entry->mapping = context_.clients().add_mapping(*entry->inode->layout(), *this, *id, range, writable, indirect);
  publish_size(*entry->inode);
  mappings_.emplace(*id, entry);
  const proto::MapReply body_out{.mapping = *id,
                                 .reserved = 0,
                                 .inode = entry->inode->ino.value,
                                 .size_bytes = attributes->size_bytes,
                                 .generation = context_.clients().generation(*entry->mapping)};
  reply_body(request, body_out);
  return {};
}

Status Session::handle_unmap(Packet& p) {
  proto::UnmapBody body;
  PINDAX_TRY(take_body(p, body));
  EntryPtr entry = find_mapping(body.mapping);
  if (!entry) {
    reply(p.header.request, Status(Errc::kInvalid, "no such mapping"));
    return {};
  }
  bool last = false;
  {
    MutexLock lock(mutex_);
    entry->unmapping = true;
    entry->unmap_request = p.header.request;
    last = entry->in_flight == 0;
  }
  if (last) finish_unmap(entry);
  sweep();
  return {};
}

void Session::finish_unmap(const EntryPtr& entry) {
  if (entry->writable && !entry->indirect) context_.fs.note_direct_stores(*entry->inode, entry->range);
  context_.clients().remove_mapping(std::exchange(entry->mapping, nullptr));
  {
    MutexLock lock(mutex_);
    unmapped_.push_back(entry);
  }
  reply(entry->unmap_request, Status());
}

void Session::begin_use(const EntryPtr& entry) {
  MutexLock lock(mutex_);
  ++entry->in_flight;
  ++work_;
}

void Session::end_use(const EntryPtr& entry) {
  bool last = false;
  {
    MutexLock lock(mutex_);
    PINDAX_ASSERT(entry->in_flight > 0);
    last = --entry->in_flight == 0 && entry->unmapping;
  }
  if (last) finish_unmap(entry);
  end_work();
}

Status Session::handle_persist(Packet& p) {
  proto::PersistBody body;
  PINDAX_TRY(take_body(p, body));
  if (body.reserved != 0 || body.begin > body.end) return Status(Errc::kProtocol, "nonsense in a persist request");
  const u64 request = p.header.request;
  EntryPtr entry = find_mapping(body.mapping);
  if (!entry) {
    reply(request, Status(Errc::kInvalid, "no such mapping"));
    return {};
  }
  if (!begin_pending(request)) return {};
  const ByteRange range = intersect(entry->range, {body.begin, body.end});
  context_.fs.executor().post([self = shared_from_this(), request, range, inode = entry->inode, writable = entry->writable] {
    FileSystem& fs = self->context_.fs;
    if (writable && !range.empty()) fs.note_direct_stores(*inode, range);
    const u64 begun = self->context_.uncommitted.begin_sync(*inode);
    Status s = fs.fsync(*inode, true);
    if (s.ok() && begun != 0) self->context_.uncommitted.end_sync(*inode, begun);
    self->reply(request, s);
    self->end_pending(request);
  });
  return {};
}

Status Session::handle_recall_ack(Packet& p) {
  proto::RecallAckBody body;
  PINDAX_TRY(take_body(p, body));
  context_.clients().recall_acknowledged(*this, body.recall);
  return {};
}

}  // namespace pindax
