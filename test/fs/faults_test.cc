// SPDX-License-Identifier: BSD-3-Clause
//
// What the machine below may refuse: each allocation of each operation in turn, each flush and each store. The operation
// says so, nothing else is touched, and fsck finds the pool whole.
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/fail_points.h"
#include "data_helpers.h"
#include "faulty_media.h"
#include "fsck/fsck.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr u64 kPoolBytes = 16u << 20;
const std::string kKept(70000, 'k');

struct Operation {
  const char* name;
  std::function<Status(World&)> run;
};

Status created(World& w, std::string_view name, u32 mode, std::string_view target = {}) {
  InodeRef root = w.fs().root().value();
  FileSystem::NewInode what;
  what.mode = mode;
  what.symlink_target = target;
  return w.fs().create(*root, name, what, Caller{}).status();
}

// All or nothing: a short count is space that ran out on the way.
Status whole(Result<u64> written, u64 length) {
  if (!written.ok()) return written.status();
  return *written == length ? Status() : Status(Errc::kNoSpace, "short");
}

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = {
      {"create", [](World& w) { return created(w, "new", S_IFREG | 0644); }},
      {"mkdir", [](World& w) { return created(w, "new", S_IFDIR | 0755); }},
      {"symlink", [](World& w) { return created(w, "new", S_IFLNK | 0777, std::string(3000, 's')); }},
      {"many names",
       [](World& w) {
         for (int i = 0; i < 60; ++i)
           PINDAX_TRY(created(w, "a-name-that-is-quite-long-so-that-leaves-split-" + std::to_string(i), S_IFREG | 0600));
         return Status();
       }},
      {"unnamed, then link",
       [](World& w) {
         InodeRef root = w.fs().root().value();
         FileSystem::NewInode what;
         what.mode = S_IFREG | 0600;
         auto inode = w.fs().create_unnamed(*root, what, Caller{});
         PINDAX_TRY(inode);
         return w.fs().link(**inode, *root, "named");
       }},
      {"many links",
       [](World& w) {
         InodeRef root = w.fs().root().value(), f = w.open("full-of-holes");
         for (int i = 0; i < 40; ++i) PINDAX_TRY(w.fs().link(*f, *root, "link-with-a-long-name-of-its-own-" + std::to_string(i)));
         return Status();
       }},
      {"rename",
       [](World& w) {
         InodeRef root = w.fs().root().value();
         return w.fs().rename(*root, "kept", *root, std::string(200, 'r'), 0, Caller{});
       }},
      {"rename over a file",
       [](World& w) {
         InodeRef root = w.fs().root().value();
         return w.fs().rename(*root, "entry-1", *root, "entry-2", 0, Caller{});
       }},
      {"unlink", [](World& w) { return w.fs().unlink(*w.fs().root().value(), "full-of-holes"); }},
      {"write at the end", [](World& w) { return whole(w.append(w.open("kept"), kKept), kKept.size()); }},
      {"write into holes",
       [](World& w) { return whole(w.write(w.open("full-of-holes"), 5 * kBlockSize, std::string(600 * kBlockSize, 'w')), 600 * kBlockSize); }},
      {"write far away", [](World& w) { return whole(w.write(w.open("kept"), u64{1} << 33, "far"), 3); }},
      {"allocate", [](World& w) { return w.fallocate(w.open("full-of-holes"), 0, 0, 900 * kBlockSize); }},
      {"allocate beyond the end",
       [](World& w) { return w.fallocate(w.open("kept"), FALLOC_FL_KEEP_SIZE, u64{1} << 30, 64 * kBlockSize); }},
      {"zero a range", [](World& w) { return w.fallocate(w.open("full-of-holes"), FALLOC_FL_ZERO_RANGE, 7, 500 * kBlockSize); }},
      {"punch",
       [](World& w) {
         InodeRef f = w.open("large");
         for (u64 i = 1; i < 200; i += 2)
           PINDAX_TRY(w.fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * kBlockSize, kBlockSize));
         return Status();
       }},
      {"truncate", [](World& w) { return w.truncate(w.open("full-of-holes"), 100 * kBlockSize + 5); }},
      {"grow", [](World& w) { return w.truncate(w.open("kept"), u64{1} << 35); }},
      {"a large attribute",
       [](World& w) { return w.fs().set_xattr(*w.open("kept"), "user.large", std::string(60000, 'x'), 0, Caller{}); }},
      {"many attributes",
       [](World& w) {
         InodeRef f = w.open("kept");
         for (int i = 0; i < 30; ++i) PINDAX_TRY(w.fs().set_xattr(*f, "user.n" + std::to_string(i), std::string(400, 'x'), 0, Caller{}));
         return Status();
       }},
      {"fill holes for a writable mapping",
       [](World& w) { return w.fill(w.open("full-of-holes"), 5 * kBlockSize, 20 * kBlockSize, true).status(); }},
      {"translate for a direct writer",
       [](World& w) {
         InodeRef f = w.open("full-of-holes");
         return w.fs().translate(*f, {0, 300 * kBlockSize}, true).status();
       }},
  };
  return all;
}

