// SPDX-License-Identifier: BSD-3-Clause
//
// The library against a server without a mount: direct mappings of a pool in shared memory.
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "raw_client.h"

// Behind the daemon's headers, where Mapping is the daemon's.
#include <pindax/pindax.hpp>

using namespace pindax::test;
using pindax::InodeNo;
using pindax::kBlockSize;
using namespace std::chrono_literals;

namespace {

thread_local sigjmp_buf jump;
thread_local volatile sig_atomic_t armed = 0;

void on_bus(int number, siginfo_t*, void*) {
  if (armed != 0) siglongjmp(jump, number);
  ::signal(number, SIG_DFL);
  ::raise(number);
}

// The signal that reading the byte raises, 0 for none.
int touch(const volatile std::byte* at) {
  struct sigaction action = {}, old = {};
  action.sa_sigaction = on_bus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigaction(SIGBUS, &action, &old);
  armed = 1;
  const int number = sigsetjmp(jump, 1);
  if (number == 0) (void)*at;
  armed = 0;
  ::sigaction(SIGBUS, &old, nullptr);
  return number;
}

void fill(std::byte* at, std::size_t length, int value) { std::memset(at, value, length); }

struct Setup {
  explicit Setup(pindax::u64 bytes = 16 * kBlockSize, char content = 'x') {
    world.make_file("f", bytes, content);
    client.emplace(world.socket_path());
    std::string why;
    INFO(why);
    REQUIRE(client->is_direct(&why));
    file = client->open("/f", O_RDWR);
  }
  pindax::library::Mapping map(std::size_t length = 16 * kBlockSize, int flags = 0) {
    return client->map(file, 0, length, PROT_READ | PROT_WRITE, flags);
  }
  World world;
  std::optional<pindax::Client> client;
  pindax::File file;
};

// What read(2) by another client sees.
std::string read_by_message(const World& world, pindax::u64 offset, pindax::u64 length) {
  RawClient other(world);
  other.hello(pindax::proto::kHelloControlOnly);
  const auto handle = other.open("/f", O_RDONLY);
  auto p = other.call(pindax::proto::Type::kRead, pindax::proto::ReadBody{{handle, {}}, offset, length});
  REQUIRE(p.status() == 0);
  return p.text();
}

}  // namespace

TEST_CASE("client: loads and stores go to the file's blocks") {
  Setup s;
  auto m = s.map();
  CHECK(m.data()[0] == std::byte{'x'});
  CHECK(m.data()[15 * kBlockSize + 7] == std::byte{'x'});
  std::memcpy(m.data() + 5000, "hello", 5);
  m.persist(5000, 5);
  CHECK(read_by_message(s.world, 4999, 7) == "xhellox");
  const auto info = m.info();
  CHECK(info.direct == 1);
  CHECK(info.extents >= 1);
  CHECK(info.file_size == 16 * kBlockSize);
}

TEST_CASE("client: a store after a load of the same page reaches the file") {
  Setup s;
  auto m = s.map();
  CHECK(m.data()[kBlockSize] == std::byte{'x'});
  m.data()[kBlockSize] = std::byte{'y'};
  CHECK(read_by_message(s.world, kBlockSize, 2) == "yx");
}

TEST_CASE("client: a hole reads as zeros, allocates nothing, and the first store allocates one block") {
  Setup s(0);
  s.file.truncate(64 * kBlockSize);
  auto m = s.map(64 * kBlockSize);
  for (std::size_t i = 0; i < 64; ++i) REQUIRE(m.data()[i * kBlockSize] == std::byte{0});
  auto root = s.world.fs->root();
  auto inode = s.world.fs->lookup(**root, "f");
  CHECK(s.world.fs->attributes(**inode)->blocks_512 == 0);
  m.data()[10 * kBlockSize] = std::byte{'a'};
  CHECK(m.data()[10 * kBlockSize] == std::byte{'a'});
  CHECK(m.data()[11 * kBlockSize] == std::byte{0});
  CHECK(s.world.fs->attributes(**inode)->blocks_512 == 8);
  CHECK(read_by_message(s.world, 10 * kBlockSize, 2) == std::string("a\0", 2));
}

