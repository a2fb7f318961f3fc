// SPDX-License-Identifier: BSD-3-Clause
//
// The library without memory: each allocation and each mmap of a call in turn is refused, in the thread that calls. The call
// returns -ENOMEM (a thread that cannot be started: -EAGAIN), leaves nothing behind, and works when there is memory again.
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pindax/pindax.hpp>
#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <functional>

#include "raw_client.h"

using namespace pindax::test;
using pindax::kBlockSize;

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

std::size_t descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

struct Bench {
  Bench() {
    world.make_file("f", 16 * kBlockSize, 'x');
    REQUIRE(pindax_attach(world.socket_path().c_str(), nullptr, &client) == 0);
    fd = pindax_open(client, "/f", O_RDWR, 0);
    REQUIRE(fd >= 0);
    REQUIRE(pindax_map(client, fd, 0, 16 * kBlockSize, PROT_READ | PROT_WRITE, PINDAX_MAP_POPULATE, &mapping) == 0);
  }
  ~Bench() { pindax_detach(client); }
  World world;
  pindax_client* client = nullptr;
  int fd = -1;
  pindax_mapping* mapping = nullptr;
};

// Runs `call` with its 1st, 2nd, … request for memory refused until none is left to refuse; `undo` follows each success.
void starve(const char* name, const std::function<int()>& call, const std::function<void(int)>& undo) {
  undo(call());  // what is made once per process or thread
  for (const bool only_one : {true, false}) {
    for (long nth = 1;; ++nth) {
      const std::size_t before = descriptors();
      left = nth, once = only_one, hit = false, armed = true;
      const int result = call();
      armed = false;
      INFO(name << ", request " << nth << (only_one ? " alone" : " and later ones") << ": " << result << " " << pindax_last_error());
      if (result >= 0) undo(result);
      else CHECK((result == -ENOMEM || result == -EAGAIN));
      if (result < 0) CHECK(hit);
      CHECK(descriptors() == before);
      if (!hit) break;
      REQUIRE(nth < 1000);
    }
  }
}

}  // namespace

TEST_CASE("client: without memory every call fails with ENOMEM, leaves nothing behind, and works again afterwards") {
  Bench b;
  pindax_client* other = nullptr;
  pindax_mapping* m = nullptr;
  struct pindax_pin pin{};
  struct pindax_mapping_info info{};
  info.size = sizeof(info);
  const std::string where = b.world.socket_path();
  const auto nothing = [](int) {};
  starve("attach", [&] { return pindax_attach(where.c_str(), nullptr, &other); }, [&](int) { pindax_detach(other); });
  starve("open", [&] { return pindax_open(b.client, "/f", O_RDWR, 0); }, [&](int fd) { CHECK(pindax_close(b.client, fd) == 0); });
  starve("create", [&] { return pindax_open(b.client, "/new", O_RDWR | O_CREAT, 0600); },
         [&](int fd) { CHECK(pindax_close(b.client, fd) == 0); });
  starve("map", [&] { return pindax_map(b.client, b.fd, 0, 8 * kBlockSize, PROT_READ | PROT_WRITE, 0, &m); },
         [&](int) { CHECK(pindax_unmap(m) == 0); });
  starve("map and populate", [&] { return pindax_map(b.client, b.fd, 0, 8 * kBlockSize, PROT_READ, PINDAX_MAP_POPULATE, &m); },
         [&](int) { CHECK(pindax_unmap(m) == 0); });
  starve("pin", [&] { return pindax_pin(b.mapping, 0, kBlockSize, 0, &pin); }, [&](int) { CHECK(pindax_unpin(b.mapping, &pin) == 0); });
  starve("write pin", [&] { return pindax_pin(b.mapping, 0, kBlockSize, PINDAX_PIN_WRITE, &pin); },
         [&](int) { CHECK(pindax_unpin(b.mapping, &pin) == 0); });
  starve("lease", [&] { return pindax_try_pin(b.mapping, 0, kBlockSize, PINDAX_PIN_LEASE, &pin); },
         [&](int) { CHECK(pindax_unpin(b.mapping, &pin) == 0); });
  starve("persist", [&] { return pindax_persist(b.mapping, 0, kBlockSize); }, nothing);
  starve("fallocate", [&] { return pindax_fallocate(b.client, b.fd, 0, 0, 20 * kBlockSize); }, nothing);
  starve("truncate", [&] { return pindax_truncate(b.client, b.fd, 16 * kBlockSize); }, nothing);
  starve("info", [&] { return pindax_mapping_info(b.mapping, &info); }, nothing);
  // Unmapping and detaching need nothing.
  REQUIRE(pindax_map(b.client, b.fd, 0, 8 * kBlockSize, PROT_READ, 0, &m) == 0);
  left = 1, once = false, armed = true;
  const int unmapped = pindax_unmap(m);
  armed = false;
  CHECK(unmapped == 0);
  REQUIRE(pindax_attach(where.c_str(), nullptr, &other) == 0);
  const int fd = pindax_open(other, "/f", O_RDWR, 0);
  REQUIRE(pindax_map(other, fd, 0, 8 * kBlockSize, PROT_READ, 0, &m) == 0);
  left = 1, once = false, armed = true;
  const int detached = pindax_detach(other);
  armed = false;
  CHECK(detached == 0);
  CHECK(static_cast<const char*>(pindax_mapping_address(b.mapping))[5] == 'x');
}

TEST_CASE("client: what is refused for want of memory does not add up") {
  Bench b;
  pindax_client* other = nullptr;
  pindax_mapping* m = nullptr;
  const std::string where = b.world.socket_path();
  const auto churn = [&](int rounds) {
    for (int i = 0; i < rounds; ++i)
      for (long nth = 1; nth < 12; ++nth) {
        left = nth, once = true, armed = true;
        const int attached = pindax_attach(where.c_str(), nullptr, &other);
        armed = false;
        if (attached == 0) pindax_detach(other);
        left = nth, once = true, armed = true;
        const int mapped = pindax_map(b.client, b.fd, 0, 8 * kBlockSize, PROT_READ, 0, &m);
        armed = false;
        if (mapped == 0) pindax_unmap(m);
      }
    b.world.executor.drain();
  };
  churn(10);
  const std::size_t before = ::mallinfo2().uordblks;
  churn(60);
  const std::size_t after = ::mallinfo2().uordblks;
  INFO("bytes in use before " << before << ", after " << after);
  // 660 refusals of each: one that leaks its smallest object would leave tens of kilobytes.
  CHECK(after < before + 16384);
}