// A pool with names, holes and trees enough that every operation needs blocks.
const std::vector<std::byte>& populated(Granularity g) {
  static std::map<Granularity, std::vector<std::byte>> pools;
  std::vector<std::byte>& bytes = pools[g];
  if (!bytes.empty()) return bytes;
  auto media = make_memory_media(kPoolBytes, g);
  Media& m = *media;
  World w(std::move(media), default_sync_mode(g));
  REQUIRE(w.write(w.create("kept"), 0, kKept).ok());
  REQUIRE(w.write(w.create("large"), 0, std::string(200 * kBlockSize, 'l')).ok());
  InodeRef holes = w.create("full-of-holes");
  for (u64 i = 0; i < 300; ++i) REQUIRE(w.write(holes, i * 3 * kBlockSize, "x").ok());
  holes.reset();
  for (int i = 0; i < 20; ++i) w.create("entry-" + std::to_string(i));
  w.unmount();
  bytes.resize(kPoolBytes);
  REQUIRE(m.read(PoolOffset(0), bytes.data(), kPoolBytes).ok());
  return bytes;
}

void require_whole(Media& media) {
  auto report = fsck(media, {});
  REQUIRE(report.ok());
  for (const FsckFinding& f : report->findings) UNSCOPED_INFO(f.structure << ", " << f.where << ": " << f.message);
  REQUIRE(report->exit_code() == 0);
}

struct Disarm {
  ~Disarm() { fail_points::disarm_all(); }
};

}  // namespace

TEST_CASE("fs: no space at any allocation: the operation fails, nothing leaks, and it works when there is space again") {
  const Disarm disarm;
  for (const Operation& op : operations()) {
    for (const bool onwards : {false, true}) {
      for (u64 nth = 1;; ++nth) {
        INFO(op.name << ", allocation " << nth << (onwards ? " and all later ones" : ""));
        auto media = make_memory_media(kPoolBytes);
        const auto& bytes = populated(Granularity::kCacheLine);
        REQUIRE(media->write(PoolOffset(0), bytes.data(), bytes.size()).ok());
        World w(std::move(media), SyncMode::kStrict, false);
        fail_points::arm("alloc.blocks", nth, onwards ? fail_points::kOnwards : nth);
        const Status status = op.run(w);
        const bool reached = fail_points::passages("alloc.blocks") >= nth;
        fail_points::disarm_all();
        if (!status.ok()) {
          REQUIRE(reached);
          REQUIRE((status.code() == Errc::kNoSpace || status.code() == Errc::kNoInodes));
          if (std::string_view(op.name) != "write at the end" && std::string_view(op.name) != "rename")
            REQUIRE(w.contents(w.open("kept")).substr(0, kKept.size()) == kKept);
        }
        w.unmount();
        require_whole(w.media());
        if (!reached) {
          REQUIRE(status.ok());
          break;
        }
        REQUIRE(nth < 2000);
        // What needs many allocations is sampled: the first ones, then wider apart.
        if (nth > 12) nth += nth / 3;
      }
    }
  }
}

