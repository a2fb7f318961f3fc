// SPDX-License-Identifier: BSD-3-Clause
//
// The direct path: pins, copies, maps, idle breaks. Usage: library_bench MOUNT (a directory on a Pindax mount's root)
#include <fcntl.h>
#include <linux/falloc.h>
#include <pindax/pindax.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "measure.h"

namespace {

using pindax::bench::compare;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, pindax_last_error());
  std::exit(4);
}

pindax_mapping* map(pindax_client* c, int fd, std::size_t length, int flags) {
  pindax_mapping* m = nullptr;
  if (pindax_map(c, fd, 0, length, PROT_READ | PROT_WRITE, flags, &m) != 0) die("map");
  return m;
}

void pins(pindax_mapping* m, std::size_t length, const char* title) {
  compare(title, {{"syscall", [](unsigned long n) { for (unsigned long i = 0; i < n; ++i) ::syscall(SYS_getppid); }},
                  {"pin+unpin", [=](unsigned long n) {
                     struct pindax_pin pin;
                     for (unsigned long i = 0; i < n; ++i)
                       if (pindax_pin(m, 0, length, 0, &pin) != 0 || pindax_unpin(m, &pin) != 0) die("pin");
                   }}}, 200'000);
}

double ns_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

void punch(int fd, off_t offset) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, 4096) != 0) std::perror("punch"), std::exit(4);
}

// One page that `count` clients have translated is punched: without their help, and by asking each. The clients live in this
// process, each with a session, threads and a userfaultfd of its own.
void breaks(const char* mount, const char* name, int idle, unsigned count) {
  constexpr unsigned kRounds = 40;
  std::vector<double> empty, took[2];
  for (const unsigned how : {0u, 1u}) {
    std::vector<pindax_client*> clients(count);
    std::vector<pindax_mapping*> mappings(count);
    std::vector<int> files(count);
    pindax_attach_options options{};
    options.size = sizeof(options);
    options.flags = how == 0 ? 0 : PINDAX_ATTACH_COOPERATIVE;
    for (unsigned i = 0; i < count; ++i) {
      if (pindax_attach(mount, &options, &clients[i]) != 0) die("attach");
      files[i] = pindax_open(clients[i], name, O_RDWR, 0);
      mappings[i] = map(clients[i], files[i], std::size_t{1} << 20, 0);
    }
    for (unsigned round = 0; round < kRounds; ++round) {
      for (unsigned i = 0; i < count; ++i) {
        auto* page = static_cast<volatile char*>(pindax_mapping_address(mappings[i])) + 8192;
        if (i == 0) *page = 'x';
        else (void)*page;
      }
      empty.push_back(ns_of([&] { punch(idle, 4096); }));
      took[how].push_back(ns_of([&] { punch(files[0], 8192); }));
    }
    for (pindax_client* c : clients) pindax_detach(c);
    for (const int fd : files) ::close(fd);
  }
  using pindax::bench::median;
  std::printf("break of a page, %2u clients   empty punch %.1f us  revoked %.1f us (+%.1f)  recalled %.1f us (+%.1f)\n", count,
              median(empty) / 1e3, median(took[0]) / 1e3, (median(took[0]) - median(empty)) / 1e3, median(took[1]) / 1e3,
              (median(took[1]) - median(empty)) / 1e3);
  std::fflush(stdout);
}

