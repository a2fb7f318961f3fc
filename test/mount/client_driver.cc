// SPDX-License-Identifier: BSD-3-Clause
//
// A client process for tests: reads one command a line from standard input, answers with one line ("ok …" or "error NAME …").
// Usage: client_driver MOUNT-OR-SOCKET [indirect|cooperative]
//
// The commands stand in the heads of
//   driver_mapping.cc   open, map, load, store, persist …
//   driver_pins.cc      pin, unpin, leases
//   driver_files.cc     pread, pwrite, truncate, clone, messages …
//   driver_kernel.cc    mappings of the mount, system calls into the mapping, signals, fork
//   driver_load.cc      what goes on for a while
// and "exit" detaches.
#include <iostream>

#include "driver.h"

namespace driver {
namespace {

void run(State& s, const std::string& name, Words& words) {
  for (const auto commands : {mapping_commands, pin_commands, file_commands, kernel_commands, load_commands})
    for (const Command& command : commands)
      if (name == command.name) return command.run(s, words);
  error("ENOSYS unknown command");
}

int serve(const char* where, unsigned flags) {
  State state;
  state.where = where;
  const struct pindax_attach_options options = {sizeof(options), flags, nullptr, on_lease, &state};
  if (const int code = pindax_attach(where, &options, &state.client); code != 0) {
    error(code);
    return 1;
  }
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    Words words(line);
    std::string name;
    words >> name;
    if (name == "exit") return pindax_detach(state.client);
    run(state, name, words);
  }
  return 0;  // the end of the input is a death without a farewell
}

}  // namespace
}  // namespace driver

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  std::ios::sync_with_stdio(false);  // stdio gives up when a signal interrupts it
  driver::catch_bus_errors();
  unsigned flags = 0;
  if (argc == 3) flags = std::string(argv[2]) == "cooperative" ? PINDAX_ATTACH_COOPERATIVE : PINDAX_ATTACH_INDIRECT;
  return driver::serve(argv[1], flags);
}
