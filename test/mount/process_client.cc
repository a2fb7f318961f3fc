// SPDX-License-Identifier: BSD-3-Clause
//
// What a process with mappings and pins may do to itself: process_client LIBRARY MOUNT PATH exec|spawn|vfork|dlclose
//
// The library is loaded at run time. Maps 64 KiB of PATH, stores 'm' to its first byte, pins its first page, prints "ready". Then:
//   exec      becomes `sleep 600`
//   spawn     starts `sleep 600` by vfork and exec, prints its pid, and stays
//   vfork     a child by vfork, which shares the memory and never calls exec, prints its pid; at SIGUSR1 it stores 'v' to the
//             second byte of the page
//   dlclose   unpins, closes the library without detaching, stores 'd' to a page that was never touched, forks, prints "done"
#include <dlfcn.h>
#include <fcntl.h>
#include <pindax/pindax.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

template <class F>
F* symbol(void* library, const char* name) {
  void* found = ::dlsym(library, name);
  if (found == nullptr) {
    std::fprintf(stderr, "%s: %s\n", name, ::dlerror());
    std::exit(1);
  }
  return reinterpret_cast<F*>(found);
}

void need(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "process_client: %s failed\n", what);
  std::exit(1);
}

void say(const char* text) {
  std::puts(text);
  std::fflush(stdout);
}

volatile char* page = nullptr;
void on_signal(int) { page[1] = 'v'; }

// In the child only async-signal-safe calls: it runs on its parent's stack, whose thread sleeps in vfork.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
void share_memory() {
  const pid_t child = ::vfork();
  need(child >= 0, "vfork");
  if (child != 0) return;
  char text[16];
  int end = sizeof(text);
  text[--end] = '\n';
  for (long pid = ::getpid(); pid != 0; pid /= 10) text[--end] = static_cast<char>('0' + pid % 10);
  if (::write(1, text + end, sizeof(text) - static_cast<std::size_t>(end)) < 0) ::_exit(1);
  for (;;) ::pause();
}
#pragma GCC diagnostic pop

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  void* library = ::dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) std::fprintf(stderr, "%s\n", ::dlerror());
  need(library != nullptr, "dlopen");
  struct pindax_client* client = nullptr;
  struct pindax_mapping* mapping = nullptr;
  struct pindax_pin pin {};
  need(symbol<decltype(pindax_attach)>(library, "pindax_attach")(argv[2], nullptr, &client) == 0, "attach");
  const int fd = symbol<decltype(pindax_open)>(library, "pindax_open")(client, argv[3], O_RDWR | O_CLOEXEC, 0);
  need(fd >= 0, "open");
  need(symbol<decltype(pindax_map)>(library, "pindax_map")(client, fd, 0, 65536, PROT_READ | PROT_WRITE, 0, &mapping) == 0, "map");
  page = static_cast<char*>(symbol<decltype(pindax_mapping_address)>(library, "pindax_mapping_address")(mapping));
  page[0] = 'm';
  need(symbol<decltype(pindax_pin)>(library, "pindax_pin")(mapping, 0, 4096, PINDAX_PIN_WRITE, &pin) == 0, "pin");
  ::signal(SIGUSR1, on_signal);
  say("ready");
  const char* how = argv[4];
  char sleep[] = "sleep", long_time[] = "600";
  char* const words[] = {sleep, long_time, nullptr};
  if (std::strcmp(how, "exec") == 0) {
    ::execvp("sleep", words);
  } else if (std::strcmp(how, "spawn") == 0) {
    pid_t child = 0;
    need(::posix_spawnp(&child, "sleep", nullptr, nullptr, words, environ) == 0, "posix_spawnp");
    std::printf("%d\n", child);
    std::fflush(stdout);
    for (;;) ::pause();
  } else if (std::strcmp(how, "vfork") == 0) {
    share_memory();
  } else if (std::strcmp(how, "dlclose") == 0) {
    need(symbol<decltype(pindax_unpin)>(library, "pindax_unpin")(mapping, &pin) == 0, "unpin");
    need(::dlclose(library) == 0, "dlclose");
    page[8 * 4096] = 'd';
    const pid_t child = ::fork();
    if (child == 0) ::_exit(7);
    int status = 0;
    need(::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7, "fork");
    say("done");
  }
  return 0;
}
