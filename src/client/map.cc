// SPDX-License-Identifier: BSD-3-Clause
//
// pindax_map, pindax_unmap and what a mapping tells about itself.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "base/steps.h"
#include "client/error.h"
#include "client/mapping.h"
#include "client/slots.h"

using namespace pindax;
using namespace pindax::client;

namespace {

// Throws std::bad_alloc with nothing done.
void enter(pindax_mapping& m) {
  pindax_client& c = *m.client;
  MutexLock lock(c.mappings_mutex);
  if (c.by_id.size() <= m.id) c.by_id.resize(std::max<std::size_t>(m.id + 1, 2 * c.by_id.size()));
  c.unmapped.reserve(c.unmapped.size() + c.by_id.size());  // so that retire() finds room
  if (m.direct) {
    MutexLock address_lock(c.address_mutex);
    c.by_address[m.base] = &m;
  }
  c.by_id[m.id] = &m;
}

// The memory goes before the daemon is told that it is gone. The service thread stays away from now on: what it
// would map could land in somebody else's addresses.
void remove_memory(pindax_mapping& m) {
  pindax_client& c = *m.client;
  MutexLock lock(c.mappings_mutex);
  m.closing = true;
  if (m.direct) {
    MutexLock address_lock(c.address_mutex);
    c.by_address.erase(m.base);
  }
  ::munmap(reinterpret_cast<void*>(m.base), m.span);
  c.pieces.fetch_sub(static_cast<i64>(m.book.pieces()));
}

void leave(pindax_mapping& m) {
  MutexLock lock(m.client->mappings_mutex);
  m.client->by_id[m.id] = nullptr;
}

// unpin() takes the mapping that it pinned through: the object stays until no slot names it.
void retire(pindax_mapping* m) {
  pindax_client& c = *m->client;
  MutexLock lock(c.mappings_mutex);
  m->book.release();
  c.unmapped.push_back(m);
  std::erase_if(c.unmapped, [&](pindax_mapping* u) {
    if (c.slot_pool->names(u->id)) return false;
    delete u;
    return true;
  });
}

int map_through_mount(pindax_mapping& m, int fd) {
  if (m.client->mount_path.empty()) return fail(EACCES, "cannot map directly (" + m.client->why_indirect + ") and there is no mount to go through");
  void* p = ::mmap(nullptr, m.span, m.prot, MAP_SHARED, fd, static_cast<off_t>(m.file_offset));
  if (p == MAP_FAILED) return fail_errno("mapping through the mount");
  m.base = reinterpret_cast<u64>(p);
  return 0;
}

// One step: a recall that comes meanwhile waits behind it in the FIFO, so it is bounded in time.
constexpr u64 kPopulateBytes = u64{16} << 20;

// Asks for everything at once; grants come before the reply, which says how far they reach. Holes come by faults.
void populate(pindax_mapping& m) {
  const u64 size = m.client->gate(m.id).size_bytes.load();
  const u64 end = std::min(m.file_end(), std::max(m.file_offset, round_up(size, kBlockSize)));
  for (u64 at = m.file_offset; at < end;) {
    const proto::FaultBody fault{m.id, 0, at, std::min(end - at, kPopulateBytes)};
    Reply reply;
    proto::FaultReply answer{};
    if (m.client->call(proto::Type::kFault, fault, reply) != 0 || reply.length < sizeof(answer)) return;
    std::memcpy(&answer, reply.bytes.data(), sizeof(answer));
    if (answer.populated_end <= at) return;
    at = answer.populated_end;
  }
}

// How much of it lies so that 2 MiB pages can be used. Pages that are watched are entered one by one all the same.
u64 huge_bytes(pindax_mapping& m) {
  if (!m.direct) return 0;
  constexpr u64 kPages = kHugePageSize / kBlockSize;
  u64 bytes = 0;
  MutexLock lock(m.client->mappings_mutex);
  for (u64 page = (round_up(m.base, kHugePageSize) - m.base) / kBlockSize; page + kPages <= m.book.pages(); page += kPages) {
    const Place p = m.book.at(page);
    if (p.kind() != Place::kBlocks || p.block() % kPages != 0 || !m.book.mapped(page)) continue;
    if (m.book.first_other(page, page + kPages, p) == page + kPages) bytes += kHugePageSize;
  }
  return bytes;
}

int check_access(int fd, int prot) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_errno("map");
  const int access = flags & O_ACCMODE;
  if (access == O_WRONLY) return fail(EACCES, "a descriptor that is open for writing only cannot be mapped");
  if ((prot & PROT_WRITE) != 0 && access != O_RDWR) return fail(EACCES, "PROT_WRITE needs a descriptor that is open for reading and writing");
  return 0;
}

