// SPDX-License-Identifier: BSD-3-Clause
//
// Commands that go on for a while.
//
//   churn OFFSET LENGTH MS  pins and unpins without pause -> rounds
//   restless MS             maps, touches, pins, unpins, unmaps, forks without pause -> rounds
//   hustle LENGTH MS        maps, loads, stores, pins, forks and unmaps without pause -> rounds
//   threads N MS            N threads pin, store and unpin in one mapping; answers with the stores that were lost
//   count direct|mount|calls WORD PAGES MS SEED     -> rounds and the last number of each page; see driver_bytes.h
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "driver.h"

namespace driver {

namespace {

using Clock = std::chrono::steady_clock;

void churn(State& s, Words& words) {
  size_t offset = 0, length = 0;
  long ms = 0;
  words >> offset >> length >> ms;
  const auto end = Clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  for (; Clock::now() < end; ++rounds) {
    struct pindax_pin pin{};
    if (const int code = pindax_pin(s.mapping, offset, length, 0, &pin); code != 0) return error(code);
    if (const int code = pindax_unpin(s.mapping, &pin); code != 0) return error(code);
  }
  ok(std::to_string(rounds));
}

void fork_in_passing() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
}

// R40: a recall may arrive at any point of this. Returns a negative errno.
int restless_round(State& s, unsigned long round) {
  constexpr size_t kLength = 64 * 4096;
  pindax_mapping* m = nullptr;
  const int how = round % 2 ? PINDAX_MAP_POPULATE : 0;
  if (const int code = pindax_map(s.client, s.fd, 0, kLength, PROT_READ | PROT_WRITE, how, &m); code != 0) return code;
  struct pindax_pin pin{};
  const int pinned = pindax_pin(m, 0, kLength, round % 3 ? 0 : PINDAX_PIN_WRITE, &pin);
  if (pinned != 0 && pinned != -EDEADLK) return pinned;
  auto* const bytes = static_cast<volatile unsigned char*>(pindax_mapping_address(m));
  // Beyond the end of a file that is short just now there is a SIGBUS.
  (void)reaches([&] {
    for (size_t page = 0; page < 64; page += 7) bytes[page * 4096] = static_cast<unsigned char>(round);
  });
  if (round % 8 == 0) fork_in_passing();
  if (pinned == 0 && round % 5 == 0) {  // R7: the mapping first
    if (const int code = pindax_unmap(m); code != 0) return code;
    m = nullptr;
  }
  if (pinned == 0)
    if (const int code = pindax_unpin(m, &pin); code != 0) return code;
  return m == nullptr ? 0 : pindax_unmap(m);
}

void restless(State& s, Words& words) {
  long ms = 0;
  words >> ms;
  const auto end = Clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  for (; Clock::now() < end; ++rounds)
    if (const int code = restless_round(s, rounds); code != 0) return error(code);
  ok(std::to_string(rounds));
}

// R40: recalls meet every call of the library. Returns a negative errno.
int hustle_round(State& s, size_t length, unsigned long round) {
  pindax_mapping* m = nullptr;
  const int how = round % 2 == 0 ? PINDAX_MAP_POPULATE : 0;
  if (const int code = pindax_map(s.client, s.fd, 0, length, PROT_READ | PROT_WRITE, how, &m); code != 0) return code;
  auto* bytes = static_cast<volatile unsigned char*>(pindax_mapping_address(m));
  for (size_t at = 0; at < length; at += 4096) bytes[at] = static_cast<unsigned char>(bytes[at] + 1);
  struct pindax_pin pin{};
  if (const int code = pindax_pin(m, 0, length, round % 3 == 0 ? PINDAX_PIN_WRITE : 0, &pin); code != 0) return code;
  if (round % 16 == 0) fork_in_passing();
  if (const int code = pindax_unpin(m, &pin); code != 0) return code;
  return pindax_unmap(m);
}

void hustle(State& s, Words& words) {
  size_t length = 0;
  long ms = 0;
  words >> length >> ms;
  const auto end = Clock::now() + std::chrono::milliseconds(ms);
  unsigned long rounds = 0;
  for (; Clock::now() < end; ++rounds)
    if (const int code = hustle_round(s, length, rounds); code != 0) return error(code);
  ok(std::to_string(rounds));
}

void threads(State& s, Words& words) {
  unsigned number = 0;
  long ms = 0;
  words >> number >> ms;
  const auto end = Clock::now() + std::chrono::milliseconds(ms);
  std::atomic<unsigned long> lost{0}, failed{0};
  std::atomic<int> first_error{0};
  auto check = [&](int code) {
    int none = 0;
    if (code != 0) ++failed, first_error.compare_exchange_strong(none, code);
    return code == 0;
  };
  std::vector<std::thread> all;
  for (unsigned t = 0; t < number; ++t)
    all.emplace_back([&, t] {
      volatile unsigned char* mine = s.memory() + size_t{t} * 4096;
      for (unsigned n = 0; Clock::now() < end; ++n) {
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

void count_words(State& s, Words& words) {
  std::string kind;
  Counting how;
  words >> kind >> how.word >> how.pages >> how.ms >> how.seed;
  unsigned char* memory = kind == "direct" ? s.memory() : kind == "mount" ? s.shared : nullptr;
  unsigned long rounds = 0;
  std::vector<std::uint64_t> last;
  const std::string wrong = count(how, memory, s.fd, rounds, last);
  if (!wrong.empty()) return error("LOST " + wrong);
  std::string text = std::to_string(rounds);
  for (const auto n : last) text += " " + std::to_string(n);
  ok(text);
}

constexpr Command kCommands[] = {
    {"churn", churn}, {"restless", restless}, {"hustle", hustle}, {"threads", threads}, {"count", count_words},
};

}  // namespace

const std::span<const Command> load_commands = kCommands;

}  // namespace driver