TEST_CASE("fs: an operation that found no space succeeds afterwards") {
  const Disarm disarm;
  for (const Operation& op : operations()) {
    if (std::string_view(op.name).starts_with("many") || std::string_view(op.name) == "unnamed, then link") continue;
    INFO(op.name);
    auto media = make_memory_media(kPoolBytes);
    const auto& bytes = populated(Granularity::kCacheLine);
    REQUIRE(media->write(PoolOffset(0), bytes.data(), bytes.size()).ok());
    World w(std::move(media), SyncMode::kStrict, false);
    fail_points::arm("alloc.blocks", 1, fail_points::kOnwards);
    const Status refused = op.run(w);
    fail_points::disarm_all();
    if (!refused.ok()) REQUIRE(op.run(w).ok());
    w.unmount();
    require_whole(w.media());
  }
}

TEST_CASE("fs: a flush that fails is told by fsync, and by every later one until the pool is mounted again") {
  for (const Granularity g : {Granularity::kPage, Granularity::kCacheLine}) {
    auto media = std::make_unique<FaultyMedia>(kPoolBytes, g);
    FaultyMedia& host = *media;
    const auto& bytes = populated(g);
    REQUIRE(host.write(PoolOffset(0), bytes.data(), bytes.size()).ok());
    World w(std::move(media), default_sync_mode(g), false);
    {
      InodeRef f = w.open("kept");
      REQUIRE(w.write(f, 0, "safe").ok());
      REQUIRE(w.fs().fsync(*f, false).ok());
      host.arm(FaultyMedia::Fails::kSync, 1);
      const auto written = w.write(f, 8 * kBlockSize, "unsafe");
      const Status synced = w.fs().fsync(*f, false);
      REQUIRE((synced.code() == Errc::kIo || written.code() == Errc::kIo));
      // The host forgets the error after it told it once; we do not.
      host.arm(FaultyMedia::Fails::kNothing, 1);
      REQUIRE_FALSE(w.fs().fsync(*f, false).ok());
      REQUIRE_FALSE(w.fs().fsync(*w.open("large"), false).ok());
      REQUIRE_FALSE(w.fs().sync_all().ok());
      REQUIRE(created(w, "new", S_IFREG | 0644).code() == Errc::kIo);
      REQUIRE(w.contents(f).substr(0, 4) == "safe");
    }
    w.kill();
    host.heal();
    w.mount();
    REQUIRE(w.contents(w.open("kept")).substr(0, 4) == "safe");
    REQUIRE(created(w, "new", S_IFREG | 0644).ok());
    w.unmount();
    require_whole(host);
  }
}

TEST_CASE("fs: whichever flush or store of an operation fails, the next mount finds the pool whole") {
  for (const Granularity g : {Granularity::kPage, Granularity::kCacheLine}) {
    for (const auto what : {FaultyMedia::Fails::kSync, FaultyMedia::Fails::kStore}) {
      for (const Operation& op : operations()) {
        for (u64 nth = 1;; nth += 1 + nth / 4) {
          INFO(op.name << (what == FaultyMedia::Fails::kSync ? ", flush " : ", store ") << nth << ", " << granularity_name(g));
          auto media = std::make_unique<FaultyMedia>(kPoolBytes, g);
          FaultyMedia& host = *media;
          const auto& bytes = populated(g);
          REQUIRE(host.write(PoolOffset(0), bytes.data(), bytes.size()).ok());
          World w(std::move(media), default_sync_mode(g), false);
          host.arm(what, nth);
          const Status status = op.run(w);
          const Status synced = w.fs().sync_all();
          const bool reached = host.failed();
          if (!reached) {
            INFO(status.message());
            REQUIRE(status.ok());
            REQUIRE(synced.ok());
            break;
          }
          REQUIRE_FALSE(synced.ok());
          w.kill();
          host.heal();
          w.mount();
          if (std::string_view(op.name) != "rename")
            REQUIRE(w.contents(w.open("kept")).substr(0, kKept.size()) == kKept);
          w.unmount();
          require_whole(host);
        }
      }
    }
  }
}
