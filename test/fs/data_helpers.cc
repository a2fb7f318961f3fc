// SPDX-License-Identifier: BSD-3-Clause
#include "data_helpers.h"

#include <cstdio>
#include <cstdlib>
#include <future>

#include "fsck/fsck.h"

namespace pindax::test {

namespace {

// Waits for a callback, wherever it runs.
template <class T, class Start>
T wait_for(Start start) {
  auto promise = std::make_shared<std::promise<T>>();
  auto future = promise->get_future();
  start([promise](T value) { promise->set_value(std::move(value)); });
  return future.get();
}

std::span<const std::byte> bytes_of(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

Result<std::string> joined(Result<const FileSystem::ReadPieces*> pieces) {
  if (!pieces.ok()) return pieces.status();
  std::string out;
  for (const auto& p : **pieces) out.append(reinterpret_cast<const char*>(p.data()), p.size());
  return out;
}

}  // namespace

u64 choose_seed() {
  const char* given = std::getenv("PINDAX_SEED");
  const u64 seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::printf("PINDAX_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

// ---- LossyMedia
// ---------------------------------------------------------------------------------------------------

LossyMedia::LossyMedia(u64 size, u64 seed)
    : inner_(make_memory_media(size, Granularity::kPage)), durable_(size), random_(seed) {}

void LossyMedia::write_back(u64 page) {
  (void)inner_->read(PoolOffset(page * kBlockSize), durable_.data() + page * kBlockSize, kBlockSize);
}

void LossyMedia::stored(PoolOffset at, u64 length) {
  std::lock_guard lock(mutex_);
  for (u64 page = at.value / kBlockSize; page * kBlockSize < at.value + length; ++page) dirty_.insert(page);
  if (random_() % 4 == 0) {
    auto it = dirty_.lower_bound(random_() % (inner_->size() / kBlockSize));
    if (it == dirty_.end()) it = dirty_.begin();
    write_back(*it);
    if (random_() % 2 == 0) dirty_.erase(it);
  }
}

Status LossyMedia::write(PoolOffset at, const void* data, u64 length) {
  PINDAX_TRY(inner_->write(at, data, length));
  stored(at, length);
  return {};
}

Status LossyMedia::zero(PoolOffset at, u64 length) {
  PINDAX_TRY(inner_->zero(at, length));
  stored(at, length);
  return {};
}

Status LossyMedia::flush(PoolOffset at, u64 length) {
  std::lock_guard lock(mutex_);
  for (u64 page = at.value / kBlockSize; page * kBlockSize < at.value + length; ++page)
    if (dirty_.erase(page) > 0) write_back(page);
  return {};
}

Status LossyMedia::punch(PoolOffset at, u64 length) {
  PINDAX_TRY(inner_->punch(at, length));
  std::lock_guard lock(mutex_);
  std::memset(durable_.data() + at.value, 0, length);
  return {};
}

Status LossyMedia::sync_all() {
  std::lock_guard lock(mutex_);
  for (const u64 page : dirty_) write_back(page);
  dirty_.clear();
  return {};
}

void LossyMedia::crash() {
  std::lock_guard lock(mutex_);
  for (const u64 page : dirty_) {
    if (random_() % 2 == 0) write_back(page);
    (void)inner_->write(PoolOffset(page * kBlockSize), durable_.data() + page * kBlockSize, kBlockSize);
  }
  dirty_.clear();
}

// ---- World
// --------------------------------------------------------------------------------------------------------

World::World(u64 bytes, Granularity granularity, SyncMode mode)
    : World(make_memory_media(bytes, granularity), mode) {}

World::World(std::unique_ptr<Media> media, SyncMode mode, bool format) : media_(std::move(media)) {
  options.sync = mode;
  options.boot_id = std::string(16, 'b');
  options.background = false;
  if (format) REQUIRE(make_file_system(*media_, MkfsOptions{}).ok());
  mount();
}

World::~World() {
  fs_.reset();
  executor_.stop();
}

void World::mount() {
  auto mounted = FileSystem::mount(*media_, executor_, options);
  INFO(mounted.status().message());
  REQUIRE(mounted.ok());
  fs_ = std::move(mounted).value();
}

void World::unmount() {
  REQUIRE(fs_->unmount().ok());
  fs_.reset();
}

void World::reboot() {
  kill();
  options.boot_id[0] = static_cast<char>(options.boot_id[0] + 1);
}

InodeRef World::create(const std::string& name) {
  InodeRef root = fs_->root().value();
  FileSystem::NewInode what;
  what.mode = 0100644;
  auto inode = fs_->create(*root, name, what, Caller{});
  INFO(inode.status().message());
  REQUIRE(inode.ok());
  return std::move(inode).value();
}

InodeRef World::open(const std::string& name) {
  InodeRef root = fs_->root().value();
  auto inode = fs_->lookup(*root, name);
  INFO(inode.status().message());
  REQUIRE(inode.ok());
  return std::move(inode).value();
}

Result<u64> World::write(const InodeRef& inode, u64 offset, std::string_view data, bool sync) {
  FileSystem::WriteRequest request;
  request.offset = offset;
  request.data = bytes_of(data);
  request.sync = sync;
  return wait_for<Result<u64>>([&](auto done) { fs_->write(inode, request, done); });
}

Result<u64> World::append(const InodeRef& inode, std::string_view data) {
  FileSystem::WriteRequest request;
  request.data = bytes_of(data);
  request.append = true;
  return wait_for<Result<u64>>([&](auto done) { fs_->write(inode, request, done); });
}

Result<std::string> World::read(const InodeRef& inode, u64 offset, u64 length) {
  return wait_for<Result<std::string>>([&](auto done) {
    fs_->read(inode, offset, length,
              [done](Result<const FileSystem::ReadPieces*> p) { done(joined(std::move(p))); });
  });
}

std::string World::contents(const InodeRef& inode) {
  auto all = read(inode, 0, u64{1} << 30);
  INFO(all.status().message());
  REQUIRE(all.ok());
  return std::move(all).value();
}

Result<std::string> World::fill(const InodeRef& inode, u64 offset, u64 length, bool writable) {
  return wait_for<Result<std::string>>([&](auto done) {
    fs_->fill(inode, offset, length, writable,
              [done](Result<const FileSystem::ReadPieces*> p) { done(joined(std::move(p))); });
  });
}

Status World::truncate(const InodeRef& inode, u64 size) {
  return wait_for<Status>([&](auto done) { fs_->truncate(inode, size, {}, done); });
}

Status World::fallocate(const InodeRef& inode, int mode, u64 offset, u64 length) {
  return wait_for<Status>([&](auto done) { fs_->fallocate(inode, mode, offset, length, {}, done); });
}

Result<u64> World::clone(const FileSystem::CloneRequest& request) {
  std::promise<Result<u64>> result;
  const auto handle = fs_->clone_range(request, {}, [&](Result<u64> r) { result.set_value(std::move(r)); });
  return result.get_future().get();
}

void World::check_pool() {
  unmount();
  const auto report = fsck(*media_, {});
  REQUIRE(report.ok());
  for (const FsckFinding& f : report->findings) UNSCOPED_INFO(f.structure << ", " << f.where << ": " << f.message);
  REQUIRE(report->findings_total == 0);
  mount();
}

std::vector<ExtentInfo> World::extents(const InodeRef& inode) {
  auto list = fs_->extents(*inode, {0, kMaxOffset});
  INFO(list.status().message());
  REQUIRE(list.ok());
  return std::move(list).value();
}

format::Inode World::slot(const InodeRef& inode) {
  ReadLock lock(inode->mutex);
  return *fs().read_slot(*inode).value();
}

u64 World::free_blocks() { return fs_->allocator().summary().free_blocks; }

}  // namespace pindax::test
