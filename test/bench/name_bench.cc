// SPDX-License-Identifier: BSD-3-Clause
//
// Names without a mount: what the file system itself takes for creating, finding and removing them, in processor time of all
// its threads. The pool is memory, as after a journal flush that costs nothing. Usage: name_bench [FILES]
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "fs/file_system.h"
#include "pmem/pool_media.h"

namespace {

using pindax::Caller;
using pindax::Executor;
using pindax::FileSystem;
using pindax::Granularity;
using pindax::InodeRef;
using pindax::MkfsOptions;
using pindax::MountOptions;
using pindax::Result;
using pindax::Status;

template <class T>
T must(Result<T> r) {
  if (!r.ok()) std::fprintf(stderr, "%s\n", std::string(r.status().message()).c_str()), std::exit(4);
  return std::move(r).value();
}
void must(const Status& s) {
  if (!s.ok()) std::fprintf(stderr, "%s\n", std::string(s.message()).c_str()), std::exit(4);
}

double seconds(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

// One line: time that passed and processor time, per operation.
template <class F>
void measure(const char* title, unsigned long count, F work) {
  const double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
  work();
  const auto each = [&](double begin, clockid_t clock) { return (seconds(clock) - begin) * 1e6 / static_cast<double>(count); };
  std::printf("%-28s %8.2f us  cpu %.2f us\n", title, each(wall, CLOCK_MONOTONIC), each(cpu, CLOCK_PROCESS_CPUTIME_ID));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long count = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 100'000;
  const auto media = pindax::make_memory_media(pindax::u64{4} << 30, Granularity::kVolatile);
  MkfsOptions mkfs;
  mkfs.zeroed = true;
  must(pindax::make_file_system(*media, mkfs));
  Executor executor(2);
  MountOptions options;
  options.sync = pindax::default_sync_mode(Granularity::kVolatile);
  options.clean_up_delay = std::chrono::milliseconds(4);  // as the daemon
  const auto fs = must(FileSystem::mount(*media, executor, options));
  {
    const InodeRef root = must(fs->root());
    const Caller caller;
    const FileSystem::NewInode file{.mode = S_IFREG | 0600, .rdev = 0, .symlink_target = {}};
    const auto name = [](unsigned long i) { return "bench." + std::to_string(i); };
    measure("create+unlink", count, [&] {
      for (unsigned long i = 0; i < count; ++i) {
        must(fs->create(*root, name(i % 500), file, caller));
        must(fs->unlink(*root, name(i % 500)));
      }
      executor.drain();
    });
    measure("create", count, [&] {
      for (unsigned long i = 0; i < count; ++i) must(fs->create(*root, name(i), file, caller));
    });
    measure("lookup", count, [&] {
      for (unsigned long i = 0; i < count; ++i) must(fs->lookup(*root, name(i * 7919 % count)));
    });
    measure("attributes", count, [&] {
      for (unsigned long i = 0; i < count; ++i) must(fs->attributes(*root));
    });
    measure("unlink", count, [&] {
      for (unsigned long i = 0; i < count; ++i) must(fs->unlink(*root, name(i)));
      executor.drain();
    });
  }
  must(fs->unmount());
  return 0;
}
