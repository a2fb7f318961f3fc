// SPDX-License-Identifier: BSD-3-Clause
//
// A client process for tests: reads one command a line from standard input, answers with one line ("ok …" or "error NAME …").
// Usage: client_driver MOUNT-OR-SOCKET [indirect]
//
//   open PATH r|rw          the file that later commands use; the last mapping stays
//   map OFFSET LENGTH [lazy]
//   load OFFSET LENGTH      -> hex; SIGBUS is answered as an error
//   store OFFSET HEX
//   fill OFFSET LENGTH BYTE
//   persist OFFSET LENGTH
//   pin ID OFFSET LENGTH [write|lease|longterm|transferable]…, trypin the same, unpin ID     (offsets in the last mapping)
//   pins FIRST COUNT STRIDE [word]…   COUNT pins of a page each, ids from FIRST, STRIDE bytes apart
//   onlease keep|unpin      what is done about a lease that is asked for (keep)
//   asked                   how many leases were asked for
//   churn OFFSET LENGTH MS  pins and unpins without pause
//   storm US                a signal to this process every so many microseconds from now on; handlers do not restart calls; 0: no more
//   signals                 how many came
//   truncate SIZE [POLICY MS], fallocate MODE OFFSET LENGTH [POLICY MS]     POLICY: 0 inherit … 4 evict
//   clone SOURCE OFFSET DESTINATION OFFSET LENGTH, dedupe (the same) -> bytes deduped
//   time_stores OFFSET LENGTH   a store to each page -> the median in nanoseconds
//   mmap LENGTH, mstore OFFSET HEX, mload OFFSET LENGTH     an ordinary shared mapping of the mount
//   munmap, msync LENGTH, private LENGTH, pload OFFSET LENGTH    the same, private
//   pread OFFSET LENGTH, pwrite OFFSET HEX      the library's calls
//   mopen PATH, mread OFFSET LENGTH, mwrite OFFSET HEX      by messages to the daemon
//   mremove PATH
//   write_from MEMORY LENGTH OFFSET, read_into MEMORY LENGTH OFFSET     pwrite and pread of the file with the mapping as buffer
//   count direct|mount|calls WORD PAGES MS SEED     -> rounds and the last number of each page; see driver_bytes.h
//   hustle LENGTH MS        maps, loads, stores, pins, forks and unmaps without pause
//   syscall_write OFFSET LENGTH     write(2) from the mapping to /dev/null and a pipe: the kernel reads the memory
//   pattern OFFSET LENGTH NUMBER    stores the number (32 bits, little-endian) over and over
//   hold OFFSET LENGTH      vmsplice(2) into a pipe, which keeps the pages without a pin; held -> 16 bytes out of the first such pipe
//   syscall_read OFFSET LENGTH      read(2) of /dev/zero into the mapping: the kernel stores into it
//   self_write OFFSET LENGTH AT, self_read …       pwrite(2)/pread(2) of the mapped file itself, from and into its own mapping (R31)
//   restless MS             maps, touches, pins, unpins, unmaps, forks without pause; answers with the rounds
//   threads N MS            N threads pin, store and unpin in one mapping; answers with the stores that were lost
//   why                     the sentence of pindax_is_direct
//   fork                    forks a child that tries to use the library; answers with what it saw
//   direct                  1 or 0
//   info                    extents, mapped bytes
//   close, unmap, exit
#include <fcntl.h>
#include <pindax/pindax.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "driver_bytes.h"