// First touches, page by page: of blocks that lie 2 MiB apart, of their neighbours, of holes, 16 pages being one answer, stores into a hole, here
// and there and in a row, and stores into blocks that a clone shares, which copy them: by mapping and by write(2).
void faults(pindax_client* c, const std::string& root, int full, std::size_t bytes) {
  const int hole = pindax_open(c, "/bench.hole", O_RDWR | O_CREAT, 0600);
  if (hole < 0 || ::ftruncate(hole, 64 << 20) != 0) die("open");
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  std::vector<double> apart, next, zeros, store, run, anonymous, copy, written;
  const int twin = pindax_open(c, "/bench.twin", O_RDWR | O_CREAT, 0600);
  const int by_mount = ::open((root + "/bench.twin").c_str(), O_RDWR);
  if (twin < 0 || by_mount < 0) die("open");
  for (int round = 0; round < 5; ++round) {
    pindax_mapping* m = map(c, full, bytes, 0);
    auto* at = static_cast<volatile char*>(pindax_mapping_address(m));
    for (std::size_t i = 0; i < bytes; i += kHuge) {
      apart.push_back(ns_of([&] { (void)at[i]; }));
      next.push_back(ns_of([&] { for (std::size_t p = 4096; p < kHuge; p += 4096) (void)at[i + p]; }) / (kHuge / 4096 - 1));
    }
    pindax_unmap(m);
    m = map(c, hole, 64 << 20, 0);
    at = static_cast<volatile char*>(pindax_mapping_address(m));
    for (std::size_t i = 0; i < 200; ++i) zeros.push_back(ns_of([&] { (void)at[(32 << 20) + i * 65536]; }));
    for (std::size_t i = 0; i < 200; ++i) store.push_back(ns_of([&] { at[i * 8192] = 'x'; }));
    pindax_unmap(m);
    if (::ftruncate(hole, 0) != 0 || ::ftruncate(hole, 64 << 20) != 0) die("truncate");
    m = map(c, hole, 64 << 20, 0);
    at = static_cast<volatile char*>(pindax_mapping_address(m));
    run.push_back(ns_of([&] { for (std::size_t i = 0; i < 4096; ++i) at[i * 4096] = 'x'; }) / 4096);
    pindax_unmap(m);
    if (::ftruncate(hole, 0) != 0 || ::ftruncate(hole, 64 << 20) != 0) die("truncate");
    if (pindax_clone_range(c, full, 0, twin, 0, 4 << 20) != 0) die("clone");
    m = map(c, twin, 4 << 20, 0);
    at = static_cast<volatile char*>(pindax_mapping_address(m));
    for (std::size_t i = 0; i < 200; ++i) copy.push_back(ns_of([&] { at[i * 8192] = 'x'; }));
    pindax_unmap(m);
    for (std::size_t i = 0; i < 200; ++i)
      written.push_back(ns_of([&] { if (::pwrite(by_mount, "x", 1, static_cast<off_t>(i * 8192 + 4096)) != 1) die("write"); }));
    auto* plain = static_cast<volatile char*>(::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < 256; ++i) anonymous.push_back(ns_of([&] { plain[i * 4096] = 'x'; }));
    ::munmap(const_cast<char*>(plain), 1 << 20);
  }
  using pindax::bench::median;
  std::printf("first touch                   kernel's own %.1f us  block %.1f us  its neighbours %.2f us each  store into a hole %.1f us, in a run of 16 MiB %.2f us each\n",
              median(anonymous) / 1e3, median(apart) / 1e3, median(next) / 1e3, median(store) / 1e3, median(run) / 1e3);
  std::printf("                              hole %.1f us  store into a shared block %.1f us, by write(2) %.1f us\n", median(zeros) / 1e3,
              median(copy) / 1e3, median(written) / 1e3);
  ::close(by_mount);
  pindax_close(c, hole);
  pindax_close(c, twin);
  for (const char* name : {"/bench.hole", "/bench.twin"}) ::unlink((root + name).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: library_bench MOUNT\n"), 2;
  const std::string root = argv[1];
  pindax_client* client = nullptr;
  if (pindax_attach(argv[1], nullptr, &client) != 0) die("attach");
  const char* why = nullptr;
  if (pindax_is_direct(client, &why) == 0) return std::fprintf(stderr, "not direct: %s\n", why), 4;
  const int fd = pindax_open(client, "/bench.direct", O_RDWR | O_CREAT, 0600);
  if (fd < 0) die("open");
  constexpr std::size_t kFile = std::size_t{256} << 20;
  if (::ftruncate(fd, kFile) != 0 || ::fallocate(fd, 0, 0, kFile) != 0) return std::perror("fallocate"), 4;
  std::vector<char> block(1 << 20, 'x');
  for (std::size_t at = 0; at < kFile; at += block.size())
    if (::pwrite(fd, block.data(), block.size(), static_cast<off_t>(at)) < 0) return std::perror("write"), 4;

  pindax_mapping* m = map(client, fd, kFile, PINDAX_MAP_POPULATE);
  pins(m, 4096, "pin 4 KiB");
  pins(m, std::size_t{2} << 20, "pin 2 MiB");
  pins(m, kFile, "pin 256 MiB");

  char* memory = static_cast<char*>(pindax_mapping_address(m));
  std::vector<char> other(kFile / 8, 'y');
  char* out = block.data();
  const auto at = [](unsigned long i) { return i * 7919 % (kFile / 8 / 4096) * 4096; };
  compare("4 KiB load", {{"memcpy", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(out, &other[at(i)], 4096); }},
                         {"mapping", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(out, memory + at(i), 4096); }}}, 50'000);
  compare("4 KiB store", {{"memcpy", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(&other[at(i)], out, 4096); }},
                          {"mapping+persist", [&](unsigned long n) {
                             for (unsigned long i = 0; i < n; ++i) {
                               std::memcpy(memory + at(i), out, 4096);
                               if (pindax_persist(m, at(i), 4096) != 0) die("persist");
                             }
                           }}}, 20'000);
  compare("4 KiB pread", {{"memcpy", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(out, &other[at(i)], 4096); }},
                          {"pindax_pread", [&](unsigned long n) {
                             for (unsigned long i = 0; i < n; ++i)
                               if (pindax_pread(client, fd, out, 4096, at(i)) != 4096) die("pread");
                           }}}, 50'000);
  compare("4 KiB pwrite", {{"memcpy", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(&other[at(i)], out, 4096); }},
                           {"pindax_pwrite", [&](unsigned long n) {
                              for (unsigned long i = 0; i < n; ++i)
                                if (pindax_pwrite(client, fd, out, 4096, at(i)) != 4096) die("pwrite");
                            }}}, 50'000);
  // Each round begins with an empty file; a memfd is a file of tmpfs.
  const int memory_file = ::memfd_create("bench", MFD_CLOEXEC);
  const int growing = pindax_open(client, "/bench.append", O_RDWR | O_CREAT, 0600);
  if (memory_file < 0 || growing < 0) die("open");
  const auto append = [](int f, unsigned long n, auto write) {
    if (::ftruncate(f, 0) != 0) std::perror("truncate"), std::exit(4);
    for (unsigned long i = 0; i < n; ++i)
      if (write(i * 4096) != 4096) die("append");
  };
  compare("4 KiB append", {{"tmpfs write", [&](unsigned long n) { append(memory_file, n, [&](unsigned long to) { return ::pwrite(memory_file, out, 4096, static_cast<off_t>(to)); }); }},
                           {"pindax_pwrite", [&](unsigned long n) { append(growing, n, [&](unsigned long to) { return pindax_pwrite(client, growing, out, 4096, to); }); }}}, 2000);
  pindax_close(client, growing);
  ::close(memory_file);
  ::unlink((root + "/bench.append").c_str());
  compare("map+unmap 256 MiB", {{"lazy", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) pindax_unmap(map(client, fd, kFile, 0)); }},
                                {"populated", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) pindax_unmap(map(client, fd, kFile, PINDAX_MAP_POPULATE)); }}}, 20);

  const int idle = ::open((root + "/bench.idle").c_str(), O_RDWR | O_CREAT, 0600);
  if (idle < 0 || ::ftruncate(idle, 1 << 20) != 0) return std::perror("open"), 4;
  compare("punch of a hole", {{"never mapped", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) punch(idle, 4096); }},
                              {"of a mapped file", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) punch(fd, kFile + (1 << 20)); }}}, 1000);
  compare("punch, page mapped", {{"store only", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) memory[4096] = 'a'; }},
                                 {"store+punch", [&](unsigned long n) {
                                    for (unsigned long i = 0; i < n; ++i) {
                                      memory[4096] = 'a';
                                      punch(fd, 4096);
                                    }
                                  }}}, 300);
  pindax_unmap(m);
  faults(client, root, fd, kFile);
  const int page = ::open((root + "/bench.page").c_str(), O_RDWR | O_CREAT, 0600);
  if (page < 0 || ::ftruncate(page, 1 << 20) != 0) return std::perror("open"), 4;
  for (const unsigned count : {1u, 4u, 16u, 64u}) breaks(argv[1], "/bench.page", idle, count);
  ::close(page);
  ::unlink((root + "/bench.page").c_str());
  ::unlink((root + "/bench.direct").c_str());
  ::unlink((root + "/bench.idle").c_str());
  return pindax_detach(client) == 0 ? 0 : 4;
}
