// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/bus_guard.h"

#include <csignal>
#include <cstring>
#include <mutex>

#include "base/check.h"

namespace pindax::bus_guard {
namespace {

thread_local Guard* volatile current = nullptr;
struct sigaction previous;

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    // Back to the default; the access runs again and dies of it.
    ::signal(signal, SIG_DFL);
    if (info->si_code <= 0) ::raise(signal);  // sent by a process: nothing would run again
  }
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  Guard* guard = current;
  const auto* at = static_cast<const std::byte*>(info->si_addr);
  const bool poisoned = info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO;
  // A poisoned range may be reported by its page, which begins before the bytes that were touched.
  const u64 slack = poisoned ? (u64{1} << (info->si_addr_lsb & 31)) - 1 : 0;
  if (guard == nullptr || info->si_code <= 0 || at + slack < guard->begin || at >= guard->end) {
    pass_on(signal, info, context);
    return;
  }
  guard->fault = poisoned ? BusFault::kPoisoned : BusFault::kLost;
  siglongjmp(guard->jump, 1);
}

}  // namespace

void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    ::sigemptyset(&action.sa_mask);
    PINDAX_ASSERT(::sigaction(SIGBUS, &action, &previous) == 0);
  });
}

void enter(Guard* guard) { current = guard; }
void leave() { current = nullptr; }

}  // namespace pindax::bus_guard

namespace pindax {

Status append_guarded(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  const std::size_t before = out.size();
  out.resize(before + bytes.size());
  std::byte* const to = out.data() + before;
  const BusFault fault = guarded(bytes.data(), bytes.size(), [&] { std::memcpy(to, bytes.data(), bytes.size()); });
  if (fault == BusFault::kNone) return {};
  out.resize(before);
  if (fault == BusFault::kPoisoned) return Status(Errc::kPoisoned, "bad block under the pool");
  return Status(Errc::kIo, "bytes of the pool cannot be read: was it truncated?");
}

}  // namespace pindax