namespace {

sigjmp_buf bus_jump;
volatile sig_atomic_t guarded = 0;

void on_bus(int, siginfo_t*, void*) {
  if (guarded != 0) siglongjmp(bus_jump, 1);
  ::signal(SIGBUS, SIG_DFL);
  ::raise(SIGBUS);
}

std::atomic<unsigned long> signals{0};

// SIGALRM without SA_RESTART: whatever can be interrupted is.
void storm(long microseconds) {
  struct sigaction action{};
  action.sa_handler = [](int) { signals.fetch_add(1); };
  ::sigaction(SIGALRM, &action, nullptr);
  const itimerval period{{0, microseconds}, {0, microseconds}};
  ::setitimer(ITIMER_REAL, &period, nullptr);
}

struct State {
  pindax_client* client = nullptr;
  int fd = -1;
  pindax_mapping* mapping = nullptr;
  std::mutex mutex;  // of the pins: the library's lease thread ends some
  std::map<int, std::pair<pindax_mapping*, struct pindax_pin>> pins;
  std::map<int, std::pair<size_t, size_t>> leases;  // offset, length
  bool unpin_asked = false;
  int asked = 0;
  unsigned char* shared = nullptr;
  std::vector<int> pipes;  // of hold
  unsigned char* hidden = nullptr;  // the private one
  size_t shared_length = 0;
  std::string where;
  driver::MessageFile messages;
};

void ok(const std::string& text = "") { std::cout << (text.empty() ? "ok" : "ok " + text) << std::endl; }

void error(int code) {
  std::cout << "error " << (strerrorname_np(-code) != nullptr ? strerrorname_np(-code) : "?") << " " << pindax_last_error() << std::endl;
}

void answer(int code) { code == 0 ? ok() : error(code); }

std::string to_hex(const unsigned char* bytes, size_t length) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < length; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

std::vector<unsigned char> from_hex(const std::string& text) {
  std::vector<unsigned char> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes.push_back(static_cast<unsigned char>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Runs `access` with SIGBUS turned into an answer.
template <class Access>
void guard(Access access) {
  guarded = 1;
  if (sigsetjmp(bus_jump, 1) == 0) {
    const std::string text = access();
    guarded = 0;
    ok(text);
  } else {
    guarded = 0;
    std::cout << "error SIGBUS" << std::endl;
  }
}

unsigned char* base(const State& s) { return static_cast<unsigned char*>(pindax_mapping_address(s.mapping)); }

void churn(State& s, size_t offset, size_t length, long ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  while (std::chrono::steady_clock::now() < end) {
    struct pindax_pin pin{};
    if (const int code = pindax_pin(s.mapping, offset, length, 0, &pin); code != 0) return error(code);
    if (const int code = pindax_unpin(s.mapping, &pin); code != 0) return error(code);
    ++rounds;
  }
  ok(std::to_string(rounds));
}

void fork_child(State& s) {
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

void report(ssize_t n) { n < 0 ? error(-errno) : ok(std::to_string(n)); }

void syscall_read(State& s, size_t offset, size_t length) {
  const int fd = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  const ssize_t n = ::read(fd, base(s) + offset, length);
  const int saved = errno;
  ::close(fd);
  errno = saved;
  report(n);
}

// Beyond the end of a file that is short just now there is a SIGBUS.
void touch_pages(volatile unsigned char* bytes, unsigned char value) {
  guarded = 1;
  if (sigsetjmp(bus_jump, 1) == 0)
    for (size_t page = 0; page < 64; page += 7) bytes[page * 4096] = value;
  guarded = 0;
}

// R40: a recall may arrive at any point of this.
void restless(State& s, long ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  for (; std::chrono::steady_clock::now() < end; ++rounds) {
    pindax_mapping* m = nullptr;
    if (const int code = pindax_map(s.client, s.fd, 0, 64 * 4096, PROT_READ | PROT_WRITE, rounds % 2 ? PINDAX_MAP_POPULATE : 0, &m); code != 0) return error(code);
    struct pindax_pin pin{};
    const int pinned = pindax_pin(m, 0, 64 * 4096, rounds % 3 ? 0 : PINDAX_PIN_WRITE, &pin);
    if (pinned != 0 && pinned != -EDEADLK) return error(pinned);
    touch_pages(static_cast<volatile unsigned char*>(pindax_mapping_address(m)), static_cast<unsigned char>(rounds));
    if (rounds % 8 == 0) {
      const pid_t child = ::fork();
      if (child == 0) ::_exit(0);
      ::waitpid(child, nullptr, 0);
    }
    if (pinned == 0 && rounds % 5 == 0) {  // R7: the mapping first
      if (const int code = pindax_unmap(m); code != 0) return error(code);
      m = nullptr;
    }
    if (pinned == 0)
      if (const int code = pindax_unpin(m, &pin); code != 0) return error(code);
    if (m != nullptr)
      if (const int code = pindax_unmap(m); code != 0) return error(code);
  }
  ok(std::to_string(rounds));
}

void threads(State& s, unsigned count, long ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  std::atomic<unsigned long> lost{0}, failed{0};
  std::atomic<int> first_error{0};
  auto check = [&](int code) {
    int none = 0;
    if (code != 0) ++failed, first_error.compare_exchange_strong(none, code);
    return code == 0;
  };
  std::vector<std::thread> all;
  for (unsigned t = 0; t < count; ++t)
    all.emplace_back([&, t] {
      volatile unsigned char* mine = base(s) + size_t{t} * 4096;
      for (unsigned n = 0; std::chrono::steady_clock::now() < end; ++n) {
        struct pindax_pin pin{};
        if (!check(pindax_pin(s.mapping, size_t{t} * 4096, 4096, PINDAX_PIN_WRITE, &pin))) continue;
        *mine = static_cast<unsigned char>(n);
        if (*mine != static_cast<unsigned char>(n)) ++lost;
        check(pindax_unpin(s.mapping, &pin));
      }
    });
  for (auto& t : all) t.join();
  ok(std::to_string(lost) + " " + std::to_string(failed) + " " + std::to_string(first_error));
}

unsigned pin_flags(std::istringstream& words) {
  unsigned flags = 0;
  for (std::string word; words >> word;) {
    if (word == "write") flags |= PINDAX_PIN_WRITE;
    if (word == "lease") flags |= PINDAX_PIN_LEASE;
    if (word == "longterm") flags |= PINDAX_PIN_LONGTERM;
    if (word == "transferable") flags |= PINDAX_PIN_TRANSFERABLE;
  }
  return flags;
}

int pin_one(State& s, int id, size_t offset, size_t length, unsigned flags, bool try_only) {
  struct pindax_pin made{};
  const int code = (try_only ? pindax_try_pin : pindax_pin)(s.mapping, offset, length, flags, &made);
  if (code != 0) return code;
  const std::lock_guard lock(s.mutex);
  s.pins[id] = {s.mapping, made};
  if ((flags & PINDAX_PIN_LEASE) != 0) s.leases[id] = {offset, length};
  return 0;
}

void pin(State& s, std::istringstream& words, bool try_only) {
  int id = 0;
  size_t offset = 0, length = 0;
  words >> id >> offset >> length;
  answer(pin_one(s, id, offset, length, pin_flags(words), try_only));
}

void pin_many(State& s, std::istringstream& words) {
  int first = 0, count = 0;
  size_t stride = 0;
  words >> first >> count >> stride;
  const unsigned flags = pin_flags(words);
  for (int i = 0; i < count; ++i)
    if (const int code = pin_one(s, first + i, static_cast<size_t>(i) * stride, 4096, flags, false); code != 0) return error(code);
  ok();
}

void on_lease(struct pindax_mapping*, size_t offset, size_t length, uint32_t, void* context) {
  State& s = *static_cast<State*>(context);
  const std::lock_guard lock(s.mutex);
  ++s.asked;
  if (!s.unpin_asked) return;
  for (auto it = s.leases.begin(); it != s.leases.end(); ++it) {
    if (it->second != std::pair(offset, length)) continue;
    auto entry = s.pins.extract(it->first);
    s.leases.erase(it);
    if (!entry.empty()) (void)pindax_unpin(entry.mapped().first, &entry.mapped().second);
    return;
  }
}

// "POLICY MS" at the end of a line.
struct pindax_change_options change_options(std::istringstream& words) {
  struct pindax_change_options o{};
  o.size = sizeof(o);
  words >> o.on_busy >> o.deadline_ms;
  return o;
}

void open_file(State& s, std::istringstream& words) {
  std::string path, mode;
  words >> path >> mode;
  const int fd = pindax_open(s.client, ("/" + path).c_str(), mode == "rw" ? O_RDWR : O_RDONLY, 0);
  if (fd < 0) return error(fd);
  s.fd = fd;
  ok();
}

void map(State& s, std::istringstream& words) {
  size_t offset = 0, length = 0;
  std::string lazy;
  words >> offset >> length >> lazy;
  const int mode = ::fcntl(s.fd, F_GETFL) & O_ACCMODE;
  answer(pindax_map(s.client, s.fd, offset, length, mode == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ,
                    lazy == "lazy" ? 0 : PINDAX_MAP_POPULATE, &s.mapping));
}

void* mount_memory(const State& s, size_t length, int prot, int flags) {
  void* p = ::mmap(nullptr, length, prot, flags, s.fd, 0);
  return p == MAP_FAILED ? nullptr : p;
}

void count(State& s, std::istringstream& words) {
  std::string kind;
  driver::Counting how;
  words >> kind >> how.word >> how.pages >> how.ms >> how.seed;
  unsigned char* memory = kind == "direct" ? base(s) : kind == "mount" ? s.shared : nullptr;
  unsigned long rounds = 0;
  std::vector<std::uint64_t> last;
  const std::string wrong = driver::count(how, memory, s.fd, rounds, last);
  if (!wrong.empty()) {
    std::cout << "error LOST " << wrong << std::endl;
    return;
  }
  std::string text = std::to_string(rounds);
  for (const auto n : last) text += " " + std::to_string(n);
  ok(text);
}

// R40: recalls meet every call of the library.
void hustle(State& s, size_t length, long ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  for (; std::chrono::steady_clock::now() < end; ++rounds) {
    pindax_mapping* m = nullptr;
    if (const int code = pindax_map(s.client, s.fd, 0, length, PROT_READ | PROT_WRITE, rounds % 2 == 0 ? PINDAX_MAP_POPULATE : 0, &m); code != 0) return error(code);
    auto* bytes = static_cast<volatile unsigned char*>(pindax_mapping_address(m));
    for (size_t at = 0; at < length; at += 4096) bytes[at] = static_cast<unsigned char>(bytes[at] + 1);
    struct pindax_pin pin{};
    if (const int code = pindax_pin(m, 0, length, rounds % 3 == 0 ? PINDAX_PIN_WRITE : 0, &pin); code != 0) return error(code);
    if (rounds % 16 == 0) {
      const pid_t child = ::fork();
      if (child == 0) ::_exit(0);
      ::waitpid(child, nullptr, 0);
    }
    if (const int code = pindax_unpin(m, &pin); code != 0) return error(code);
    if (const int code = pindax_unmap(m); code != 0) return error(code);
  }
  ok(std::to_string(rounds));
}

// Those of the commands that move bytes. False: it is another one.
bool bytes_step(State& s, const std::string& command, std::istringstream& words) {
  std::uint64_t offset = 0;
  size_t length = 0;
  std::string text;
  auto tell = [&](const std::string& wrong) { wrong.empty() ? ok() : void(std::cout << "error EIO " << wrong << std::endl); };
  if (command == "pread") {
    words >> offset >> length;
    std::vector<unsigned char> out(length);
    const ssize_t n = pindax_pread(s.client, s.fd, out.data(), length, offset);
    n < 0 ? error(static_cast<int>(n)) : ok(to_hex(out.data(), static_cast<size_t>(n)));
  } else if (command == "pwrite") {
    words >> offset >> text;
    const auto in = from_hex(text);
    const ssize_t n = pindax_pwrite(s.client, s.fd, in.data(), in.size(), offset);
    n < 0 ? error(static_cast<int>(n)) : ok(std::to_string(n));
  } else if (command == "mopen") {
    words >> text;
    tell(s.messages.open(s.where, "/" + text));
  } else if (command == "mread") {
    words >> offset >> length;
    driver::Bytes out;
    const std::string wrong = s.messages.read(offset, length, out);
    wrong.empty() ? ok(to_hex(out.data(), out.size())) : tell(wrong);
  } else if (command == "mwrite") {
    words >> offset >> text;
    tell(s.messages.write(offset, from_hex(text)));
  } else if (command == "mremove") {
    words >> text;
    tell(driver::MessageFile::remove(s.where, "/" + text));
  } else if (command == "write_from" || command == "read_into") {
    std::uint64_t memory = 0;
    words >> memory >> length >> offset;
    const auto at = static_cast<off_t>(offset);
    const ssize_t n = command == "write_from" ? ::pwrite(s.fd, base(s) + memory, length, at) : ::pread(s.fd, base(s) + memory, length, at);
    n < 0 ? error(-errno) : ok(std::to_string(n));
  } else if (command == "private") {
    words >> length;
    s.hidden = static_cast<unsigned char*>(mount_memory(s, length, PROT_READ | PROT_WRITE, MAP_PRIVATE));
    answer(s.hidden == nullptr ? -errno : 0);
  } else if (command == "pload") {
    words >> offset >> length;
    guard([&] { return to_hex(s.hidden + offset, length); });
  } else if (command == "munmap") {
    answer(::munmap(s.shared, s.shared_length) != 0 ? -errno : 0);
  } else if (command == "msync") {
    answer(::msync(s.shared, s.shared_length, MS_SYNC) != 0 ? -errno : 0);
  } else if (command == "count") {
    count(s, words);
  } else if (command == "hustle") {
    long ms = 0;
    words >> length >> ms;
    hustle(s, length, ms);
  } else {
    return false;
  }
  return true;
}

// The kernel reads the mapping on our behalf.
void syscall_write(State& s, size_t offset, size_t length) {
  int ends[2];
  if (::pipe(ends) != 0) return error(-errno);
  const ssize_t n = ::write(ends[1], base(s) + offset, length);
  const int saved = errno;
  ::close(ends[0]);
  ::close(ends[1]);
  if (n < 0) return error(-saved);
  ok(std::to_string(n));
}

void hold(State& s, size_t offset, size_t length) {
  int ends[2];
  if (::pipe(ends) != 0) return error(-errno);
  const iovec piece{base(s) + offset, length};
  if (::vmsplice(ends[1], &piece, 1, 0) != static_cast<ssize_t>(length)) return error(-errno);
  s.pipes.push_back(ends[0]);
  ok();
}

void held(State& s) {
  unsigned char bytes[16];
  if (s.pipes.empty() || ::read(s.pipes.front(), bytes, sizeof bytes) != sizeof bytes) return error(-EBADF);
  ok(to_hex(bytes, sizeof bytes));
}

void store_pattern(State& s, size_t offset, size_t length, unsigned number) {
  for (size_t at = 0; at < length; at += sizeof number) std::memcpy(base(s) + offset + at, &number, sizeof number);
}

// Two files by name: source and its offset, destination and its offset, length.
void share(State& s, std::istringstream& words, bool dedupe) {
  std::string from, to;
  uint64_t in = 0, out = 0, length = 0, deduped = 0;
  words >> from >> in >> to >> out >> length;
  const int source = pindax_open(s.client, ("/" + from).c_str(), O_RDONLY, 0);
  const int target = pindax_open(s.client, ("/" + to).c_str(), O_RDWR, 0);
  int code = source < 0 ? source : target < 0 ? target : 0;
  if (code == 0)
    code = dedupe ? pindax_dedupe_range(s.client, source, in, target, out, length, &deduped)
                  : pindax_clone_range(s.client, source, in, target, out, length);
  if (source >= 0) pindax_close(s.client, source);
  if (target >= 0) pindax_close(s.client, target);
  code == 0 ? ok(std::to_string(deduped)) : error(code);
}

// Stores a byte to each page; the median time of a store in nanoseconds.
void time_stores(State& s, size_t offset, size_t length) {
  std::vector<long> times;
  for (size_t at = offset; at < offset + length; at += 4096) {
    struct timespec a{}, b{};
    ::clock_gettime(CLOCK_MONOTONIC, &a);
    *(static_cast<volatile unsigned char*>(base(s)) + at) = 1;
    ::clock_gettime(CLOCK_MONOTONIC, &b);
    times.push_back((b.tv_sec - a.tv_sec) * 1'000'000'000 + b.tv_nsec - a.tv_nsec);
  }
  std::sort(times.begin(), times.end());
  ok(std::to_string(times[times.size() / 2]));
}

bool step(State& s, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  size_t offset = 0, length = 0;
  std::string text;
  if (command == "open") open_file(s, words);
  else if (command == "map") map(s, words);
  else if (command == "load") {
    words >> offset >> length;
    guard([&] { return to_hex(base(s) + offset, length); });
  } else if (command == "store") {
    words >> offset >> text;
    const auto bytes = from_hex(text);
    guard([&] { std::memcpy(base(s) + offset, bytes.data(), bytes.size()); return std::string(); });
  } else if (command == "fill") {
    int byte = 0;
    words >> offset >> length >> byte;
    guard([&] { std::memset(base(s) + offset, byte, length); return std::string(); });
  } else if (command == "pattern") {
    unsigned number = 0;
    words >> offset >> length >> number;
    guard([&] { store_pattern(s, offset, length, number); return std::string(); });
  } else if (command == "hold") {
    words >> offset >> length;
    hold(s, offset, length);
  } else if (command == "held") held(s);
  else if (command == "persist") {
    words >> offset >> length;
    answer(pindax_persist(s.mapping, offset, length));
  } else if (command == "pin" || command == "trypin") pin(s, words, command == "trypin");
  else if (command == "unpin") {
    int id = 0;
    words >> id;
    const std::lock_guard lock(s.mutex);
    auto entry = s.pins.extract(id);
    s.leases.erase(id);
    answer(entry.empty() ? -ENOENT : pindax_unpin(entry.mapped().first, &entry.mapped().second));
  } else if (command == "churn") {
    long ms = 0;
    words >> offset >> length >> ms;
    churn(s, offset, length, ms);
  } else if (command == "storm") {
    long microseconds = 0;
    words >> microseconds;
    storm(microseconds);
    ok();
  } else if (command == "signals") ok(std::to_string(signals.load()));
  else if (command == "truncate") {
    words >> length;
    const auto o = change_options(words);
    answer(pindax_truncate_ext(s.client, s.fd, length, &o));
  } else if (command == "fallocate") {
    int mode = 0;
    words >> mode >> offset >> length;
    const auto o = change_options(words);
    answer(pindax_fallocate_ext(s.client, s.fd, mode, offset, length, &o));
  } else if (command == "pins") {
    pin_many(s, words);
  } else if (command == "onlease") {
    words >> text;
    const std::lock_guard lock(s.mutex);
    s.unpin_asked = text == "unpin";
    ok();
  } else if (command == "asked") {
    const std::lock_guard lock(s.mutex);
    ok(std::to_string(s.asked));
  } else if (command == "clone" || command == "dedupe") {
    share(s, words, command == "dedupe");
  } else if (command == "time_stores") {
    words >> offset >> length;
    time_stores(s, offset, length);
  } else if (command == "mmap") {
    words >> length;
    const bool writable = (::fcntl(s.fd, F_GETFL) & O_ACCMODE) == O_RDWR;
    s.shared = static_cast<unsigned char*>(mount_memory(s, length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED));
    s.shared_length = length;
    answer(s.shared == nullptr ? -errno : 0);
  } else if (command == "mstore") {
    words >> offset >> text;
    const auto bytes = from_hex(text);
    guard([&] { std::memcpy(s.shared + offset, bytes.data(), bytes.size()); return std::string(); });
  } else if (command == "mload") {
    words >> offset >> length;
    guard([&] { return to_hex(s.shared + offset, length); });
  } else if (command == "syscall_write") {
    words >> offset >> length;
    syscall_write(s, offset, length);
  } else if (command == "syscall_read") {
    words >> offset >> length;
    syscall_read(s, offset, length);
  } else if (command == "self_write" || command == "self_read") {
    off_t at = 0;
    words >> offset >> length >> at;
    report(command == "self_write" ? ::pwrite(s.fd, base(s) + offset, length, at) : ::pread(s.fd, base(s) + offset, length, at));
  } else if (command == "restless") {
    long ms = 0;
    words >> ms;
    restless(s, ms);
  } else if (command == "threads") {
    unsigned count = 0;
    long ms = 0;
    words >> count >> ms;
    threads(s, count, ms);
  } else if (command == "why") {
    const char* why = nullptr;
    pindax_is_direct(s.client, &why);
    ok(why);
  } else if (command == "fork") fork_child(s);
  else if (command == "direct") ok(std::to_string(pindax_is_direct(s.client, nullptr)));
  else if (command == "info") {
    struct pindax_mapping_info info{};
    info.size = sizeof(info);
    const int code = pindax_mapping_info(s.mapping, &info);
    if (code != 0) error(code);
    else ok(std::to_string(info.extents) + " " + std::to_string(info.mapped_bytes));
  } else if (command == "close") answer(pindax_close(s.client, s.fd));
  else if (command == "unmap") answer(pindax_unmap(s.mapping));
  else if (command == "exit") return false;
  else if (bytes_step(s, command, words)) return true;
  else std::cout << "error ENOSYS unknown command" << std::endl;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  std::ios::sync_with_stdio(false);  // stdio gives up when a signal interrupts it
  struct sigaction action{};
  action.sa_sigaction = on_bus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigaction(SIGBUS, &action, nullptr);
  State state;
  state.where = argv[1];
  unsigned flags = 0;
  if (argc == 3) flags = std::string(argv[2]) == "cooperative" ? PINDAX_ATTACH_COOPERATIVE : PINDAX_ATTACH_INDIRECT;
  const struct pindax_attach_options options = {sizeof(options), flags, nullptr, on_lease, &state};
  if (const int code = pindax_attach(argv[1], &options, &state.client); code != 0) {
    error(code);
    return 1;
  }
  std::cout << "ready" << std::endl;
  std::string line;
  while (std::getline(std::cin, line))
    if (!step(state, line)) return pindax_detach(state.client);
  return 0;  // the end of the input is a death without a farewell
}
