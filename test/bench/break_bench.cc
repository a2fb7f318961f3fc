// SPDX-License-Identifier: BSD-3-Clause
//
// Breaks: what an idle one costs, how it grows (it must not) with the file and with pins elsewhere, how soon a waiting one goes on, and
// what goes on meanwhile. Usage: break_bench MOUNT
#include <fcntl.h>
#include <linux/falloc.h>
#include <pindax/pindax.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "measure.h"

namespace {

using pindax::bench::compare;
using pindax::bench::median;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPage = 4096;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, pindax_last_error());
  std::exit(4);
}

pindax_client* attach(const char* where) {
  pindax_client* c = nullptr;
  if (pindax_attach(where, nullptr, &c) != 0) die("attach");
  const char* why = nullptr;
  if (pindax_is_direct(c, &why) == 0) std::fprintf(stderr, "not direct: %s\n", why), std::exit(4);
  return c;
}

// A file of its own, and a mapping of its first bytes.
struct File {
  File(pindax_client* c, std::string n, std::uint64_t size, std::size_t mapped) : client(c), name("/" + std::move(n)) {
    fd = pindax_open(c, name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || pindax_truncate(c, fd, size) != 0) die("file");
    if (mapped != 0 && pindax_map(c, fd, 0, mapped, PROT_READ | PROT_WRITE, 0, &mapping) != 0) die("map");
    if (mapping != nullptr) memory = static_cast<volatile char*>(pindax_mapping_address(mapping));
  }
  ~File() {
    if (mapping != nullptr) pindax_unmap(mapping);
    pindax_close(client, fd);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  void punch(std::uint64_t offset, std::uint64_t length = kPage) const {
    if (pindax_fallocate(client, fd, kPunch, offset, length) != 0) die("punch");
  }
  void pin(std::size_t offset, struct pindax_pin* p) const {
    if (pindax_pin(mapping, offset, kPage, 0, p) != 0) die("pin");
  }
  pindax_client* client;
  std::string name;
  int fd = -1;
  pindax_mapping* mapping = nullptr;
  volatile char* memory = nullptr;
};

double us(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

void idle(pindax_client* c) {
  const File plain(c, "bench.plain", 1 << 20, 0), mapped(c, "bench.mapped", 1 << 20, 1 << 20);
  (void)mapped.memory[0];
  compare("idle break", {{"never mapped", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) plain.punch(8 * kPage); }},
                         {"mapped file", [&](unsigned long n) { for (unsigned long i = 0; i < n; ++i) mapped.punch(8 * kPage); }}}, 500);
}

// Store and punch of one page: in files of three sizes, and with 10,000 pins elsewhere in the largest.
void flat(pindax_client* c) {
  constexpr std::size_t kPins = 10'000, kMapped = (kPins + 16) * kPage;
  const File small(c, "bench.4K", kPage, kPage), middle(c, "bench.1G", 1ull << 30, kMapped), large(c, "bench.1T", 1ull << 40, kMapped),
      pinned(c, "bench.pins", 1ull << 40, kMapped);
  std::vector<struct pindax_pin> pins(kPins);
  for (std::size_t i = 0; i < kPins; ++i) pinned.pin((i + 16) * kPage, &pins[i]);
  const auto work = [](const File& f) {
    return [&f](unsigned long n) {
      for (unsigned long i = 0; i < n; ++i) {
        f.memory[0] = 'a';
        f.punch(0);
      }
    };
  };
  compare("store+punch of a page", {{"4 KiB", work(small)}, {"1 GiB", work(middle)}, {"1 TiB", work(large)}, {"10,000 pins elsewhere", work(pinned)}}, 200);
  for (auto& p : pins) pindax_unpin(nullptr, &p);
}

