// SPDX-License-Identifier: BSD-3-Clause
//
// Media over a real pool: a regular file, a tmpfs file, an fsdax file, a devdax device, through libpmem2.
#pragma once

#include <sys/stat.h>

#include <vector>

#include "base/unique_fd.h"
#include "pmem/media.h"

namespace pindax {

enum class PoolKind { kRegularFile, kRamFile, kFsdaxFile, kDevdax };
const char* pool_kind_name(PoolKind k);

struct OpenPoolOptions {
  bool read_only = false;
  bool exclusive = true;  // take the owner lock; kBusy names the owning process if somebody has it
};

class PoolMedia : public Media {
 public:
  // Creates or (with force) takes over a pool file of `size` bytes (0: what the file or device has) and reserves its
  // space on the host unless `sparse`. Holds the owner lock. A file (but not a device) reads as zeros afterwards.
  // Errors: kExists without force if the file holds a pool or is not empty, kBusy if a daemon owns it or former clients
  // map it, kNoSpace, kInvalid with advice. On error a file that existed is as it was, but for kNoSpace with force.
  static Result<std::unique_ptr<PoolMedia>> create(const std::string& path, u64 size, bool sparse, bool force);
  static Result<std::unique_ptr<PoolMedia>> open(const std::string& path, const OpenPoolOptions& options);

  virtual PoolKind kind() const = 0;
  virtual const std::string& path() const = 0;
  virtual int fd() const = 0;  // owned by the media
  virtual const struct stat& identity() const = 0;  // device, inode, mode at open
  // Of a kRamFile: its file system gives out 2 MiB pages (tmpfs with huge=always or within_size).
  virtual bool huge_pages() const = 0;
  // Each AG is mapped by itself, on first use: tell the size once the superblock is known, before other threads use the
  // pool. Until then only the first 4 MiB can be used. Views of that time stay valid.
  virtual void set_segment_size(u64 bytes) = 0;

  // Witness bytes (D1, D2): OFD locks on a byte per client beyond kWitnessBase. True if somebody holds byte `index`.
  virtual Result<bool> witness_held(u32 index) const = 0;
  // All that are held, ascending; empty is "nobody".
  virtual Result<std::vector<u32>> witnesses_held() const = 0;
};

// Byte offsets of OFD locks on the pool file: far behind every pool size, so nothing else locks there.
inline constexpr u64 kOwnerLockByte = (u64{1} << 62);
inline constexpr u64 kWitnessBase = (u64{1} << 62) + 4096;
inline constexpr u32 kMaxWitnesses = 1u << 20;
// Takes the witness byte on a description that belongs to a client. kBusy if somebody else has it; kBadDescriptor if
// the description is not open for reading.
Status take_witness(int client_pool_fd, u32 index);

// In memory, for unit tests; every store succeeds.
std::unique_ptr<Media> make_memory_media(u64 size, Granularity granularity = Granularity::kCacheLine);

}  // namespace pindax