int map(pindax_client& c, int fd, u64 offset, std::size_t length, int prot, int flags, pindax_mapping** out) {
  if (length == 0) return fail(EINVAL, "a mapping needs a length");
  if (offset % kBlockSize != 0) return fail(EINVAL, "the offset of a mapping is a multiple of 4096");
  constexpr u64 kMaxEnd = u64{1} << 63;
  if (offset >= kMaxEnd || length > kMaxEnd - offset - kBlockSize) return fail(EOVERFLOW, "no file reaches that far");
  if ((prot & ~(PROT_READ | PROT_WRITE)) != 0 || prot == 0) return fail(EINVAL, "prot is PROT_READ, or PROT_READ and PROT_WRITE");
  if (const int error = check_access(fd, prot); error != 0) return error;
  auto m = std::make_unique<pindax_mapping>();
  m->client = &c;
  m->direct = c.direct && (c.pool_writable || (prot & PROT_WRITE) == 0);
  m->prot = prot;
  m->file_offset = offset;
  m->length = length;
  m->span = round_up(length, kBlockSize);
  if (const int error = m->direct ? reserve(*m) : map_through_mount(*m, fd); error != 0) return error;
  proto::MapBody body{};
  Reply reply;
  int error = c.file_ref(fd, body.file);
  if (error == 0) {
    body.offset = offset;
    body.length = m->span;
    body.prot = static_cast<u32>(prot);
    body.flags = m->direct ? 0 : proto::kMapIndirect;
    error = c.call(proto::Type::kMap, body, reply);
  }
  proto::MapReply answer{};
  if (error == 0 && reply.length < sizeof(answer)) error = fail(EPROTO, "short reply to map");
  if (error != 0) {
    ::munmap(reinterpret_cast<void*>(m->base), m->span);
    return error;
  }
  std::memcpy(&answer, reply.bytes.data(), sizeof(answer));
  m->id = answer.mapping;
  m->gate = &c.gate(m->id);
  m->inode = answer.inode;
  PINDAX_STEP("client.map_replied");
  try {
    enter(*m);
  } catch (const std::bad_alloc&) {
    ::munmap(reinterpret_cast<void*>(m->base), m->span);
    const proto::UnmapBody unmap{m->id, 0};
    (void)c.call(proto::Type::kUnmap, unmap, reply);
    throw;
  }
  if (m->direct && (flags & PINDAX_MAP_POPULATE) != 0) populate(*m);
  *out = m.release();
  return 0;
}

// Bytes of [begin, end) that the kernel maps by 2 MiB pages, by its own account.
u64 pmd_mapped_bytes(u64 begin, u64 end) {
  FILE* smaps = std::fopen("/proc/self/smaps", "re");
  if (smaps == nullptr) return 0;
  u64 bytes = 0;
  bool inside = false;
  char line[512];
  while (std::fgets(line, sizeof line, smaps) != nullptr) {
    unsigned long from = 0, to = 0, kib = 0;
    if (std::sscanf(line, "%lx-%lx ", &from, &to) == 2) {
      inside = from < end && to > begin;
    } else if (inside && (std::sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1 || std::sscanf(line, "FilePmdMapped: %lu kB", &kib) == 1)) {
      bytes += u64{kib} * 1024;
    }
  }
  std::fclose(smaps);
  return bytes;
}

}  // namespace

extern "C" {

PINDAX_API int pindax_map(struct pindax_client* c, int fd, uint64_t offset, size_t length, int prot, int flags,
                          struct pindax_mapping** out) try {
  if (c == nullptr || out == nullptr) return fail(EINVAL, "map needs a client and a place for the mapping");
  *out = nullptr;
  if (const int error = c->usable(); error != 0) return error;
  return map(*c, fd, offset, length, prot, flags, out);
} catch (const std::bad_alloc&) {
  return fail(ENOMEM, "out of memory in map");
}

PINDAX_API int pindax_unmap(struct pindax_mapping* m) {
  if (m == nullptr) return 0;
  pindax_client& c = *m->client;
  if (c.born != fork_generation.load()) return c.usable();  // the parent's memory, not ours
  remove_memory(*m);
  PINDAX_STEP("client.unmapped");
  const proto::UnmapBody body{m->id, 0};
  Reply reply;
  const int error = c.call(proto::Type::kUnmap, body, reply);
  leave(*m);
  retire(m);
  return error == -ENOTCONN ? 0 : error;  // a daemon that is gone holds nothing for us
}

PINDAX_API void* pindax_mapping_address(const struct pindax_mapping* m) { return reinterpret_cast<void*>(m->base); }
PINDAX_API size_t pindax_mapping_length(const struct pindax_mapping* m) { return m->length; }

PINDAX_API int pindax_mapping_info(struct pindax_mapping* m, struct pindax_mapping_info* out) {
  if (out == nullptr || out->size < sizeof(size_t)) return fail(EINVAL, "set info.size to sizeof(struct pindax_mapping_info)");
  if (m->client->born != fork_generation.load()) return m->client->usable();
  const proto::Gate& gate = m->client->gate(m->id);
  struct pindax_mapping_info info{};
  info.size = out->size;
  info.direct = m->direct ? 1 : 0;
  info.extents = static_cast<u32>(m->book.pieces());
  info.inode = m->inode;
  info.file_offset = m->file_offset;
  info.mapped_bytes = m->book.mapped_pages() * kBlockSize;
  info.huge_bytes = huge_bytes(*m);
  info.file_size = gate.size_bytes.load();
  info.generation = gate.generation.load();
  if (out->size >= sizeof(info)) info.pmd_mapped_bytes = pmd_mapped_bytes(m->base, m->base + m->span);
  info.why_indirect = m->direct ? nullptr : m->client->why_indirect.c_str();
  std::memcpy(out, &info, std::min(out->size, sizeof(info)));
  return 0;
}

}  // extern "C"
