// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/readiness.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace pindax {
namespace {

constexpr char kReady = '\0';  // first byte of the message; anything else is the text of an error

[[noreturn]] void wait_for_child(int pipe, pid_t child) {
  std::string message;
  char buffer[512];
  for (;;) {
    const ssize_t n = ::read(pipe, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    message.append(buffer, static_cast<std::size_t>(n));
    if (message[0] == kReady) ::_exit(0);
  }
  if (message.empty()) {
    int status = 0;
    ::waitpid(child, &status, 0);
    std::fprintf(stderr,
                 "pindaxd: the daemon ended while it started (%s %d); run it with --foreground to see why\n",
                 WIFSIGNALED(status) ? "signal" : "exit code",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  } else {
    std::fprintf(stderr, "pindaxd: %s\n", message.c_str());
  }
  ::_exit(4);
}

}  // namespace

Readiness Readiness::go_to_background() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) {
    std::perror("pindaxd: pipe");
    std::exit(4);
  }
  const pid_t child = ::fork();
  if (child < 0) {
    std::perror("pindaxd: fork");
    std::exit(4);
  }
  if (child != 0) {
    ::close(fds[1]);
    wait_for_child(fds[0], child);
  }
  ::close(fds[0]);
  ::setsid();
  if (::chdir("/") != 0) std::perror("pindaxd: chdir /");
  Readiness readiness;
  readiness.pipe_.reset(fds[1]);
  return readiness;
}

void Readiness::succeeded() {
  if (!pipe_) return;
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (null)
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null.get(), fd);
  (void)!::write(pipe_.get(), &kReady, 1);
  pipe_.reset();
}

bool Readiness::failed(std::string_view line) {
  if (!pipe_) return false;
  (void)!::write(pipe_.get(), line.data(), line.size());
  pipe_.reset();
  return true;
}

}  // namespace pindax
