// SPDX-License-Identifier: BSD-3-Clause
//
// How the client driver answers, and turns a SIGBUS into an answer.
#include <setjmp.h>
#include <signal.h>

#include <cerrno>
#include <cstring>
#include <iostream>

#include "driver.h"

namespace driver {

namespace {

sigjmp_buf bus_jump;
volatile sig_atomic_t guarded = 0;

void on_bus(int, siginfo_t*, void*) {
  if (guarded != 0) siglongjmp(bus_jump, 1);
  ::signal(SIGBUS, SIG_DFL);
  ::raise(SIGBUS);
}

}  // namespace

void ok(const std::string& text) { std::cout << (text.empty() ? "ok" : "ok " + text) << std::endl; }

void error(int code) {
  error(std::string(strerrorname_np(-code) != nullptr ? strerrorname_np(-code) : "?") + " " + pindax_last_error());
}

void error(const std::string& sentence) { std::cout << "error " << sentence << std::endl; }

void answer(int code) { code == 0 ? ok() : error(code); }

void report(ssize_t n) { n < 0 ? error(-errno) : ok(std::to_string(n)); }

std::string to_hex(const unsigned char* bytes, std::size_t length) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < length; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes.push_back(static_cast<unsigned char>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

void catch_bus_errors() {
  struct sigaction action{};
  action.sa_sigaction = on_bus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  ::sigaction(SIGBUS, &action, nullptr);
}

bool reaches(const std::function<void()>& access) {
  guarded = 1;
  if (sigsetjmp(bus_jump, 1) == 0) {
    access();
    guarded = 0;
    return true;
  }
  guarded = 0;
  return false;
}

void guard(const std::function<std::string()>& access) {
  std::string text;
  if (reaches([&] { text = access(); }))
    ok(text);
  else
    error("SIGBUS");
}

}  // namespace driver