TEST_CASE("client: beyond the end of file is a SIGBUS until the file grows") {
  Setup s(2 * kBlockSize);
  auto m = s.map(8 * kBlockSize);
  CHECK(touch(m.data() + kBlockSize) == 0);
  CHECK(touch(m.data() + 4 * kBlockSize) == SIGBUS);
  s.file.truncate(8 * kBlockSize);
  CHECK(touch(m.data() + 4 * kBlockSize) == 0);
  m.data()[4 * kBlockSize] = std::byte{'z'};
  s.file.truncate(2 * kBlockSize);
  CHECK(touch(m.data() + 4 * kBlockSize) == SIGBUS);
  CHECK(touch(m.data()) == 0);
}

TEST_CASE("client: another client's write into a hole that was read is seen [R18] [R19]") {
  Setup s(0);
  s.file.truncate(16 * kBlockSize);
  auto reader = s.map();
  REQUIRE(reader.data()[3 * kBlockSize] == std::byte{0});
  pindax::Client other(s.world.socket_path());
  auto file = other.open("/f", O_RDWR);
  auto writer = other.map(file, 0, 16 * kBlockSize, PROT_READ | PROT_WRITE);
  writer.data()[3 * kBlockSize] = std::byte{'w'};
  CHECK(reader.data()[3 * kBlockSize] == std::byte{'w'});
  REQUIRE(reader.data()[5 * kBlockSize] == std::byte{0});
  RawClient raw(s.world);
  raw.hello(pindax::proto::kHelloControlOnly);
  const auto handle = raw.open("/f");
  REQUIRE(raw.call(pindax::proto::Type::kWrite, pindax::proto::WriteBody{{handle, {}}, 5 * kBlockSize, 2, 0}, "qq").status() == 0);
  CHECK(reader.data()[5 * kBlockSize] == std::byte{'q'});
}

TEST_CASE("client: system calls read and write the mapping") {
  Setup s;
  auto m = s.map();
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  if (const char* how = std::getenv("PINDAX_FAULTS"); how != nullptr && std::string(how) == "signals") {
    // No handler runs for a system call's access: what is not translated is EFAULT, what was touched is fine.
    CHECK(::write(ends[1], m.data(), kBlockSize) == -1);
    CHECK(errno == EFAULT);
    fill(m.data(), 16 * kBlockSize, 'x');
  }
  CHECK(::write(ends[1], m.data(), 3 * kBlockSize) == static_cast<ssize_t>(3 * kBlockSize));
  CHECK(::read(ends[0], m.data() + 8 * kBlockSize, 3 * kBlockSize) == static_cast<ssize_t>(3 * kBlockSize));
  ::close(ends[0]);
  ::close(ends[1]);
  CHECK(read_by_message(s.world, 8 * kBlockSize, 1) == "x");
}

TEST_CASE("client: a truncation takes translations away and new contents come with the next touch") {
  Setup s;
  auto m = s.map();
  fill(m.data(), 16 * kBlockSize, 'a');
  s.file.truncate(0);
  CHECK(touch(m.data()) == SIGBUS);
  s.file.truncate(16 * kBlockSize);
  CHECK(m.data()[0] == std::byte{0});
  s.file.fallocate(0, 0, 16 * kBlockSize);
  fill(m.data(), 16 * kBlockSize, 'b');
  s.file.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * kBlockSize, kBlockSize);
  CHECK(m.data()[3 * kBlockSize] == std::byte{'b'});
  CHECK(m.data()[4 * kBlockSize] == std::byte{0});
  CHECK(m.data()[5 * kBlockSize] == std::byte{'b'});
}

TEST_CASE("client: a pin holds a punch back until it is unpinned [R1] [R13]") {
  Setup s;
  auto m = s.map();
  fill(m.data(), 16 * kBlockSize, 'p');
  pindax::Client other(s.world.socket_path());
  auto other_file = other.open("/f", O_RDWR);
  auto theirs = other.map(other_file, 0, 16 * kBlockSize, PROT_READ | PROT_WRITE);
  for (const unsigned flags : {PINDAX_PIN_TRANSIENT, PINDAX_PIN_TRANSIENT | PINDAX_PIN_WRITE}) {
    auto pin = m.pin(4 * kBlockSize, kBlockSize, flags);
    std::atomic<bool> done{false};
    std::thread puncher([&] {
      s.file.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * kBlockSize, kBlockSize);
      done = true;
    });
    std::this_thread::sleep_for(100ms);
    CHECK(!done);
    CHECK(m.data()[4 * kBlockSize] == std::byte{'p'});
    // Who came later queues behind the punch; who holds the pin already may pass it (A3).
    CHECK(!theirs.try_pin(4 * kBlockSize, 1).has_value());
    CHECK(theirs.try_pin(5 * kBlockSize, 1).has_value());
    CHECK(m.try_pin(4 * kBlockSize, 1).has_value());
    pin.reset();
    puncher.join();
    CHECK(m.data()[4 * kBlockSize] == std::byte{0});
    m.data()[4 * kBlockSize] = std::byte{'p'};
  }
  // A neighbour's pin does not matter.
  auto neighbour = m.pin(3 * kBlockSize, kBlockSize);
  s.file.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * kBlockSize, kBlockSize);
}

