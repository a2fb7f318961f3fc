// SPDX-License-Identifier: BSD-3-Clause
//
// Commands about the file and its mapping. Offsets are in the last mapping.
//
//   open PATH r|rw          the file that later commands use; the last mapping stays
//   map OFFSET LENGTH [lazy]
//   load OFFSET LENGTH      -> hex; SIGBUS is answered as an error
//   store OFFSET HEX
//   fill OFFSET LENGTH BYTE
//   pattern OFFSET LENGTH NUMBER    stores the number (32 bits, little-endian) over and over
//   persist OFFSET LENGTH
//   info                    -> extents, mapped bytes
//   direct                  -> 1 or 0
//   why                     -> the sentence of pindax_is_direct
//   close, unmap
#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include "driver.h"

namespace driver {

namespace {

void open_file(State& s, Words& words) {
  std::string path, mode;
  words >> path >> mode;
  const int fd = pindax_open(s.client, ("/" + path).c_str(), mode == "rw" ? O_RDWR : O_RDONLY, 0);
  if (fd < 0) return error(fd);
  s.fd = fd;
  ok();
}

void map(State& s, Words& words) {
  size_t offset = 0, length = 0;
  std::string lazy;
  words >> offset >> length >> lazy;
  const int mode = ::fcntl(s.fd, F_GETFL) & O_ACCMODE;
  answer(pindax_map(s.client, s.fd, offset, length, mode == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ,
                    lazy == "lazy" ? 0 : PINDAX_MAP_POPULATE, &s.mapping));
}

void load(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  guard([&] { return to_hex(s.memory() + offset, length); });
}

void store(State& s, Words& words) {
  size_t offset = 0;
  std::string text;
  words >> offset >> text;
  const auto bytes = from_hex(text);
  guard([&] { return std::memcpy(s.memory() + offset, bytes.data(), bytes.size()), std::string(); });
}

void fill(State& s, Words& words) {
  size_t offset = 0, length = 0;
  int byte = 0;
  words >> offset >> length >> byte;
  guard([&] { return std::memset(s.memory() + offset, byte, length), std::string(); });
}

void pattern(State& s, Words& words) {
  size_t offset = 0, length = 0;
  unsigned number = 0;
  words >> offset >> length >> number;
  guard([&] {
    for (size_t at = 0; at < length; at += sizeof number) std::memcpy(s.memory() + offset + at, &number, sizeof number);
    return std::string();
  });
}

void persist(State& s, Words& words) {
  size_t offset = 0, length = 0;
  words >> offset >> length;
  answer(pindax_persist(s.mapping, offset, length));
}

void info(State& s, Words&) {
  struct pindax_mapping_info about{};
  about.size = sizeof(about);
  const int code = pindax_mapping_info(s.mapping, &about);
  code == 0 ? ok(std::to_string(about.extents) + " " + std::to_string(about.mapped_bytes)) : error(code);
}

void direct(State& s, Words&) { ok(std::to_string(pindax_is_direct(s.client, nullptr))); }

void why(State& s, Words&) {
  const char* sentence = nullptr;
  pindax_is_direct(s.client, &sentence);
  ok(sentence);
}

void close_file(State& s, Words&) { answer(pindax_close(s.client, s.fd)); }

void unmap(State& s, Words&) { answer(pindax_unmap(s.mapping)); }

constexpr Command kCommands[] = {
    {"open", open_file}, {"map", map},   {"load", load},     {"store", store}, {"fill", fill},        {"pattern", pattern},
    {"persist", persist}, {"info", info}, {"direct", direct}, {"why", why},     {"close", close_file}, {"unmap", unmap},
};

}  // namespace

const std::span<const Command> mapping_commands = kCommands;

}  // namespace driver
