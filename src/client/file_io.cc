// SPDX-License-Identifier: BSD-3-Clause
//
// pindax_pread and pindax_pwrite: by mapping where the file has blocks, else by a system call on the mount, or by message without one.
//
// By mapping: the range is pinned (no message) while its bytes are copied, so that no truncate turns the copy into a SIGBUS; the size
// is looked at under the pin. A pin that is not to be had at once is no reason to wait: reads and writes do not wait for a
// sleeping break (A5), so they go the other way. A write needs blocks: a pin for writing makes them (P4), and only inside the
// file's size; what extends the file goes the other way.
#include "client/file_io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>

#include "client/client.h"
#include "client/error.h"
#include "client/mapping.h"

namespace pindax::client {
namespace {

constexpr u64 kLeastSpan = u64{64} << 20;
constexpr u64 kLargestSpan = u64{1} << 46;  // of one mapping's addresses

}  // namespace

bool FileIo::readable() const { return (flags_ & O_ACCMODE) != O_WRONLY; }
// Appends and synchronous writes are more than stores.
bool FileIo::writable() const { return (flags_ & O_ACCMODE) == O_RDWR && (flags_ & (O_APPEND | O_SYNC | O_DSYNC)) == 0; }

pindax_mapping* FileIo::covering(pindax_client& c, int fd, u64 end) {
  pindax_mapping* m = mapping_.load(std::memory_order_acquire);
  if (m != nullptr && end <= m->span) [[likely]] return m;
  if (refused_.load(std::memory_order_relaxed)) return nullptr;
  return grow(c, fd, end);
}

pindax_mapping* FileIo::grow(pindax_client& c, int fd, u64 end) {
  MutexLock lock(mutex_);
  pindax_mapping* m = mapping_.load(std::memory_order_relaxed);
  if (m != nullptr && end <= m->span) return m;
  if (end > kLargestSpan) return nullptr;
  const u64 span = std::max({kLeastSpan, round_up(end, kLeastSpan), m != nullptr ? std::min(2 * m->span, kLargestSpan) : 0});
  pindax_mapping* larger = nullptr;
  if (pindax_map(&c, fd, 0, span, writable() ? PROT_READ | PROT_WRITE : PROT_READ, 0, &larger) != 0 || !larger->direct) {
    if (larger != nullptr) (void)pindax_unmap(larger);
    refused_.store(true);
    return nullptr;
  }
  all_.push_back(larger);
  mapping_.store(larger, std::memory_order_release);
  return larger;
}

void FileIo::close() {
  MutexLock lock(mutex_);
  mapping_.store(nullptr);
  for (pindax_mapping* m : all_) (void)pindax_unmap(m);
  all_.clear();
}

FileTable::~FileTable() {
  for (auto& slot : rows_) {
    Row* row = slot.load();
    if (row == nullptr) continue;
    for (auto& io : *row) delete io.load();  // detach has unmapped what they have
    delete row;
  }
}

void FileTable::add(int fd, int flags) {
  if (static_cast<u32>(fd) >= kRows * kColumns || (flags & (O_PATH | O_DIRECTORY)) != 0 || (flags & O_ACCMODE) == O_WRONLY) return;
  MutexLock lock(mutex_);
  auto& slot = rows_[static_cast<u32>(fd) / kColumns];
  if (slot.load() == nullptr) {
    auto* row = new (std::nothrow) Row();
    if (row == nullptr) return;
    slot.store(row, std::memory_order_release);
  }
  // A descriptor that was closed behind our back left an entry of another file.
  FileIo* old = (*slot.load())[static_cast<u32>(fd) % kColumns].exchange(new (std::nothrow) FileIo(flags));
  delete old;
}

std::unique_ptr<FileIo> FileTable::take(int fd) {
  MutexLock lock(mutex_);
  if (static_cast<u32>(fd) >= kRows * kColumns) return nullptr;
  Row* row = rows_[static_cast<u32>(fd) / kColumns].load();
  if (row == nullptr) return nullptr;
  return std::unique_ptr<FileIo>((*row)[static_cast<u32>(fd) % kColumns].exchange(nullptr));
}

namespace {

// How many bytes were copied by mapping; -1: the other way.
ssize_t copy(pindax_client& c, int fd, void* bytes, std::size_t length, u64 offset, bool write) {
  if (!c.direct || c.born != fork_generation.load(std::memory_order_relaxed) || c.lost.load(std::memory_order_relaxed)) return -1;
  FileIo* io = c.files.find(fd);
  if (io == nullptr || !(write ? io->writable() : io->readable()) || length == 0 || offset > kMaxOffset - length) return -1;
  // Before anything is mapped the size is not known: no mapping for a read far beyond the end.
  pindax_mapping* m = io->covering(c, fd, offset + 1);
  if (m == nullptr) return -1;
  const proto::Gate& gate = c.gate(m->id);
  u64 size = gate.size_bytes.load(std::memory_order_acquire);
  if (offset >= size || (write && offset + length > size)) return -1;  // the end of file is the daemon's to tell
  std::size_t n = static_cast<std::size_t>(std::min<u64>(length, size - offset));
  if (offset + n > m->span && (m = io->covering(c, fd, offset + n)) == nullptr) return -1;
  struct pindax_pin pin;
  if ((write ? pindax_try_pin(m, offset, n, PINDAX_PIN_WRITE, &pin) : pin_for_copy_out(*m, offset, n, &pin)) != 0) return -1;
  size = c.gate(m->id).size_bytes.load(std::memory_order_acquire);
  const bool inside = offset + n <= size;
  auto* memory = reinterpret_cast<void*>(m->address_of(offset));
  if (inside) std::memmove(write ? memory : bytes, write ? bytes : memory, n);
  (void)pindax_unpin(m, &pin);
  return inside ? static_cast<ssize_t>(n) : -1;
}

// Without a mount: in messages.
template <class Step>
ssize_t in_messages(std::size_t length, Step step) {
  std::size_t done = 0;
  while (done < length) {
    const std::size_t want = std::min<std::size_t>(length - done, proto::kMaxDataBytes);
    const ssize_t n = step(done, want);
    if (n < 0) return done != 0 ? static_cast<ssize_t>(done) : n;
    done += static_cast<std::size_t>(n);
    if (static_cast<std::size_t>(n) < want) break;
  }
  return static_cast<ssize_t>(done);
}

ssize_t read_by_message(pindax_client& c, int fd, void* bytes, std::size_t length, u64 offset) {
  const std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[std::min<std::size_t>(length, proto::kMaxDataBytes)]);
  if (memory == nullptr) return fail(ENOMEM, "no memory for the bytes of a read");
  return in_messages(length, [&](std::size_t done, std::size_t want) -> ssize_t {
    proto::ReadBody body{};
    if (const int error = c.file_ref(fd, body.file); error != 0) return error;
    body.offset = offset + done;
    body.length = want;
    Reply reply;
    reply.large = {memory.get(), want};
    if (const int error = c.call(proto::Type::kRead, body, reply); error != 0) return error;
    std::memcpy(static_cast<char*>(bytes) + done, memory.get(), reply.length);
    return static_cast<ssize_t>(reply.length);
  });
}

ssize_t write_by_message(pindax_client& c, int fd, const void* bytes, std::size_t length, u64 offset) {
  return in_messages(length, [&](std::size_t done, std::size_t want) -> ssize_t {
    proto::WriteBody body{};
    if (const int error = c.file_ref(fd, body.file); error != 0) return error;
    body.offset = offset + done;
    body.length = static_cast<u32>(want);
    Reply reply;
    if (const int error = c.call(proto::Type::kWrite, body, reply, {static_cast<const char*>(bytes) + done, want}); error != 0) return error;
    proto::WriteReply answer{};
    std::memcpy(&answer, reply.bytes.data(), std::min(reply.length, sizeof(answer)));
    return static_cast<ssize_t>(std::min<u64>(answer.written, want));
  });
}

}  // namespace
}  // namespace pindax::client

using namespace pindax;
using namespace pindax::client;

extern "C" {

PINDAX_API ssize_t pindax_pread(struct pindax_client* c, int fd, void* buffer, size_t length, uint64_t offset) {
  if (const ssize_t n = copy(*c, fd, buffer, length, offset, false); n >= 0) [[likely]] return n;
  if (c->mount_path.empty()) return read_by_message(*c, fd, buffer, length, offset);
  const ssize_t n = ::pread(fd, buffer, length, static_cast<off_t>(offset));
  return n >= 0 ? n : fail_errno("pread");
}

PINDAX_API ssize_t pindax_pwrite(struct pindax_client* c, int fd, const void* buffer, size_t length, uint64_t offset) {
  if (const ssize_t n = copy(*c, fd, const_cast<void*>(buffer), length, offset, true); n >= 0) [[likely]] return n;
  if (c->mount_path.empty()) return write_by_message(*c, fd, buffer, length, offset);
  const ssize_t n = ::pwrite(fd, buffer, length, static_cast<off_t>(offset));
  return n >= 0 ? n : fail_errno("pwrite");
}

}  // extern "C"
