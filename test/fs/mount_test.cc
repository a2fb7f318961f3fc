// SPDX-License-Identifier: BSD-3-Clause
#include <thread>

#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

format::Superblock copy_of(TestFs& fs, unsigned i) {
  format::Superblock sb;
  REQUIRE_OK(fs.media().read(PoolOffset(format::kSuperblockOffsets[i]), &sb, sizeof sb));
  return sb;
}

TEST_CASE("fs: mkfs writes both superblocks and says why a pool is too small") {
  TestFs fs;
  for (unsigned i = 0; i < 2; ++i) CHECK(format::check_superblock(copy_of(fs, i), format::kSuperblockOffsets[i]).ok());
  const auto tiny = make_memory_media(1u << 20);
  const Status s = make_file_system(*tiny, {});
  REQUIRE_ERROR(s, kInvalid);
  CHECK(!s.message().empty());
  const auto unformatted = make_memory_media(kTestPoolBytes);
  CHECK(!FileSystem::mount(*unformatted, fs.executor(), {}).ok());
}

TEST_CASE("fs: unmount marks the pool clean and every mount has its epoch") {
  TestFs fs;
  const u32 first = fs->mount_epoch();
  REQUIRE_OK(fs->unmount());
  for (unsigned i = 0; i < 2; ++i) {
    CHECK(copy_of(fs, i).state == static_cast<u32>(format::PoolState::kClean));
    CHECK(copy_of(fs, i).confirmed_epoch == first);
  }
  fs.remount();
  CHECK(fs->mount_epoch() == first + 1);
  CHECK(copy_of(fs, 0).state == static_cast<u32>(format::PoolState::kMounted));
  CHECK(!fs->epoch_lost(first));
}

TEST_CASE("fs: either superblock alone is enough") {
  for (const unsigned damaged : {0u, 1u}) {
    TestFs fs;
    fs.make(*fs.root(), "f");
    fs.drop();
    REQUIRE_OK(fs.media().zero(PoolOffset(format::kSuperblockOffsets[damaged]), 100));
    fs.mount();
    CHECK(fs.list(*fs.root()).size() == 1);
    CHECK(format::check_superblock(copy_of(fs, damaged), format::kSuperblockOffsets[damaged]).ok());
    fs.drop();
    for (const u64 at : format::kSuperblockOffsets) REQUIRE_OK(fs.media().zero(PoolOffset(at), 100));
    CHECK(!fs.try_mount().ok());
  }
}

TEST_CASE("fs: of two superblocks the newer one counts") {
  TestFs fs;
  format::Superblock old = copy_of(fs, 0);
  fs.drop();
  old.sequence -= 1;
  old.root_inode = 1;
  format::seal(old);
  REQUIRE_OK(fs.media().write(PoolOffset(0), &old, sizeof old));
  fs.mount();
  CHECK(fs.list(*fs.root()).empty());
  CHECK(copy_of(fs, 0).sequence == copy_of(fs, 1).sequence);
}

TEST_CASE("fs: a crash of the host loses the epochs since the last confirmation, one of the daemon none") {
  TestFs fs;
  const u32 first = fs->mount_epoch();
  fs.remount();  // the daemon died
  CHECK(!fs->epoch_lost(first));
  const u32 second = fs->mount_epoch();
  CHECK(second == first + 1);
  fs.options().boot_id = std::string(16, 'c');
  fs.remount();  // the host died
  CHECK(!fs->epoch_lost(first));
  CHECK(fs->epoch_lost(second));
  const u32 third = fs->mount_epoch();
  CHECK(!fs->epoch_lost(third));
  REQUIRE_OK(fs->unmount());
  fs.remount();
  CHECK(fs->epoch_lost(second));
  CHECK(!fs->epoch_lost(third));
}

TEST_CASE("fs: the table of lost epochs is emptied when it is full") {
  TestFs fs;
  fs.make(*fs.root(), "f");
  u32 lost = 0;
  for (u32 i = 0; i <= format::kMaxLostEpochs; ++i) {
    lost = fs->mount_epoch();
    fs.options().boot_id = std::string(16, static_cast<char>(i + 1));
    fs.remount();
    if (i < format::kMaxLostEpochs) CHECK(fs->epoch_lost(lost));
    REQUIRE_OK(fs->unmount());  // so that the ranges do not join
    fs.remount();
  }
  CHECK(copy_of(fs, 0).lost_count == 0);
  CHECK(!fs->epoch_lost(lost));
  CHECK(fs.list(*fs.root()).size() == 1);
}

TEST_CASE("fs: a pool that is shorter than its superblock says is not mounted") {
  TestFs fs;
  fs.drop();
  const auto shorter = make_memory_media(kTestPoolBytes / 2);
  std::vector<char> bytes(kTestPoolBytes / 2);
  REQUIRE_OK(fs.media().read(PoolOffset(0), bytes.data(), 1u << 20));
  REQUIRE_OK(shorter->write(PoolOffset(0), bytes.data(), 1u << 20));
  auto fs2 = FileSystem::mount(*shorter, fs.executor(), {});
  REQUIRE_ERROR(fs2, kCorrupt);
}

TEST_CASE("fs: features that are not known are refused") {
  TestFs fs;
  format::Superblock sb = copy_of(fs, 0);
  fs.drop();
  sb.sequence += 1;
  sb.features_ro_compat = u64{1} << 40;
  format::seal(sb);
  REQUIRE_OK(fs.media().write(PoolOffset(0), &sb, sizeof sb));
  REQUIRE_ERROR(fs.try_mount(), kIncompatible);
  fs.mount([](MountOptions& o) { o.read_only = true; });
  CHECK(fs.list(*fs.root()).empty());
}

TEST_CASE("fs: while former clients live, what is freed waits in quarantine") {
  TestFs fs;
  REQUIRE_OK(fs->set_former_clients(true));
  REQUIRE_OK(fs->set_xattr(*fs.make(*fs.root(), "f"), "user.big", std::string(40'000, 'x'), 0, root_caller()));
  REQUIRE_OK(fs->unlink(*fs.root(), "f"));
  REQUIRE_OK(fs->clean_orphans());
  CHECK(fs->allocator().summary().quarantine_blocks > 0);
  fs.drop();
  fs.mount([](MountOptions& o) { o.former_clients = true; });
  CHECK(fs->allocator().summary().quarantine_blocks > 0);
  REQUIRE_OK(fs->set_former_clients(false));
  CHECK(fs->allocator().summary().quarantine_blocks == 0);
}

TEST_CASE("fs: the commit timer writes lazy times by itself") {
  TestFs fs({.background = true});
  fs.drop();
  fs.mount([](MountOptions& o) { o.commit_interval = std::chrono::milliseconds(5); });
  const auto f = fs.make(*fs.root(), "f");
  fs->note_modified(*f);
  const auto clean = [&] {
    MutexLock lock(f->lazy_mutex);
    return !f->lazy().dirty();
  };
  for (int i = 0; i < 2000 && !clean(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(clean());
}

}  // namespace
}  // namespace pindax
