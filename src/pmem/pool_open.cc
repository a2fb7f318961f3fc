// SPDX-License-Identifier: BSD-3-Clause
//
// Finding out what a pool lies on, making its file, and opening it.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "fmt/format.h"

#include "format/format.h"
#include "pmem/pool_locks.h"
#include "pmem/pool_media_impl.h"

namespace pindax {
namespace {

Status host_error(const std::string& path, const char* what) {
  const int err = errno;
  switch (err) {
    case ENOENT: return Status(Errc::kNotFound, fmt::format("{}: no such pool: make one with pindax mkfs", path));
    case EACCES:
    case EPERM: return Status(Errc::kAccess, fmt::format("{}: permission denied: you must be able to read and write the pool", path));
    case EROFS: return Status(Errc::kReadOnly, fmt::format("{} is on a read-only file system", path));
    case ENOSPC:
    case EDQUOT: return Status(Errc::kNoSpace, fmt::format("{}: not enough space on the host: make a smaller pool, or a sparse one", path));
    case EFBIG: return Status(Errc::kTooBig, fmt::format("{}: the host's file system allows no file of this size", path));
    case EOPNOTSUPP: return Status(Errc::kNotSupported, fmt::format("{}: the host's file system cannot reserve space: make a sparse pool", path));
    default: return Status(Errc::kIo, fmt::format("{}: {}: {}", path, what, std::strerror(err)));
  }
}

bool is_dax_device(const struct stat& st) {
  char target[PATH_MAX];
  const std::string link = fmt::format("/sys/dev/char/{}:{}/subsystem", major(st.st_rdev), minor(st.st_rdev));
  return ::realpath(link.c_str(), target) != nullptr && std::strstr(target, "/dax") != nullptr;
}

// The host file system promises that a flushed store is durable without fsync.
bool maps_synchronously(int fd, bool read_only) {
  const int protection = PROT_READ | (read_only ? 0 : PROT_WRITE);
  void* p = ::mmap(nullptr, kBlockSize, protection, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
  if (p == MAP_FAILED) return false;
  ::munmap(p, kBlockSize);
  return true;
}

// tmpfs with 2 MiB pages, for all or for those who ask, by its mount's options or the system-wide switch.
bool has_huge_pages(const struct stat& st) {
  std::ifstream force("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string line;
  if (std::getline(force, line) && line.find("[force]") != std::string::npos) return true;
  const std::string device = fmt::format("{}:{}", major(st.st_dev), minor(st.st_dev));
  std::ifstream mounts("/proc/self/mountinfo");
  while (std::getline(mounts, line)) {
    std::istringstream words(line);
    std::string id, parent, dev;
    words >> id >> parent >> dev;
    if (dev == device) return line.find("huge=") != std::string::npos && line.find("huge=never") == std::string::npos;
  }
  return false;
}

// Fills in what lies behind the descriptor.
Status identify(int fd, PoolMediaImpl::Identity& id) {
  if (::fstat(fd, &id.stat) != 0) return host_error(id.path, "cannot look at it");
  if (S_ISCHR(id.stat.st_mode) && is_dax_device(id.stat)) {
    id.kind = PoolKind::kDevdax;
    pmem2_source* source = nullptr;
    std::size_t size = 0, alignment = 0;
    const bool known = pmem2_source_from_fd(&source, fd) == 0 && pmem2_source_size(source, &size) == 0 &&
                       pmem2_source_alignment(source, &alignment) == 0;
    if (source != nullptr) pmem2_source_delete(&source);
    if (!known) return Status(Errc::kIo, fmt::format("{}: {}", id.path, pmem2_errormsg()));
    if (alignment > kBlockSize)
      return Status(Errc::kInvalid,
                    fmt::format("{} can only be mapped in pieces of {} KiB, clients map blocks of 4: make it with "
                                "ndctl create-namespace -m devdax -a 4096", id.path, alignment >> 10));
    id.size = round_down(size, kBlockSize);
    return {};
  }
  if (!S_ISREG(id.stat.st_mode))
    return Status(Errc::kInvalid,
                  fmt::format("{} is neither a file nor a devdax device: put a file system on it and the pool into a file there", id.path));
  struct statfs fs {};
  if (::fstatfs(fd, &fs) != 0) return host_error(id.path, "cannot look at its file system");
  id.size = round_down(static_cast<u64>(id.stat.st_size), kBlockSize);
  id.sparse = static_cast<u64>(id.stat.st_blocks) * 512 < id.size;
  if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
    id.kind = PoolKind::kRamFile, id.huge_pages = has_huge_pages(id.stat);
  else if (id.size != 0 && maps_synchronously(fd, id.read_only))
    id.kind = PoolKind::kFsdaxFile;
  else
    id.kind = PoolKind::kRegularFile;
  return {};
}

Result<std::unique_ptr<PoolMedia>> attach(UniqueFd fd, PoolMediaImpl::Identity id) {
  if (id.size < format::kMinPoolBytes)
    return Status(Errc::kInvalid, fmt::format("{} is too small: a pool has at least {} MiB", id.path, format::kMinPoolBytes >> 20));
  const std::string path = id.path;
  auto media = std::make_unique<PoolMediaImpl>(std::move(fd), std::move(id));
  if (Status s = media->attach(); !s.ok()) return s.with_context(path);
  return std::unique_ptr<PoolMedia>(std::move(media));
}

// `read` fetches eight bytes at an offset, or fails.
template <class F>
bool holds_pool(F read) {
  le64 magic = 0;
  for (u64 at : format::kSuperblockOffsets)
    if (read(at, &magic) && magic == format::kSuperblockMagic) return true;
  return false;
}

Status already_a_pool(const std::string& path) {
  return Status(Errc::kExists, fmt::format("{} holds a pool already: --force destroys it and all its files", path));
}

// Gives an unused or condemned file its size and its space.
Status size_file(int fd, PoolMediaImpl::Identity& id, u64 size, bool sparse) {
  if (id.stat.st_size != 0 && ::ftruncate(fd, 0) != 0) return host_error(id.path, "cannot empty it");
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0) return host_error(id.path, "cannot set its size");
  if (!sparse && ::fallocate(fd, 0, 0, static_cast<off_t>(size)) != 0) {
    const Status status = host_error(id.path, "cannot reserve its space");
    (void)!::ftruncate(fd, 0);
    return status;
  }
  PINDAX_TRY(identify(fd, id));
  id.sparse = sparse;
  return {};
}

Result<std::unique_ptr<PoolMedia>> create_in(UniqueFd fd, PoolMediaImpl::Identity id, u64 size, bool sparse,
                                             bool force) {
  PINDAX_TRY(identify(fd.get(), id));
  PINDAX_TRY(take_owner_lock(fd.get(), false, id.path));
  if (id.kind == PoolKind::kDevdax) {
    if (size > id.size) return Status(Errc::kInvalid, fmt::format("{} has only {} bytes", id.path, id.size));
    if (size != 0) id.size = round_down(size, kBlockSize);
    PINDAX_ASSIGN(auto media, attach(std::move(fd), id));
    const auto read = [&](u64 at, le64* magic) { return media->read(PoolOffset(at), magic, sizeof *magic).ok(); };
    if (!force && holds_pool(read)) return already_a_pool(id.path);
    return media;
  }
  if (id.stat.st_size != 0 && !force) {
    const auto read = [&](u64 at, le64* magic) {
      return ::pread(fd.get(), magic, sizeof *magic, static_cast<off_t>(at)) == sizeof *magic;
    };
    if (holds_pool(read)) return already_a_pool(id.path);
    return Status(Errc::kExists, fmt::format("{} is not empty: --force destroys what is in it", id.path));
  }
  PINDAX_ASSIGN(const auto mapped_by, held_witness_bytes(fd.get()));
  if (!mapped_by.empty())
    return Status(Errc::kBusy, fmt::format("{} is still mapped by {} former client(s): end them first", id.path, mapped_by.size()));
  if (size == 0) size = id.size;
  size = round_down(size, kBlockSize);
  if (size < format::kMinPoolBytes || size > format::kMaxPoolBytes)
    return Status(Errc::kInvalid, fmt::format("a pool has {} MiB to {} TiB: give such a size", format::kMinPoolBytes >> 20, format::kMaxPoolBytes >> 40));
  PINDAX_TRY(size_file(fd.get(), id, size, sparse));
  return attach(std::move(fd), std::move(id));
}

}  // namespace

const char* pool_kind_name(PoolKind k) {
  switch (k) {
    case PoolKind::kRegularFile: return "file";
    case PoolKind::kRamFile: return "ram";
    case PoolKind::kFsdaxFile: return "fsdax";
    case PoolKind::kDevdax: return "devdax";
  }
  return "unknown";
}

Result<std::unique_ptr<PoolMedia>> PoolMedia::create(const std::string& path, u64 size, bool sparse, bool force) {
  bool created = true;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd && errno == EEXIST) {
    created = false;
    fd.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  }
  if (!fd && errno == ENOENT) return Status(Errc::kNotFound, fmt::format("{}: no such directory", path));
  if (!fd) return host_error(path, "cannot open it");
  PoolMediaImpl::Identity id;
  id.path = path;
  auto media = create_in(std::move(fd), std::move(id), size, sparse, force);
  if (!media.ok() && created) ::unlink(path.c_str());
  return media;
}

Result<std::unique_ptr<PoolMedia>> PoolMedia::open(const std::string& path, const OpenPoolOptions& options) {
  UniqueFd fd(::open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd) return host_error(path, "cannot open it");
  if (options.exclusive) PINDAX_TRY(take_owner_lock(fd.get(), options.read_only, path));
  PoolMediaImpl::Identity id;
  id.path = path;
  id.read_only = options.read_only;
  PINDAX_TRY(identify(fd.get(), id));
  return attach(std::move(fd), std::move(id));
}

}  // namespace pindax
