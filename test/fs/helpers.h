// SPDX-License-Identifier: BSD-3-Clause
//
// A file system over media in memory, for tests of the room. Nothing runs in the background unless a test asks for it.
#pragma once

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "fs/file_system_impl.h"
#include "pmem/pool_media.h"

namespace pindax::test {

inline constexpr u64 kTestPoolBytes = 64u << 20;

inline Caller root_caller() {
  Caller c;
  c.umask = 0;
  c.privileged = true;
  return c;
}
inline Caller user_caller(u32 uid, u32 gid, u32 umask = 022) {
  Caller c;
  c.uid = uid;
  c.gid = gid;
  c.umask = umask;
  return c;
}

struct TestOptions {
  u64 pool_bytes = kTestPoolBytes;
  Granularity granularity = Granularity::kCacheLine;
  std::optional<SyncMode> sync{};
  bool background = false;
  std::string boot_id = std::string(16, 'b');
};

class TestFs {
 public:
  explicit TestFs(TestOptions options = {}) : options_(std::move(options)), executor_(2) {
    media_ = make_memory_media(options_.pool_bytes, options_.granularity);
    MkfsOptions mkfs;
    mkfs.zeroed = true;
    const Status made = make_file_system(*media_, mkfs);
    INFO(made.message());
    REQUIRE(made.ok());
    mount();
  }
  ~TestFs() { drop(); }

  FileSystemImpl& operator*() { return *impl_; }
  FileSystemImpl* operator->() { return impl_; }
  Media& media() { return *media_; }
  Executor& executor() { return executor_; }
  TestOptions& options() { return options_; }

  Status try_mount(const std::function<void(MountOptions&)>& adjust = {}) {
    MountOptions o;
    o.sync = options_.sync.value_or(default_sync_mode(options_.granularity));
    o.background = options_.background;
    o.boot_id = options_.boot_id;
    if (adjust) adjust(o);
    auto fs = FileSystem::mount(*media_, executor_, o);
    if (!fs.ok()) return fs.status();
    fs_ = std::move(*fs);
    impl_ = static_cast<FileSystemImpl*>(fs_.get());
    return {};
  }
  void mount(const std::function<void(MountOptions&)>& adjust = {}) {
    const Status s = try_mount(adjust);
    INFO(s.message());
    REQUIRE(s.ok());
  }
  // As after kill -9. No InodeRef may be left.
  void drop() {
    if (impl_ != nullptr && !options_.background) {
      impl_->take_dirty();
      PINDAX_ASSERT(impl_->cached_inodes() == 0);
    }
    fs_.reset();
    impl_ = nullptr;
  }
  void remount() {
    drop();
    mount();
  }

  InodeRef root() { return ok(impl_->root()); }
  InodeRef at(std::string_view path) { return ok(impl_->resolve(path)); }
  InodeRef make(Inode& dir, std::string_view name, u32 mode = S_IFREG | 0644, std::string_view target = {}) {
    FileSystem::NewInode what;
    what.mode = mode;
    what.symlink_target = target;
    return ok(impl_->create(dir, name, what, root_caller()));
  }
  Attributes stat(Inode& inode) { return ok(impl_->attributes(inode)); }
  Attributes stat(std::string_view path) { return stat(*at(path)); }
  std::vector<std::string> list(Inode& dir) {
    std::vector<std::string> names;
    const Status s = impl_->read_directory(dir, 2, [&](const FileSystem::DirectoryEntry& e) {
      names.emplace_back(e.name);
      return true;
    });
    REQUIRE(s.ok());
    std::sort(names.begin(), names.end());
    return names;
  }

  template <class T>
  static T ok(Result<T> r) {
    INFO(r.status().message());
    REQUIRE(r.ok());
    return std::move(r).value();
  }

 private:
  TestOptions options_;
  std::unique_ptr<Media> media_;
  Executor executor_;
  std::unique_ptr<FileSystem> fs_;
  FileSystemImpl* impl_ = nullptr;
};

// The seed of this run: PINDAX_SEED, or a fixed one.
inline u64 seed() {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 s = text != nullptr ? std::strtoull(text, nullptr, 0) : 20240229;
  std::printf("PINDAX_SEED=%llu\n", static_cast<unsigned long long>(s));
  return s;
}

}  // namespace pindax::test

#define REQUIRE_OK(expr)                                \
  do {                                                  \
    const ::pindax::Status require_ok_ = as_status(expr); \
    INFO(#expr << ": " << require_ok_.message());        \
    REQUIRE(require_ok_.ok());                            \
  } while (0)
#define REQUIRE_ERROR(expr, errc) REQUIRE((expr).code() == ::pindax::Errc::errc)
