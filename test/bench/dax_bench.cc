// SPDX-License-Identifier: BSD-3-Clause
//
// The library on a pool of a DAX file system against that file system's own calls. Usage: dax_bench MOUNT DIR
// MOUNT: the Pindax mount's root; DIR: on the file system that holds the pool. scripts/daxvm bench runs it where the clock counts
// instructions.
#include <fcntl.h>
#include <pindax/pindax.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "measure.h"

namespace {

using pindax::bench::compare;

constexpr std::size_t kBlock = 4096;
constexpr unsigned long kBlocks = 1024;                       // of one round
constexpr std::size_t kRoundBytes = kBlocks * kBlock;
constexpr std::size_t kStepBytes = std::size_t{2} << 20;      // what the appender gets from the daemon at once

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, pindax_last_error());
  std::exit(4);
}

void must(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::exit(4);
}

// Appends as a log does: space is asked for in steps, records are stored and made durable one by one.
void append_direct(pindax_client* c, const std::string& name, const char* data, unsigned long blocks) {
  const int fd = pindax_open(c, name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) die("open");
  pindax_mapping* m = nullptr;
  if (pindax_map(c, fd, 0, kRoundBytes, PROT_READ | PROT_WRITE, 0, &m) != 0) die("map");
  auto* memory = static_cast<char*>(pindax_mapping_address(m));
  for (unsigned long i = 0; i < blocks; ++i) {
    const std::size_t at = i * kBlock;
    if (at % kStepBytes == 0 && pindax_fallocate(c, fd, 0, at, kStepBytes) != 0) die("fallocate");
    std::memcpy(memory + at, data, kBlock);
    if (pindax_persist(m, at, kBlock) != 0) die("persist");
  }
  if (pindax_unmap(m) != 0 || pindax_close(c, fd) != 0) die("unmap");
}

void append_calls(const std::string& path, const char* data, unsigned long blocks, bool sync) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  must(fd >= 0, path.c_str());
  for (unsigned long i = 0; i < blocks; ++i) {
    must(::pwrite(fd, data, kBlock, static_cast<off_t>(i * kBlock)) == static_cast<ssize_t>(kBlock), "pwrite");
    if (sync) must(::fdatasync(fd) == 0, "fdatasync");
  }
  ::close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: dax_bench MOUNT DIR\n"), 2;
  const std::string file = std::string(argv[2]) + "/bench.data", mounted = std::string(argv[1]) + "/bench.mount";
  pindax_client* client = nullptr;
  if (pindax_attach(argv[1], nullptr, &client) != 0) die("attach");
  const char* why = nullptr;
  if (pindax_is_direct(client, &why) == 0) return std::fprintf(stderr, "not direct: %s\n", why), 4;
  std::vector<char> block(kBlock, 'x');
  const char* data = block.data();

  compare("append 4 KiB", {{"library", [&](unsigned long n) { append_direct(client, "/bench.append", data, n); }},
                           {"host pwrite", [&](unsigned long n) { append_calls(file, data, n, false); }},
                           {"host pwrite+fdatasync", [&](unsigned long n) { append_calls(file, data, n, true); }},
                           {"mount pwrite", [&](unsigned long n) { append_calls(mounted, data, n, false); }}},
          kBlocks, 3);

  const int fd = pindax_open(client, "/bench.append", O_RDWR, 0600);
  pindax_mapping* m = nullptr;
  if (fd < 0 || pindax_map(client, fd, 0, kRoundBytes, PROT_READ | PROT_WRITE, PINDAX_MAP_POPULATE, &m) != 0) die("map");
  auto* memory = static_cast<char*>(pindax_mapping_address(m));
  const int host = ::open(file.c_str(), O_RDWR);
  must(host >= 0, file.c_str());
  std::vector<char> other(kRoundBytes, 'y');
  const auto at = [](unsigned long i) { return i * 613 % kBlocks * kBlock; };
  compare("overwrite 4 KiB", {{"library+persist", [&](unsigned long n) {
                                 for (unsigned long i = 0; i < n; ++i) {
                                   std::memcpy(memory + at(i), data, kBlock);
                                   if (pindax_persist(m, at(i), kBlock) != 0) die("persist");
                                 }
                               }},
                              {"memcpy to DRAM", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(&other[at(i)], data, kBlock); }},
                              {"host pwrite", [&](unsigned long n) {
                                 for (unsigned long i = 0; i < n; ++i)
                                   must(::pwrite(host, data, kBlock, static_cast<off_t>(at(i))) == static_cast<ssize_t>(kBlock), "pwrite");
                               }}},
          kBlocks, 3);
  compare("read 4 KiB", {{"library", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) std::memcpy(block.data(), memory + at(i), kBlock); }},
                         {"host pread", [&](unsigned long n) {
                            for (unsigned long i = 0; i < n; ++i)
                              must(::pread(host, block.data(), kBlock, static_cast<off_t>(at(i))) == static_cast<ssize_t>(kBlock), "pread");
                          }}},
          kBlocks, 3);
  compare("pin+unpin", {{"library", [&](unsigned long n) {
                           struct pindax_pin pin;
                           for (unsigned long i = 0; i < n; ++i)
                             if (pindax_pin(m, 0, kBlock, 0, &pin) != 0 || pindax_unpin(m, &pin) != 0) die("pin");
                         }},
                        {"getppid", [](unsigned long n) { for (unsigned long i = 0; i < n; ++i) (void)::getppid(); }}},
          kBlocks, 3);
  pindax_unmap(m);
  pindax_close(client, fd);
  ::close(host);
  for (const std::string& path : {file, mounted, std::string(argv[1]) + "/bench.append"}) ::unlink(path.c_str());
  return pindax_detach(client) == 0 ? 0 : 4;
}