TEST_CASE("client: the thread that truncates what it pinned is told so, another thread waits [R37]") {
  Setup s;
  auto m = s.map();
  auto pin = m.pin(0, kBlockSize);
  CHECK(pindax_truncate(s.client->get(), s.file.fd(), 0) == -EDEADLK);
  std::atomic<bool> done{false};
  std::thread other([&] {
    s.file.truncate(0);
    done = true;
  });
  std::this_thread::sleep_for(100ms);
  CHECK(!done);
  pin.reset();
  other.join();
}

TEST_CASE("client: a write pin allocates its range first [P4]") {
  Setup s(0);
  s.file.truncate(16 * kBlockSize);
  auto m = s.map();
  auto pin = m.pin(2 * kBlockSize, 3 * kBlockSize, PINDAX_PIN_WRITE);
  auto root = s.world.fs->root();
  auto inode = s.world.fs->lookup(**root, "f");
  CHECK(s.world.fs->attributes(**inode)->blocks_512 == 3 * 8);
}

TEST_CASE("client: a pin outlives its mapping [R7]") {
  Setup s;
  auto m = s.map();
  CHECK(m.data()[0] == std::byte{'x'});
  auto pin = m.pin(0, kBlockSize);
  m.reset();
  std::atomic<bool> done{false};
  std::thread other([&] {
    s.file.truncate(0);
    done = true;
  });
  std::this_thread::sleep_for(100ms);
  CHECK(!done);
  pin.reset();
  other.join();
}

TEST_CASE("client: defined results for odd arguments [R35]") {
  Setup s;
  pindax_mapping* none = nullptr;
  CHECK(pindax_map(s.client->get(), s.file.fd(), 0, 0, PROT_READ, 0, &none) == -EINVAL);
  CHECK(pindax_map(s.client->get(), s.file.fd(), 5, 4096, PROT_READ, 0, &none) == -EINVAL);
  CHECK(pindax_map(s.client->get(), 987, 0, 4096, PROT_READ, 0, &none) == -EBADF);
  auto read_only = s.client->open("/f", O_RDONLY);
  CHECK(pindax_map(s.client->get(), read_only.fd(), 0, 4096, PROT_READ | PROT_WRITE, 0, &none) == -EACCES);
  auto m = s.map();
  struct pindax_pin pin = {};
  CHECK(pindax_pin(m.get(), 0, 0, 0, &pin) == -EINVAL);
  CHECK(pindax_pin(m.get(), 15 * kBlockSize, 2 * kBlockSize, 0, &pin) == -EINVAL);
  CHECK(pindax_unpin(m.get(), &pin) == -EINVAL);
  CHECK(pindax_persist(m.get(), 0, 0) == 0);
  CHECK(pindax_open(s.client->get(), "/none", O_RDONLY, 0) == -ENOENT);
  CHECK(std::string(pindax_last_error()).find("none") != std::string::npos);
  CHECK(pindax_clone_range(s.client->get(), s.file.fd(), 0, s.file.fd(), 4096, 4096) == 0);
  CHECK(pindax_clone_range(s.client->get(), s.file.fd(), 0, s.file.fd(), 100, 4096) == -EINVAL);
}

