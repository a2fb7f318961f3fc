// SPDX-License-Identifier: BSD-3-Clause
#include "stress/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace pindax::stress {

sigjmp_buf fault_jump;
volatile int fault_guarded = 0;

namespace {

void on_fault(int signal) {
  if (fault_guarded != 0) siglongjmp(fault_jump, signal);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

void install_fault_handlers() {
  struct sigaction action{};
  action.sa_handler = on_fault;
  action.sa_flags = SA_NODEFER;
  ::sigaction(SIGBUS, &action, nullptr);
  ::sigaction(SIGSEGV, &action, nullptr);
}

u64 now_ms() {
  struct timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1000 + static_cast<u64>(t.tv_nsec) / 1'000'000;
}

void sleep_ms(u64 milliseconds) {
  const struct timespec t{static_cast<time_t>(milliseconds / 1000), static_cast<long>(milliseconds % 1000) * 1'000'000};
  ::nanosleep(&t, nullptr);
}

std::string own_folder() {
  char path[4096];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, n > 0 ? static_cast<std::size_t>(n) : 0);
  return self.substr(0, self.rfind('/'));
}

Finished run_command(const std::vector<std::string>& words, unsigned seconds) {
  Finished done;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return done;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1);
    ::dup2(ends[1], 2);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  // A daemon that the command leaves behind may hold the pipe's other end: the command's own end counts.
  const u64 end = now_ms() + seconds * u64{1000};
  int status = 0;
  bool exited = false;
  for (;;) {
    struct pollfd p{ends[0], POLLIN, 0};
    const int ready = ::poll(&p, 1, exited ? 0 : 5);
    if (ready > 0) {
      char buffer[4096];
      const ssize_t n = ::read(ends[0], buffer, sizeof(buffer));
      if (n > 0) {
        done.output.append(buffer, static_cast<std::size_t>(n));
        continue;
      }
      if (!exited) sleep_ms(1);  // the pipe has ended, the command not yet
    }
    if (exited) break;
    if (::waitpid(child, &status, WNOHANG) == child) exited = true;
    else if (now_ms() > end) ::kill(child, SIGKILL);
  }
  ::close(ends[0]);
  done.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return done;
}

}  // namespace pindax::stress
