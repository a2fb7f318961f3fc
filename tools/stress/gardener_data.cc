// SPDX-License-Identifier: BSD-3-Clause
//
// What a gardener does with bytes. The model changes only when an operation is acknowledged.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/unique_fd.h"
#include "stress/gardener.h"
#include "stress/process.h"

namespace pindax::stress {
namespace {

constexpr u64 kFileMax = 160 << 10;

}  // namespace

bool Gardener::data() {
  const std::string* path = any_file();
  if (path == nullptr) return true;
  File& file = *files_[*path];
  doubt_file(file);
  switch (random_.below(8)) {
    case 0:
    case 1: return write(*path, file);
    case 2:
    case 3: return change(*path, file);
    case 4: return copy(*path, file);
    case 5:
    case 6: return store(*path, file);
    default: return store_mounted(*path, file);
  }
}

bool Gardener::write(const std::string& path, File& file) {
  const bool append = random_.chance(40);
  const u64 offset = append ? file.bytes.size() : random_.below(file.bytes.size() + 10'000);
  const u64 length = std::min(random_.between(1, 20'000), kFileMax - std::min(offset, kFileMax));
  if (length == 0) return true;
  std::string bytes(length, '\0');
  fill_pattern(bytes.data(), random_.next(), offset, length);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | (append ? O_APPEND : 0)));
  if (!fd) return failed("open " + path);
  const ssize_t n = append ? ::write(fd.get(), bytes.data(), length) : ::pwrite(fd.get(), bytes.data(), length, static_cast<off_t>(offset));
  if (n != static_cast<ssize_t>(length)) return failed(fmt::format("write {} gave {}", path, n));
  if (random_.chance(5) && ::fsync(fd.get()) != 0) return failed("fsync " + path);
  if (offset + length > file.bytes.size()) file.bytes.resize(offset + length, '\0');
  file.bytes.replace(offset, length, bytes);
  return true;
}

bool Gardener::change(const std::string& path, File& file) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return failed("open " + path);
  const u64 offset = random_.below(file.bytes.size() + 5000), length = random_.between(1, 30'000);
  const u64 end = std::min(offset + length, file.bytes.size());
  constexpr int kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
  const u64 which = random_.below(6);
  if (which >= 4) {
    if (::ftruncate(fd.get(), static_cast<off_t>(offset)) != 0) return failed("truncate " + path);
    file.bytes.resize(offset, '\0');
    return true;
  }
  if (::fallocate(fd.get(), kModes[which], static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) return failed(fmt::format("fallocate mode {} {}", kModes[which], path));
  if (which == 0) file.bytes.resize(std::max<u64>(file.bytes.size(), offset + length), '\0');
  if (which >= 2 && offset < end) std::fill(file.bytes.begin() + static_cast<std::ptrdiff_t>(offset), file.bytes.begin() + static_cast<std::ptrdiff_t>(end), '\0');
  return true;
}

bool Gardener::copy(const std::string& path, File& file) {
  const std::string source = *any_file();
  const File& from = *files_[source];
  if (&from == &file || from.bytes.empty()) return true;
  off_t at = static_cast<off_t>(random_.below(from.bytes.size())), to = static_cast<off_t>(random_.below(file.bytes.size() + 1));
  const u64 begin = static_cast<u64>(at), place = static_cast<u64>(to);
  const u64 length = std::min({random_.between(1, 40'000), from.bytes.size() - begin, kFileMax - std::min(place, kFileMax)});
  if (length == 0) return true;
  const UniqueFd in(::open(source.c_str(), O_RDONLY | O_CLOEXEC)), out(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!in || !out) return failed(fmt::format("open {} and {}", source, path));
  for (u64 done = 0; done < length;) {
    const ssize_t n = ::copy_file_range(in.get(), &at, out.get(), &to, length - done, 0);
    if (n <= 0) return failed(fmt::format("copy_file_range {} to {} gave {}", source, path, n));
    done += static_cast<u64>(n);
  }
  if (place + length > file.bytes.size()) file.bytes.resize(place + length, '\0');
  file.bytes.replace(place, length, from.bytes, begin, length);
  return true;
}

bool Gardener::store(const std::string& path, File& file) {
  const u64 size = file.bytes.size();
  if (size == 0) return true;
  const int fd = pindax_open(client_, path.c_str(), O_RDWR, 0);
  if (fd < 0) return failed("pindax_open " + path, -fd);
  pindax_mapping* mapping = nullptr;
  int code = pindax_map(client_, fd, 0, size, PROT_READ | PROT_WRITE, random_.chance(50) ? PINDAX_MAP_POPULATE : 0, &mapping);
  if (code != 0) {
    (void)pindax_close(client_, fd);
    return failed("pindax_map " + path, -code);
  }
  const u64 offset = random_.below(size), length = std::min(random_.between(1, 20'000), size - offset);
  std::string bytes(length, '\0');
  fill_pattern(bytes.data(), random_.next(), offset, length);
  struct pindax_pin pin{};
  const bool pinned = random_.chance(50);
  if (pinned) code = pindax_pin(mapping, offset, length, PINDAX_PIN_WRITE, &pin);
  auto* memory = static_cast<char*>(pindax_mapping_address(mapping));
  bool same = true;
  int signal = 0;
  if (code == 0) {
    place_.shared->pins.fetch_add(pinned ? 1 : 0, std::memory_order_relaxed);
    signal = guarded_access([&] {
      same = std::memcmp(memory, file.bytes.data(), size) == 0;
      std::memcpy(memory + offset, bytes.data(), length);
    });
    if (random_.chance(50)) code = pindax_persist(mapping, offset, length);
    if (pinned) (void)pindax_unpin(mapping, &pin);
  }
  const int unmapped = pindax_unmap(mapping);
  (void)pindax_close(client_, fd);
  if (code == 0) code = unmapped;
  if (code != 0) return failed(fmt::format("pin, persist or unmap of {} ({})", path, pindax_last_error()), -code);
  if (signal != 0) return failed(fmt::format("{}: a store of [{}, +{}) in {} bytes ended with signal {}", path, offset, length, size, signal), EFAULT);
  if (!same) {
    why_ = path + ": a mapping shows other bytes than were written";
    return false;
  }
  file.bytes.replace(offset, length, bytes);
  return true;
}

bool Gardener::store_mounted(const std::string& path, File& file) {
  const u64 size = file.bytes.size();
  if (size == 0) return true;
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return failed("open " + path);
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (p == MAP_FAILED) return failed("mmap " + path);
  auto* memory = static_cast<char*>(p);
  const u64 offset = random_.below(size), length = std::min(random_.between(1, 20'000), size - offset);
  std::string bytes(length, '\0');
  fill_pattern(bytes.data(), random_.next(), offset, length);
  bool same = true;
  const int signal = guarded_access([&] {
    same = std::memcmp(memory, file.bytes.data(), size) == 0;
    std::memcpy(memory + offset, bytes.data(), length);
  });
  // Written back before it counts: the daemon's death would take the kernel's pages along.
  const int synced = signal == 0 ? ::msync(memory, size, MS_SYNC) : 0;
  const int error = errno;
  ::munmap(memory, size);
  if (signal != 0) return failed(fmt::format("{}: an access through an ordinary mapping ended with signal {}", path, signal), EFAULT);
  if (synced != 0) return failed("msync " + path, error);
  if (!same) {
    why_ = path + ": an ordinary mapping shows other bytes than were written";
    return false;
  }
  file.bytes.replace(offset, length, bytes);
  return true;
}

}  // namespace pindax::stress