TEST_CASE("client: a forked child gets clean errors and holds nothing [R11]", "[fork]") {
  Setup s;
  auto m = s.map();
  CHECK(m.data()[0] == std::byte{'x'});
  auto pin = m.pin(0, kBlockSize);
  const pid_t child = ::fork();
  if (child == 0) {
    struct pindax_pin other = {};
    struct pindax_mapping_info info = {};
    info.size = sizeof(info);
    const bool clean = pindax_pin(m.get(), 0, 1, 0, &other) == -ENOTCONN && pindax_persist(m.get(), 0, 1) == -ENOTCONN &&
                       pindax_open(s.client->get(), "/f", O_RDONLY, 0) == -ENOTCONN &&
                       pindax_truncate(s.client->get(), s.file.fd(), 0) == -ENOTCONN &&
                       pindax_mapping_info(m.get(), &info) == -ENOTCONN && std::strlen(pindax_last_error()) != 0;
    unsigned char resident = 0;
    const bool unmapped = ::mincore(m.data(), kBlockSize, &resident) != 0 && errno == ENOMEM;
    ::_exit(clean && unmapped ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(m.data()[0] == std::byte{'x'});
}

TEST_CASE("client: a client that is killed while others wait for it lets go [R10]", "[fork]") {
  Setup s;
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    pindax::Client mine(s.world.socket_path());
    auto file = mine.open("/f", O_RDWR);
    auto m = mine.map(file, 0, 16 * kBlockSize, PROT_READ | PROT_WRITE);
    m.data()[0] = std::byte{'k'};
    auto pin = m.pin(0, kBlockSize);
    (void)!::write(ready[1], "r", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  std::atomic<bool> done{false};
  std::thread other([&] {
    s.file.truncate(0);
    done = true;
  });
  std::this_thread::sleep_for(100ms);
  CHECK(!done);
  ::kill(child, SIGKILL);
  other.join();
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("client: faults of many threads while the file is punched lose no store") {
  Setup s;
  auto m = s.map();
  constexpr int kThreads = 3;
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  // Each thread owns one block that is never punched and checks that its own stores stay.
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      volatile std::byte* mine = m.data() + static_cast<std::size_t>(4 * t + 1) * kBlockSize;
      for (unsigned n = 0; !stop; ++n) {
        *mine = static_cast<std::byte>(n);
        (void)m.data()[static_cast<std::size_t>(4 * t) * kBlockSize];
        if (*mine != static_cast<std::byte>(n)) ++wrong;
      }
    });
  for (int round = 0; round < 200; ++round)
    s.file.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<std::uint64_t>(round % 4) * 4 * kBlockSize, kBlockSize);
  stop = true;
  for (auto& t : threads) t.join();
  CHECK(wrong == 0);
}

TEST_CASE("client: a populated mapping is translated before the first touch, in one piece") {
  Setup s(256 * kBlockSize);
  auto m = s.map(256 * kBlockSize, PINDAX_MAP_POPULATE);
  const auto info = m.info();
  CHECK(info.mapped_bytes == 256 * kBlockSize);
  CHECK(info.extents < 16);
}

TEST_CASE("client: pread and pwrite: blocks by mapping, the end of file and what grows it by message") {
  Setup s(3 * kBlockSize + 100);
  std::string out(8 * kBlockSize, '?');
  CHECK(s.file.pread(out.data(), out.size(), kBlockSize) == 2 * kBlockSize + 100);  // by message: cut at the end
  CHECK(out.substr(0, 2 * kBlockSize + 101) == std::string(2 * kBlockSize + 100, 'x') + "?");
  CHECK(s.file.pread(out.data(), 10, 4 * kBlockSize) == 0);
  CHECK(s.file.pwrite("abc", 3, kBlockSize + 5) == 3);
  CHECK(read_by_message(s.world, kBlockSize + 4, 5) == "xabcx");
  CHECK(s.file.pread(out.data(), 5, kBlockSize + 4) == 5);
  CHECK(out.substr(0, 5) == "xabcx");
  CHECK(s.file.pwrite("end", 3, 6 * kBlockSize) == 3);  // grows: by message, over a hole
  CHECK(s.file.pread(out.data(), 4, 6 * kBlockSize - 1) == 4);
  CHECK(out.substr(0, 4) == std::string("\0end", 4));
  CHECK(s.file.pwrite("in a hole", 9, 4 * kBlockSize) == 9);
  CHECK(read_by_message(s.world, 4 * kBlockSize, 10) == std::string("in a hole\0", 10));
  s.file.truncate(kBlockSize);
  CHECK(s.file.pread(out.data(), 10, 4 * kBlockSize) == 0);
  const std::string large(100 * kBlockSize, 'L');  // more than a message
  CHECK(s.file.pwrite(large.data(), large.size(), 0) == large.size());
  std::string back(large.size(), 0);
  CHECK(s.file.pread(back.data(), back.size(), 0) == back.size());
  CHECK(back == large);
  auto read_only = s.client->open("/f", O_RDONLY);
  CHECK(read_only.pread(out.data(), 1, 0) == 1);
  CHECK(pindax_pwrite(s.client->get(), read_only.fd(), "x", 1, 0) == -EBADF);
}

TEST_CASE("client: a populated mapping has the blocks behind holes, however many pieces") {
  Setup s(0);
  s.file.truncate(1200 * kBlockSize);
  for (pindax::u64 page = 1; page < 1200; page += 3) REQUIRE(s.file.pwrite("p", 1, page * kBlockSize) == 1);
  CHECK(s.map(1200 * kBlockSize, PINDAX_MAP_POPULATE).info().mapped_bytes == 400 * kBlockSize);
}

TEST_CASE("client: a client that must not map directly is told so and cannot map without a mount") {
  Setup s;
  pindax_attach_options options = {};
  options.size = sizeof(options);
  options.flags = PINDAX_ATTACH_INDIRECT;
  pindax::Client other(s.world.socket_path(), &options);
  std::string why;
  CHECK(!other.is_direct(&why));
  CHECK(!why.empty());
  auto file = other.open("/f", O_RDONLY);
  pindax_mapping* none = nullptr;
  CHECK(pindax_map(other.get(), file.fd(), 0, 4096, PROT_READ, 0, &none) == -EACCES);
}

TEST_CASE("client: without mount and mapping, pread and pwrite take any number of bytes by message") {
  Setup s(0);
  pindax_attach_options options = {};
  options.size = sizeof(options);
  options.flags = PINDAX_ATTACH_INDIRECT;
  pindax::Client other(s.world.socket_path(), &options);
  auto file = other.open("/f", O_RDWR);
  std::string stored;
  for (std::size_t i = 0; i < 40 * kBlockSize + 77; ++i) stored += static_cast<char>('a' + i % 23);  // more than two messages
  CHECK(file.pwrite(stored.data(), stored.size(), 11) == stored.size());
  std::string seen(stored.size() + 100, '?');
  CHECK(file.pread(seen.data(), seen.size(), 11) == stored.size());
  CHECK(seen.substr(0, stored.size()) == stored);
  CHECK(file.pread(seen.data(), 600, 11 + 70'000) == 600);
  CHECK(seen.substr(0, 600) == stored.substr(70'000, 600));
  CHECK(file.pread(seen.data(), 1, 11 + stored.size()) == 0);
}

TEST_CASE("client: when the daemon ends, calls fail and untouched pages are a SIGBUS") {
  Setup s(64 * 512 * kBlockSize / 8);
  auto m = s.map(1024 * kBlockSize);
  CHECK(m.data()[0] == std::byte{'x'});
  s.world.server->stop();
  std::this_thread::sleep_for(50ms);
  CHECK(pindax_open(s.client->get(), "/f", O_RDONLY, 0) == -ENOTCONN);
  CHECK(m.data()[0] == std::byte{'x'});  // what was translated stays: the witness guards it
  CHECK(touch(m.data() + 1000 * kBlockSize) == SIGBUS);
  CHECK(pindax_attach(s.world.socket_path().c_str(), nullptr, nullptr) == -EINVAL);
  pindax_client* none = nullptr;
  CHECK(pindax_attach(s.world.socket_path().c_str(), nullptr, &none) < 0);
}

TEST_CASE("client: posix mode says through the gate that persist must ask the daemon") {
  World world(true, pindax::SyncMode::kPosix);
  world.make_file("f", 0, 0);
  pindax::Client client(world.socket_path());
  auto file = client.open("/f", O_RDWR);
  file.truncate(4 * kBlockSize);
  auto m = client.map(file, 0, 4 * kBlockSize, PROT_READ | PROT_WRITE);
  m.data()[0] = std::byte{'d'};
  m.persist(0, 1);
  m.data()[1] = std::byte{'e'};
  m.persist(0, 2);
  CHECK(read_by_message(world, 0, 2) == "de");
}
