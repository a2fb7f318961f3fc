// SPDX-License-Identifier: BSD-3-Clause
//
// Growing a pool that is not mounted.
#include "base/steps.h"
#include "data_helpers.h"
#include "fs/resize.h"
#include "fsck/fsck.h"

using namespace pindax;
using namespace pindax::test;

namespace {

std::unique_ptr<Media> copy_of(const Media& from, u64 size) {
  auto to = make_memory_media(size);
  for (u64 at = 0; at < from.size(); at += kBlockSize)
    REQUIRE(to->write(PoolOffset(at), from.view(PoolOffset(at), kBlockSize), kBlockSize).ok());
  return to;
}

void require_sound(Media& media) {
  const auto report = fsck(media, {});
  REQUIRE(report.ok());
  for (const auto& f : report->findings) {
    CAPTURE(f.structure, f.where, f.message);
    CHECK(f.severity == FsckSeverity::kNote);
  }
}

// A pool of `bytes` with one file that fills half of it.
std::unique_ptr<Media> make_pool(u64 bytes, std::string* contents) {
  World w(bytes);
  auto f = w.create("f");
  *contents = std::string(bytes / 2, 'x');
  REQUIRE(w.write(f, 0, *contents).ok());
  f.reset();
  w.unmount();
  return copy_of(w.media(), bytes);
}

}  // namespace

TEST_CASE("fs: a pool that has grown holds what it held, and as much more; fsck agrees") {
  // Whole groups more; a part of a group; the last group longer, and others behind it; hardly anything.
  for (const auto& [from, to] : {std::pair<u64, u64>{16u << 20, 48u << 20}, {16u << 20, 21u << 20}, {18u << 20, 41u << 20}, {18u << 20, 19u << 20},
                                 {16u << 20, (16u << 20) + kBlockSize}}) {
    CAPTURE(from, to);
    std::string contents;
    const auto small = make_pool(from, &contents);
    auto media = copy_of(*small, to);
    const auto report = grow_file_system(*media);
    INFO(report.status().message());
    REQUIRE(report.ok());
    CHECK(report->old_bytes <= from);
    CHECK(report->new_bytes <= to);
    CHECK(report->new_bytes + (1u << 20) > to);
    require_sound(*media);
    const u64 grown = report->new_bytes - report->old_bytes;
    World w(std::move(media), SyncMode::kStrict, false);
    auto f = w.open("f");
    CHECK(w.contents(f) == contents);
    auto g = w.create("g");
    REQUIRE(w.write(g, 0, std::string(grown / 2, 'y')).ok());
    CHECK(w.contents(f) == contents);
    CHECK(w.contents(g) == std::string(grown / 2, 'y'));
  }
}

TEST_CASE("fs: a growth that is cut short anywhere leaves the old pool or a sound one, and a second run ends it") {
  std::string contents;
  const auto small = make_pool(18u << 20, &contents);
  for (const char* point : {"resize.formatted", "resize.superblock_copy", "resize.counted"}) {
    CAPTURE(point);
    auto media = copy_of(*small, 41u << 20);
    std::unique_ptr<Media> crash;
    steps::arm(point, [&] {
      if (crash == nullptr) crash = copy_of(*media, media->size());
    });
    REQUIRE(grow_file_system(*media).ok());
    steps::disarm_all();
    REQUIRE(crash != nullptr);
    {
      World w(copy_of(*crash, crash->size()), SyncMode::kStrict, false);
      CHECK(w.contents(w.open("f")) == contents);
    }
    REQUIRE(grow_file_system(*crash).ok());
    require_sound(*crash);
    World w(std::move(crash), SyncMode::kStrict, false);
    CHECK(w.contents(w.open("f")) == contents);
    CHECK(w.free_blocks() > (20u << 20) / kBlockSize);
  }
}

TEST_CASE("fs: a mounted pool, and media that is too small, are not resized") {
  World w(16u << 20);
  auto bigger = copy_of(w.media(), 32u << 20);
  CHECK(grow_file_system(*bigger).code() == Errc::kBusy);
  std::string contents;
  const auto pool = make_pool(32u << 20, &contents);
  auto smaller = make_memory_media(16u << 20);
  for (u64 at = 0; at < smaller->size(); at += kBlockSize)
    REQUIRE(smaller->write(PoolOffset(at), pool->view(PoolOffset(at), kBlockSize), kBlockSize).ok());
  CHECK(grow_file_system(*smaller).code() == Errc::kInvalid);
}
