// SPDX-License-Identifier: BSD-3-Clause
//
// Commands that read, write and change files without a mapping, by the library's calls or by messages to the daemon.
//
//   pread OFFSET LENGTH, pwrite OFFSET HEX      the library's calls
//   truncate SIZE [POLICY MS], fallocate MODE OFFSET LENGTH [POLICY MS]     POLICY: 0 inherit … 4 evict
//   clone SOURCE OFFSET DESTINATION OFFSET LENGTH, dedupe (the same) -> bytes deduped
//   mopen PATH, mread OFFSET LENGTH, mwrite OFFSET HEX, mremove PATH      by messages
#include <fcntl.h>

#include "driver.h"

namespace driver {

namespace {

void read_bytes(State& s, Words& words) {
  uint64_t offset = 0;
  size_t length = 0;
  words >> offset >> length;
  Bytes out(length);
  const ssize_t n = pindax_pread(s.client, s.fd, out.data(), length, offset);
  n < 0 ? error(static_cast<int>(n)) : ok(to_hex(out.data(), static_cast<size_t>(n)));
}

void write_bytes(State& s, Words& words) {
  uint64_t offset = 0;
  std::string text;
  words >> offset >> text;
  const auto in = from_hex(text);
  const ssize_t n = pindax_pwrite(s.client, s.fd, in.data(), in.size(), offset);
  n < 0 ? error(static_cast<int>(n)) : ok(std::to_string(n));
}

// "POLICY MS" at the end of a line.
struct pindax_change_options change_options(Words& words) {
  struct pindax_change_options o{};
  o.size = sizeof(o);
  words >> o.on_busy >> o.deadline_ms;
  return o;
}

void truncate(State& s, Words& words) {
  size_t size = 0;
  words >> size;
  const auto o = change_options(words);
  answer(pindax_truncate_ext(s.client, s.fd, size, &o));
}

void fallocate(State& s, Words& words) {
  int mode = 0;
  size_t offset = 0, length = 0;
  words >> mode >> offset >> length;
  const auto o = change_options(words);
  answer(pindax_fallocate_ext(s.client, s.fd, mode, offset, length, &o));
}

// Two files by name: source and its offset, destination and its offset, length.
void share(State& s, Words& words, bool dedupe) {
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

void clone(State& s, Words& words) { share(s, words, false); }

void dedupe(State& s, Words& words) { share(s, words, true); }

// Empty: done.
void tell(const std::string& wrong) { wrong.empty() ? ok() : error("EIO " + wrong); }

void message_open(State& s, Words& words) {
  std::string path;
  words >> path;
  tell(s.messages.open(s.where, "/" + path));
}

void message_read(State& s, Words& words) {
  uint64_t offset = 0;
  size_t length = 0;
  words >> offset >> length;
  Bytes out;
  const std::string wrong = s.messages.read(offset, length, out);
  wrong.empty() ? ok(to_hex(out.data(), out.size())) : tell(wrong);
}

void message_write(State& s, Words& words) {
  uint64_t offset = 0;
  std::string text;
  words >> offset >> text;
  tell(s.messages.write(offset, from_hex(text)));
}

void message_remove(State& s, Words& words) {
  std::string path;
  words >> path;
  tell(MessageFile::remove(s.where, "/" + path));
}

constexpr Command kCommands[] = {
    {"pread", read_bytes}, {"pwrite", write_bytes}, {"truncate", truncate},  {"fallocate", fallocate},  {"clone", clone},
    {"dedupe", dedupe},    {"mopen", message_open}, {"mread", message_read}, {"mwrite", message_write}, {"mremove", message_remove},
};

}  // namespace

const std::span<const Command> file_commands = kCommands;

}  // namespace driver
