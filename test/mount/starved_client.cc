// SPDX-License-Identifier: BSD-3-Clause
//
// The library without memory: each allocation and each mmap of a call in turn is refused, in the thread that calls. The call
// returns -ENOMEM (a thread that cannot be started: -EAGAIN), leaves nothing behind, and works when there is memory again.
// Usage: starved_client MOUNT-OR-SOCKET FILE       (FILE: 16 blocks of 'x'). Prints what is wrong; exit code 1 if anything is.
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pindax/pindax.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <functional>

namespace {

// Counts down in the thread under test; at one and below every request is refused until disarmed.
thread_local long left = 0;
thread_local bool armed = false;
thread_local bool once = false;  // only one request is refused
thread_local bool hit = false;

bool refused() {
  if (!armed) return false;
  --left;
  if (left > 0 || (once && left < 0)) return false;
  hit = true;
  return true;
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);

void* malloc(size_t n) {
  if (!refused()) return __libc_malloc(n);
  errno = ENOMEM;
  return nullptr;
}
void* calloc(size_t n, size_t m) {
  if (!refused()) return __libc_calloc(n, m);
  errno = ENOMEM;
  return nullptr;
}
void* realloc(void* p, size_t n) {
  if (!refused()) return __libc_realloc(p, n);
  errno = ENOMEM;
  return nullptr;
}
void* mmap(void* at, size_t length, int prot, int flags, int fd, off_t offset) noexcept {
  static auto* real = reinterpret_cast<decltype(&mmap)>(::dlsym(RTLD_NEXT, "mmap"));
  if (!refused()) return real(at, length, prot, flags, fd, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}
}

namespace {

constexpr std::size_t kBlock = 4096;
int failures = 0;

void check(bool good, const char* what, long nth = 0, int result = 0) {
  if (good) return;
  ++failures;
  std::printf("wrong: %s, request %ld: %d %s\n", what, nth, result, pindax_last_error());
}

std::size_t descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

// Runs `call` with its 1st, 2nd, … request for memory refused until none is left to refuse; `undo` follows each success.
void starve(const char* name, const std::function<int()>& call, const std::function<void(int)>& undo = [](int) {}) {
  undo(call());  // what is made once per process or thread
  long refusals = 0;
  for (const bool only_one : {true, false}) {
    for (long nth = 1;; ++nth) {
      const std::size_t before = descriptors();
      left = nth, once = only_one, hit = false, armed = true;
      const int result = call();
      armed = false;
      if (result >= 0) undo(result);
      else check(hit && (result == -ENOMEM || result == -EAGAIN), name, nth, result);
      check(descriptors() == before, "descriptors are left", nth, result);
      if (!hit) break;
      ++refusals;
      if (nth == 1000) return check(false, "no end", nth, result);
    }
  }
  std::printf("%s: %ld refusals\n", name, refusals);
}

struct Bench {
  Bench(const char* daemon, const char* file) : where(daemon), name(file) {
    pindax_attach_options options{};
    options.size = sizeof(options);
    options.lease_recall = [](pindax_mapping*, auto...) {};
    check(pindax_attach(where, &options, &client) == 0, "attach");
    fd = pindax_open(client, name, O_RDWR, 0);
    check(fd >= 0, "open");
    check(pindax_map(client, fd, 0, 16 * kBlock, PROT_READ | PROT_WRITE, PINDAX_MAP_POPULATE, &mapping) == 0, "map");
  }
  const char* where;
  const char* name;
  pindax_client* client = nullptr;
  int fd = -1;
  pindax_mapping* mapping = nullptr;
};

void every_call(Bench& b) {
  pindax_client* other = nullptr;
  pindax_mapping* m = nullptr;
  struct pindax_pin pin{};
  struct pindax_mapping_info info{};
  info.size = sizeof(info);
  const auto close = [&](int fd) { check(pindax_close(b.client, fd) == 0, "close"); };
  const auto unmap = [&](int) { check(pindax_unmap(m) == 0, "unmap"); };
  const auto unpin = [&](int) { check(pindax_unpin(b.mapping, &pin) == 0, "unpin"); };
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  starve("attach", [&] { return pindax_attach(b.where, nullptr, &other); }, [&](int) { pindax_detach(other); });
  starve("open", [&] { return pindax_open(b.client, b.name, O_RDWR, 0); }, close);
  starve("create", [&] { return pindax_open(b.client, "/new", O_RDWR | O_CREAT, 0600); }, close);
  starve("map", [&] { return pindax_map(b.client, b.fd, 0, 8 * kBlock, kReadWrite, 0, &m); }, unmap);
  starve("map, populated", [&] { return pindax_map(b.client, b.fd, 0, 8 * kBlock, PROT_READ, PINDAX_MAP_POPULATE, &m); }, unmap);
  starve("pin", [&] { return pindax_pin(b.mapping, 0, kBlock, 0, &pin); }, unpin);
  starve("write pin", [&] { return pindax_pin(b.mapping, 0, kBlock, PINDAX_PIN_WRITE, &pin); }, unpin);
  starve("lease", [&] { return pindax_try_pin(b.mapping, 0, kBlock, PINDAX_PIN_LEASE, &pin); }, unpin);
  starve("persist", [&] { return pindax_persist(b.mapping, 0, kBlock); });
  starve("fallocate", [&] { return pindax_fallocate(b.client, b.fd, 0, 0, 20 * kBlock); });
  starve("truncate", [&] { return pindax_truncate(b.client, b.fd, 16 * kBlock); });
  starve("info", [&] { return pindax_mapping_info(b.mapping, &info); });
}

// Unmapping and detaching need no memory.
void ends(Bench& b) {
  pindax_client* other = nullptr;
  pindax_mapping* m = nullptr;
  check(pindax_attach(b.where, nullptr, &other) == 0, "attach");
  const int fd = pindax_open(other, b.name, O_RDWR, 0);
  for (int i = 0; i < 2; ++i) check(pindax_map(other, fd, 0, 8 * kBlock, PROT_READ, 0, &m) == 0, "map");
  left = 1, once = false, armed = true;
  const int unmapped = pindax_unmap(m);
  const int detached = pindax_detach(other);
  armed = false;
  check(unmapped == 0, "unmap without memory", 1, unmapped);
  check(detached == 0, "detach without memory", 1, detached);
  if (b.fd != fd) ::close(fd);
}

// What is refused does not add up.
void leaks(Bench& b) {
  pindax_client* other = nullptr;
  pindax_mapping* m = nullptr;
  const auto churn = [&](int rounds) {
    for (int i = 0; i < rounds; ++i)
      for (long nth = 1; nth < 12; ++nth) {
        left = nth, once = true, armed = true;
        const int attached = pindax_attach(b.where, nullptr, &other);
        armed = false;
        if (attached == 0) pindax_detach(other);
        left = nth, once = true, armed = true;
        const int mapped = pindax_map(b.client, b.fd, 0, 8 * kBlock, PROT_READ, 0, &m);
        armed = false;
        if (mapped == 0) pindax_unmap(m);
      }
  };
  churn(20);
  const std::size_t before = ::mallinfo2().uordblks;
  churn(40);
  const std::size_t after = ::mallinfo2().uordblks;
  std::printf("bytes in use: %zu, after 440 refusals of attach and of map each: %zu\n", before, after);
  check(after < before + 14000, "memory is lost");  // the smallest object that malloc gives, once a refusal, is more
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  Bench b(argv[1], argv[2]);
  if (failures != 0) return 1;
  every_call(b);
  ends(b);
  leaks(b);
  check(static_cast<const char*>(pindax_mapping_address(b.mapping))[5] == 'x', "contents");
  pindax_detach(b.client);
  std::printf("%d wrong\n", failures);
  return failures == 0 ? 0 : 1;
}