// Starts `work` on a thread, waits until it waits, and returns once it does.
template <class Work>
std::thread blocked(Work work) {
  std::thread t(std::move(work));
  ::usleep(20'000);
  return t;
}

void wake_up(pindax_client* c) {
  const File f(c, "bench.wake", 1 << 20, 1 << 20);
  std::vector<double> times, idle_times;
  for (int round = 0; round < 30; ++round) {
    struct pindax_pin p;
    f.memory[0] = 'a';
    f.pin(0, &p);
    Clock::time_point end;
    std::thread t = blocked([&] {
      f.punch(0);
      end = Clock::now();
    });
    const auto start = Clock::now();
    pindax_unpin(nullptr, &p);
    t.join();
    times.push_back(us(end - start));
    f.memory[0] = 'a';
    const auto before = Clock::now();
    f.punch(0);
    idle_times.push_back(us(Clock::now() - before));
  }
  std::printf("%-28s  punch, nothing in the way %.1f us  from the last unpin to the end of a waiting punch %.1f us (x%.2f)\n", "wake-up",
              median(idle_times), median(times), median(times) / median(idle_times));
}

void outside(pindax_client* c, const char* mount) {
  constexpr std::size_t kSize = 64 << 20;
  const File f(c, "bench.outside", kSize, kSize);
  for (std::size_t at = 0; at < kSize / 2; at += kPage) f.memory[at] = 'a';
  const int fd = ::open((std::string(mount) + "/bench.outside").c_str(), O_RDWR);
  if (fd < 0) std::perror("open"), std::exit(4);
  std::vector<char> block(kPage, 'x');
  const auto faults = [&](unsigned long n) {
    for (unsigned long i = 0; i < n; ++i) {
      if (i % 1024 == 0) f.punch(kSize / 2, kSize / 2);
      f.memory[kSize / 2 + i % 1024 * kPage] = 'b';
    }
  };
  const auto pins = [&](unsigned long n) {
    for (unsigned long i = 0; i < n; ++i) {
      struct pindax_pin p;
      f.pin(8 << 20, &p);
      pindax_unpin(nullptr, &p);
    }
  };
  const auto reads = [&](unsigned long n) {
    for (unsigned long i = 0; i < n; ++i)
      if (::pread(fd, block.data(), kPage, static_cast<off_t>((16 << 20) + i % 1024 * kPage)) < 0) std::perror("pread"), std::exit(4);
  };
  const auto writes = [&](unsigned long n) {
    for (unsigned long i = 0; i < n; ++i)
      if (::pwrite(fd, block.data(), kPage, static_cast<off_t>((16 << 20) + i % 1024 * kPage)) < 0) std::perror("pwrite"), std::exit(4);
  };
  // In turn, and only the work itself is timed.
  const auto both = [&](const char* title, const std::function<void(unsigned long)>& work, unsigned long count) {
    std::vector<double> free, beside;
    for (int round = 0; round < 7; ++round) {
      const auto timed = [&] {
        const auto start = Clock::now();
        work(count);
        return us(Clock::now() - start) * 1000 / static_cast<double>(count);
      };
      free.push_back(timed());
      struct pindax_pin p;
      f.pin(0, &p);
      std::thread t = blocked([&] { f.punch(0); });
      beside.push_back(timed());
      pindax_unpin(nullptr, &p);
      t.join();
    }
    std::printf("%-28s  free %.1f ns  beside a waiting punch %.1f ns (x%.2f)\n", title, median(free), median(beside), median(beside) / median(free));
  };
  both("faults outside", faults, 2048);
  both("pins outside", pins, 500'000);
  both("pread outside", reads, 5'000);
  both("pwrite outside", writes, 3'000);
  ::close(fd);
}

void death(const char* mount, pindax_client* c) {
  std::vector<double> times;
  for (int round = 0; round < 20; ++round) {
    const File f(c, "bench.death", 4 << 20, 0);
    int ready[2];
    if (::pipe(ready) != 0) std::perror("pipe"), std::exit(4);
    const pid_t child = ::fork();
    if (child == 0) {
      pindax_client* own = attach(mount);
      const int fd = pindax_open(own, "/bench.death", O_RDWR, 0);
      pindax_mapping* m = nullptr;
      struct pindax_pin p;
      if (fd < 0 || pindax_map(own, fd, 0, 4 << 20, PROT_READ | PROT_WRITE, 0, &m) != 0) die("child");
      std::memset(pindax_mapping_address(m), 'x', 4 << 20);
      if (pindax_pin(m, 0, 4 << 20, 0, &p) != 0 || ::write(ready[1], "x", 1) != 1) die("child");
      for (;;) ::pause();
    }
    char byte;
    if (::read(ready[0], &byte, 1) != 1) std::exit(4);
    Clock::time_point end;
    std::thread t = blocked([&] {
      if (pindax_truncate(c, f.fd, 0) != 0) die("truncate");
      end = Clock::now();
    });
    const auto start = Clock::now();
    ::kill(child, SIGKILL);
    t.join();
    times.push_back(us(end - start) / 1000);
    ::waitpid(child, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  std::sort(times.begin(), times.end());
  std::printf("%-28s  from SIGKILL of the holder to the end of a truncate: median %.1f ms, worst %.1f ms\n", "death", median(times), times.back());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: break_bench MOUNT\n"), 2;
  pindax_client* c = attach(argv[1]);
  idle(c);
  flat(c);
  wake_up(c);
  death(argv[1], c);
  outside(c, argv[1]);
  for (const char* name : {"plain", "mapped", "4K", "1G", "1T", "pins", "wake", "outside", "death"})
    ::unlink((std::string(argv[1]) + "/bench." + name).c_str());
  return pindax_detach(c) == 0 ? 0 : 4;
}
