// SPDX-License-Identifier: BSD-3-Clause
//
// What the groups of commands of the client driver share: what it holds between commands, and how it answers. A group is a file with
// a table of its commands; client_driver.cc reads lines and looks them up.
#pragma once

#include <pindax/pindax.h>
#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "driver_bytes.h"

namespace driver {

struct State {
  std::string where;  // mount or socket
  pindax_client* client = nullptr;
  int fd = -1;
  pindax_mapping* mapping = nullptr;

  std::mutex mutex;  // of the pins: the library's lease thread ends some
  std::map<int, std::pair<pindax_mapping*, struct pindax_pin>> pins;
  std::map<int, std::pair<std::size_t, std::size_t>> leases;  // offset, length
  bool unpin_asked = false;
  int asked = 0;

  unsigned char* shared = nullptr;  // mmap
  std::size_t shared_length = 0;
  std::vector<int> pipes;  // hold
  MessageFile messages;

  unsigned char* memory() const { return static_cast<unsigned char*>(pindax_mapping_address(mapping)); }
};

// What is left of a command's line.
using Words = std::istringstream;

struct Command {
  const char* name;
  void (*run)(State&, Words&);
};

extern const std::span<const Command> mapping_commands;  // driver_mapping.cc
extern const std::span<const Command> pin_commands;      // driver_pins.cc
extern const std::span<const Command> file_commands;     // driver_files.cc
extern const std::span<const Command> kernel_commands;   // driver_kernel.cc
extern const std::span<const Command> load_commands;     // driver_load.cc

// The library asks for a lease; `context` is the State.
void on_lease(struct pindax_mapping*, std::size_t offset, std::size_t length, std::uint32_t, void* context);

// ---- Answers: one a command ----
void ok(const std::string& text = "");
void error(int code);                     // a negative errno
void error(const std::string& sentence);  // "NAME why"
void answer(int code);                    // 0 or a negative errno
void report(ssize_t n);                   // a system call's result, with errno

std::string to_hex(const unsigned char* bytes, std::size_t length);
Bytes from_hex(const std::string& text);

// ---- SIGBUS ----
void catch_bus_errors();
// False: a SIGBUS ended `access`.
bool reaches(const std::function<void()>& access);
// Answers: what `access` returns, or that there was a SIGBUS.
void guard(const std::function<std::string()>& access);

}  // namespace driver
