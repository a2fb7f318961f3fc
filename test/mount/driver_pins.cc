// SPDX-License-Identifier: BSD-3-Clause
//
// Commands about pins and leases. Offsets are in the last mapping.
//
//   pin ID OFFSET LENGTH [write|lease|longterm|transferable]…, trypin the same, unpin ID
//   pins FIRST COUNT STRIDE [word]…   COUNT pins of a page each, ids from FIRST, STRIDE bytes apart
//   onlease keep|unpin      what is done about a lease that is asked for (keep)
//   asked                   -> how many leases were asked for
#include <cerrno>

#include "driver.h"

namespace driver {

namespace {

unsigned pin_flags(Words& words) {
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

void pin_as_told(State& s, Words& words, bool try_only) {
  int id = 0;
  size_t offset = 0, length = 0;
  words >> id >> offset >> length;
  answer(pin_one(s, id, offset, length, pin_flags(words), try_only));
}

void pin(State& s, Words& words) { pin_as_told(s, words, false); }

void try_pin(State& s, Words& words) { pin_as_told(s, words, true); }

void pin_many(State& s, Words& words) {
  int first = 0, count = 0;
  size_t stride = 0;
  words >> first >> count >> stride;
  const unsigned flags = pin_flags(words);
  for (int i = 0; i < count; ++i)
    if (const int code = pin_one(s, first + i, static_cast<size_t>(i) * stride, 4096, flags, false); code != 0) return error(code);
  ok();
}

void unpin(State& s, Words& words) {
  int id = 0;
  words >> id;
  const std::lock_guard lock(s.mutex);
  auto entry = s.pins.extract(id);
  s.leases.erase(id);
  answer(entry.empty() ? -ENOENT : pindax_unpin(entry.mapped().first, &entry.mapped().second));
}

void set_on_lease(State& s, Words& words) {
  std::string what;
  words >> what;
  const std::lock_guard lock(s.mutex);
  s.unpin_asked = what == "unpin";
  ok();
}

void asked(State& s, Words&) {
  const std::lock_guard lock(s.mutex);
  ok(std::to_string(s.asked));
}

constexpr Command kCommands[] = {
    {"pin", pin}, {"trypin", try_pin}, {"pins", pin_many}, {"unpin", unpin}, {"onlease", set_on_lease}, {"asked", asked},
};

}  // namespace

const std::span<const Command> pin_commands = kCommands;

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

}  // namespace driver
