// SPDX-License-Identifier: BSD-3-Clause
//
// File systems over media in memory for the tests of the data half, with calls that wait for their answer.
#pragma once

#include <fcntl.h>

#include <cstring>
#include <random>
#include <set>
#include <string>

#include "base/executor.h"
#include "catch.h"
#include "fs/file_data.h"
#include "pmem/pool_media.h"

namespace pindax::test {

constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
inline std::string text(char c, u64 length) { return std::string(length, c); }

// A seed from PINDAX_SEED, or a new one; printed, so that a failure can be run again.
u64 choose_seed();

// A page-granular pool whose host may crash: pages that were not flushed are lost, unless the host happened
// to write them back, which it does at random moments.
class LossyMedia final : public Media {
 public:
  LossyMedia(u64 size, u64 seed);
  u64 size() const override { return inner_->size(); }
  Granularity granularity() const override { return Granularity::kPage; }
  const std::byte* view(PoolOffset at, u64 length) const override { return inner_->view(at, length); }
  Status read(PoolOffset at, void* out, u64 length) const override { return inner_->read(at, out, length); }
  Status write(PoolOffset at, const void* data, u64 length) override;
  Status write_nt(PoolOffset at, const void* data, u64 length) override { return write(at, data, length); }
  Status zero(PoolOffset at, u64 length) override;
  Status flush(PoolOffset at, u64 length) override;
  Status drain() override { return {}; }
  Status punch(PoolOffset at, u64 length) override;
  Status sync_all() override;
  bool failed() const override { return false; }

  void crash();  // of the host: what was not written back is gone

 private:
  void stored(PoolOffset at, u64 length);
  void write_back(u64 page);

  std::unique_ptr<Media> inner_;
  std::mutex mutex_;
  std::vector<std::byte> durable_;
  std::set<u64> dirty_;
  std::mt19937_64 random_;
};

class World {
 public:
  explicit World(u64 bytes = 64u << 20, Granularity granularity = Granularity::kCacheLine,
                 SyncMode mode = SyncMode::kStrict);
  World(std::unique_ptr<Media> media, SyncMode mode, bool format = true);
  ~World();

  void mount();
  void kill() { fs_.reset(); }  // as kill -9 of the daemon
  void unmount();
  void reboot();  // the next mount is another boot of the host
  void remount() {
    kill();
    mount();
  }

  FileSystemImpl& fs() { return static_cast<FileSystemImpl&>(*fs_); }
  Media& media() { return *media_; }
  InodeRef create(const std::string& name);
  InodeRef open(const std::string& name);

  Result<u64> write(const InodeRef& inode, u64 offset, std::string_view data, bool sync = false);
  Result<u64> append(const InodeRef& inode, std::string_view data);
  Result<std::string> read(const InodeRef& inode, u64 offset, u64 length);
  std::string contents(const InodeRef& inode);
  Result<std::string> fill(const InodeRef& inode, u64 offset, u64 length, bool writable);
  Status truncate(const InodeRef& inode, u64 size);
  Status fallocate(const InodeRef& inode, int mode, u64 offset, u64 length);
  Result<u64> clone(const FileSystem::CloneRequest& request);
  Result<u64> clone(const InodeRef& from, u64 source, const InodeRef& to, u64 destination, u64 length = 0) {
    return clone({.source = from, .destination = to, .source_offset = source, .destination_offset = destination, .length = length});
  }
  void check_pool();  // unmounts, runs fsck, which must find nothing, and mounts again
  std::vector<ExtentInfo> extents(const InodeRef& inode);
  format::Inode slot(const InodeRef& inode);
  u64 free_blocks();

  MountOptions options;

 private:
  std::unique_ptr<Media> media_;
  Executor executor_{2};
  std::unique_ptr<FileSystem> fs_;
};

// A file as a row of bytes.
class Model {
 public:
  void write(u64 offset, std::string_view data) {
    if (data.empty()) return;
    if (bytes.size() < offset + data.size()) bytes.resize(offset + data.size());
    std::memcpy(bytes.data() + offset, data.data(), data.size());
  }
  void zero(u64 begin, u64 end) {
    for (u64 i = begin; i < std::min<u64>(end, bytes.size()); ++i) bytes[i] = 0;
  }
  std::string bytes;
};

}  // namespace pindax::test
