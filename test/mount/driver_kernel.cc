// SPDX-License-Identifier: BSD-3-Clause
//
// Commands by which the kernel meets the file or the library's mapping: mappings of the mount, system calls into mapped memory,
// signals, fork.
//
//   mmap LENGTH, mstore OFFSET HEX, mload OFFSET LENGTH     an ordinary shared mapping of the mount
//   munmap
//   write_from MEMORY LENGTH OFFSET, read_into MEMORY LENGTH OFFSET     pwrite(2) and pread(2) of the file with the mapping as buffer (R31)
//   syscall_write OFFSET LENGTH     write(2) from the mapping to a pipe: the kernel reads the memory
//   syscall_read OFFSET LENGTH      read(2) of /dev/zero into the mapping: the kernel stores into it
//   hold OFFSET LENGTH      vmsplice(2) into a pipe, which keeps the pages without a pin
//   held                    -> 16 bytes out of the first such pipe
//   storm US                a signal to this process every so many microseconds from now on; handlers do not restart calls; 0: no more
//   signals                 -> how many came
//   fork                    forks a child that tries to use the library; answers with what it saw
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "driver.h"

namespace driver {

namespace {

void map_shared(State& s, Words& words) {
  size_t length = 0;
  words >> length;
  const bool writable = (::fcntl(s.fd, F_GETFL) & O_ACCMODE) == O_RDWR;
  void* const p = ::mmap(nullptr, length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, s.fd, 0);
  s.shared = p == MAP_FAILED ? nullptr : static_cast<unsigned char*>(p);
  s.shared_length = length;
  answer(s.shared == nullptr ? -errno : 0);
}

void store_shared(State& s, Words& words) {
  size_t offset = 0;
  std::string text;
  words >> offset >> text;
  const auto bytes = from_hex(text);
  guard([&] { return std::memcpy(s.shared + offset, bytes.data(), bytes.size()), std::string(); });
}

void load_shared(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  guard([&] { return to_hex(s.shared + offset, length); });
}

void unmap_shared(State& s, Words&) { answer(::munmap(s.shared, s.shared_length) != 0 ? -errno : 0); }

void write_from(State& s, Words& words) {
  size_t memory = 0, length = 0;
  off_t offset = 0;
  words >> memory >> length >> offset;
  report(::pwrite(s.fd, s.memory() + memory, length, offset));
}

void read_into(State& s, Words& words) {
  size_t memory = 0, length = 0;
  off_t offset = 0;
  words >> memory >> length >> offset;
  report(::pread(s.fd, s.memory() + memory, length, offset));
}

void syscall_write(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  int ends[2];
  if (::pipe(ends) != 0) return error(-errno);
  const ssize_t n = ::write(ends[1], s.memory() + offset, length);
  const int saved = errno;
  ::close(ends[0]);
  ::close(ends[1]);
  errno = saved;
  report(n);
}

void syscall_read(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  const int fd = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  const ssize_t n = ::read(fd, s.memory() + offset, length);
  const int saved = errno;
  ::close(fd);
  errno = saved;
  report(n);
}

void hold(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  int ends[2];
  if (::pipe(ends) != 0) return error(-errno);
  const iovec piece{s.memory() + offset, length};
  if (::vmsplice(ends[1], &piece, 1, 0) != static_cast<ssize_t>(length)) return error(-errno);
  s.pipes.push_back(ends[0]);
  ok();
}

void held(State& s, Words&) {
  unsigned char bytes[16];
  if (s.pipes.empty() || ::read(s.pipes.front(), bytes, sizeof bytes) != sizeof bytes) return error(-EBADF);
  ok(to_hex(bytes, sizeof bytes));
}

std::atomic<unsigned long> signals_seen{0};

// SIGALRM without SA_RESTART: whatever can be interrupted is.
void storm(State&, Words& words) {
  long microseconds = 0;
  words >> microseconds;
  struct sigaction action{};
  action.sa_handler = [](int) { signals_seen.fetch_add(1); };
  ::sigaction(SIGALRM, &action, nullptr);
  const itimerval period{{0, microseconds}, {0, microseconds}};
  ::setitimer(ITIMER_REAL, &period, nullptr);
  ok();
}

void signals(State&, Words&) { ok(std::to_string(signals_seen.load())); }

void fork_child(State& s, Words&) {
  int ends[2];
  if (::pipe(ends) != 0) return error(-errno);
  const pid_t child = ::fork();
  if (child == 0) {
    struct pindax_pin pin{};
    const int code = pindax_pin(s.mapping, 0, 4096, 0, &pin);
    if (::write(ends[1], &code, sizeof(code)) != sizeof(code)) ::_exit(1);
    ::_exit(0);
  }
  int code = 0;
  if (::read(ends[0], &code, sizeof(code)) != sizeof(code)) code = -EIO;
  int status = 0;
  ::waitpid(child, &status, 0);
  ::close(ends[0]);
  ::close(ends[1]);
  ok(std::string(code == 0 ? "0" : strerrorname_np(-code)) + " " + std::to_string(status));
}

constexpr Command kCommands[] = {
    {"mmap", map_shared},
    {"mstore", store_shared},
    {"mload", load_shared},
    {"munmap", unmap_shared},
    {"write_from", write_from},
    {"read_into", read_into},
    {"syscall_write", syscall_write},
    {"syscall_read", syscall_read},
    {"hold", hold},
    {"held", held},
    {"storm", storm},
    {"signals", signals},
    {"fork", fork_child},
};

}  // namespace

const std::span<const Command> kernel_commands = kCommands;

}  // namespace driver
