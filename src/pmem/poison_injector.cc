// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/poison_injector.h"

#if defined(PINDAX_STEPS)

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "base/check.h"
#include "base/userfaultfd_abi.h"

namespace pindax {

std::unique_ptr<PoisonInjector> PoisonInjector::from_environment() {
  const char* path = std::getenv("PINDAX_POISON");
  return path != nullptr && *path != '\0' ? std::make_unique<PoisonInjector>(path) : nullptr;
}

PoisonInjector::PoisonInjector(std::string path)
    : path_(std::move(path)), uffd_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MISSING_SHMEM | kFeaturePoison;
  PINDAX_ASSERT(uffd_ && ::ioctl(uffd_.get(), UFFDIO_API, &api) == 0);
  look();
  thread_ = std::thread([this] { run(); });
}

void PoisonInjector::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void PoisonInjector::run() {
  while (!stop_) {
    look();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void PoisonInjector::look() {
  std::ifstream in(path_);
  std::string line;
  std::vector<std::string> lines;
  while (std::getline(in, line) && !in.eof()) lines.push_back(line);  // whole ones
  std::size_t done = 0;
  {
    MutexLock lock(mutex_);
    for (; lines_ < lines.size(); ++lines_) {
      const bool list = lines[lines_].starts_with('+');
      const u64 block = std::strtoull(lines[lines_].c_str() + (list ? 1 : 0), nullptr, 10);
      (list ? listed_ : poisoned_).insert(block);
      if (!list)
        for (const Piece& p : pieces_) poison(p, block);
    }
    done = lines_;
  }
  if (done == 0) return;
  std::ofstream(path_ + ".done.new") << done;
  (void)std::rename((path_ + ".done.new").c_str(), (path_ + ".done").c_str());
}

void PoisonInjector::mapped(std::byte* base, u64 begin, u64 length) {
  MutexLock lock(mutex_);
  pieces_.push_back({base, begin, length});
  for (const u64 block : poisoned_) poison(pieces_.back(), block);
}

std::vector<ByteRange> PoisonInjector::listed() {
  MutexLock lock(mutex_);
  std::vector<ByteRange> all;
  for (const u64 block : listed_) all.push_back({block << kBlockShift, (block + 1) << kBlockShift});
  return all;
}

bool PoisonInjector::covers(u64 at, u64 length) {
  MutexLock lock(mutex_);
  const auto it = poisoned_.lower_bound(at >> kBlockShift);
  return it != poisoned_.end() && *it << kBlockShift < at + length;
}

// Other threads may touch the page meanwhile: then its entry is there again, and it is tried again.
void PoisonInjector::poison(const Piece& piece, u64 block) {
  const u64 at = block << kBlockShift;
  if (at < piece.begin || at >= piece.begin + piece.length) return;
  std::byte* const page = piece.base + (at - piece.begin);
  uffdio_register area{};
  area.range = {reinterpret_cast<u64>(page), kBlockSize};
  area.mode = UFFDIO_REGISTER_MODE_MISSING;
  UffdioPoison marker{};
  marker.range = area.range;
  const bool registered = ::ioctl(uffd_.get(), UFFDIO_REGISTER, &area) == 0;
  PINDAX_ASSERT(registered);
  do {
    (void)::madvise(page, kBlockSize, MADV_DONTNEED);
    marker.updated = 0;
  } while (::ioctl(uffd_.get(), kUffdioPoison, &marker) != 0);
}

}  // namespace pindax

#endif
