// SPDX-License-Identifier: BSD-3-Clause
//
// The library's parts that need no daemon: the book of places, and what a watched page does when its block is taken away.
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "catch.h"
#include "client/page_book.h"
#include "client/userfaultfd.h"

using namespace pindax;
using namespace pindax::client;

TEST_CASE("page book: pieces are what the kernel would make of the places") {
  constexpr u64 kPages = 200;
  PageBook book;
  book.reserve(kPages);
  std::vector<Place> model(kPages);
  std::mt19937_64 random(4711);
  i64 pieces = 0;
  for (int round = 0; round < 3000; ++round) {
    const u64 from = random() % kPages, to = from + 1 + random() % std::min<u64>(kPages - from, 20);
    Place place;
    switch (random() % 5) {
      case 0: place = Place{}; break;
      case 1: place = Place::zeros(); break;
      case 2: place = Place::beyond(); break;
      default: place = Place::blocks(from + (random() % 3) * 1000, random() % 2 == 0); break;
    }
    pieces += book.set(from, to, place);
    for (u64 page = from; page < to; ++page) model[page] = place.at(page - from);
    if (place.kind() == Place::kBlocks) book.set_mapped(from, to);
    else book.clear_mapped(from, to);
    u64 count = 0, mapped = 0;
    for (u64 page = 0; page < kPages; ++page) {
      REQUIRE(book.at(page) == model[page]);
      REQUIRE(book.mapped(page) == (model[page].kind() == Place::kBlocks));
      mapped += book.mapped(page) ? 1 : 0;
      const bool continues = page != 0 && model[page - 1].continued() == model[page].word && model[page].word != 0;
      count += model[page].word != 0 && !continues ? 1 : 0;
    }
    REQUIRE(book.pieces() == count);
    REQUIRE(pieces == static_cast<i64>(count));
    REQUIRE(book.mapped_pages() == mapped);
  }
  CHECK(book.first_other(0, kPages, Place{}) <= kPages);
}

namespace {

// A pool of one block in shared memory, the daemon's view of it, and a client's watched page.
struct Page {
  Page() {
    REQUIRE(watcher.open(-1) == 0);
    pool = UniqueFd(::memfd_create("pool", MFD_CLOEXEC));
    REQUIRE(::ftruncate(pool.get(), kBlockSize) == 0);
    daemon = static_cast<char*>(::mmap(nullptr, kBlockSize, PROT_READ | PROT_WRITE, MAP_SHARED, pool.get(), 0));
    client = static_cast<char*>(::mmap(nullptr, kBlockSize, PROT_READ | PROT_WRITE, MAP_SHARED, pool.get(), 0));
    std::memset(daemon, 'o', kBlockSize);
    REQUIRE(watcher.watch_shared(address(), kBlockSize) == 0);
    REQUIRE(watcher.enter(address(), kBlockSize) == 0);
    REQUIRE(*client == 'o');
    *client = 'o';
  }
  ~Page() {
    ::munmap(daemon, kBlockSize);
    ::munmap(const_cast<char*>(client), kBlockSize);
  }
  u64 address() const { return reinterpret_cast<u64>(client); }
  void write_protect() {
    uffdio_writeprotect wp{};
    wp.range = {address(), kBlockSize};
    wp.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    (void)::ioctl(watcher.fd(), UFFDIO_WRITEPROTECT, &wp);
  }
  void punch_and_reuse() {
    REQUIRE(::fallocate(pool.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlockSize) == 0);
    std::memset(daemon, 'S', kBlockSize);  // another file's secret
  }

  Userfaultfd watcher;
  UniqueFd pool;
  char* daemon = nullptr;
  volatile char* client = nullptr;
};

thread_local sigjmp_buf jump;
void on_bus(int, siginfo_t*, void*) { siglongjmp(jump, 1); }

// What a stale access got: the byte it read, or 'B' for a SIGBUS. While it hangs it is a request; it is then given anonymous
// memory, so that a request reads as 0.
char stale_access(Page& page, bool store) {
  std::atomic<int> got{-1};
  std::thread toucher([&] {
    if (sigsetjmp(jump, 1) != 0) {
      got = 'B';
      return;
    }
    if (store) *page.client = 'X';
    got = *page.client;
  });
  pollfd event{page.watcher.fd(), POLLIN, 0};
  for (int i = 0; i < 2000 && got < 0 && ::poll(&event, 1, 1) == 0; ++i) {
  }
  if (got < 0) {
    const auto at = reinterpret_cast<void*>(page.address());
    REQUIRE(::mmap(at, kBlockSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    page.watcher.wake(page.address(), kBlockSize);
    toucher.join();
    return static_cast<char>(got.load()) == 'X' || got == 0 ? 'R' : static_cast<char>(got.load());
  }
  toucher.join();
  return static_cast<char>(got.load());
}

}  // namespace

TEST_CASE("watched pages: [R21] no order of write-protect, punch and poison leaves a reused block in reach") {
  {
    Userfaultfd probe;
    if (probe.open(-1) != 0 || !probe.can_watch_shared()) {
      WARN("skipped: no userfaultfd that watches shared memory");
      return;
    }
  }
  struct sigaction action {}, old {};
  action.sa_sigaction = on_bus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigaction(SIGBUS, &action, &old);
  for (const char* steps : {"p", "wp", "pw", "px", "xp", "wpx", "wxp", "pwx", "pxw", "xwp", "xpw"})
    for (const bool store : {false, true}) {
      Page page;
      for (const char* s = steps; *s != '\0'; ++s) {
        if (*s == 'w') page.write_protect();
        if (*s == 'p') page.punch_and_reuse();
        if (*s == 'x') (void)page.watcher.poison(page.address(), kBlockSize);
      }
      const char got = stale_access(page, store);
      INFO(steps << (store ? ", store" : ", load") << ": " << got);
      CHECK((got == 'R' || got == 'B'));
      CHECK(*page.daemon == 'S');
    }
  ::sigaction(SIGBUS, &old, nullptr);
}

TEST_CASE("watched pages: before a punch a write-protected page is read, and its store is a request") {
  Page page;
  if (!page.watcher.can_watch_shared()) return;
  page.write_protect();
  CHECK(stale_access(page, false) == 'o');
  CHECK(stale_access(page, true) == 'R');
  CHECK(*page.daemon == 'o');
}

TEST_CASE("watched pages: entering a page that the file lacks makes zeros, and what is entered already is fine") {
  Page page;
  REQUIRE(::fallocate(page.pool.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlockSize) == 0);
  CHECK(page.watcher.enter(page.address(), kBlockSize) == 0);
  CHECK(*page.client == 0);
  CHECK(page.watcher.enter(page.address(), kBlockSize) == 0);
  *page.client = 'x';
  CHECK(*page.daemon == 'x');
}
