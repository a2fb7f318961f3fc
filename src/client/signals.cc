// SPDX-License-Identifier: BSD-3-Clause
#include "client/signals.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "client/client.h"
#include "client/mapping.h"

namespace pindax::client {
namespace {

Mutex list_mutex{LockRank::kClient};
std::vector<pindax_client*>& list() REQUIRES(list_mutex) {
  static auto* clients = new std::vector<pindax_client*>();  // faults may come after static destructors ran
  return *clients;
}
struct sigaction previous;  // whom pass_on() calls; changes only when somebody put a handler over ours and a client attaches
[[gnu::tls_model("initial-exec")]] constinit thread_local bool passing_on = false;

long futex(std::atomic<u32>& word, int operation, u32 value) {
  return ::syscall(SYS_futex, reinterpret_cast<u32*>(&word), operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

#if !defined(__x86_64__)
#error "the signal fall-back needs to know whether a fault was a store: teach it this machine's context"
#endif
bool is_store(const void* context) {
  constexpr greg_t kWrite = 2;  // of the page fault's error code
  return (static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & kWrite) != 0;
}

// As if we had never been asked. A handler that came later and calls us in turn comes back here: then it is nobody's.
void pass_on(int number, siginfo_t* info, void* context) {
  const bool handled = previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN;
  if (handled && !passing_on) {
    passing_on = true;
    if ((previous.sa_flags & SA_SIGINFO) != 0) previous.sa_sigaction(number, info, context);
    else previous.sa_handler(number);
    passing_on = false;
    return;
  }
  // The retried instruction, or the queued signal, ends the process where it happened.
  ::signal(number, SIG_DFL);
  if (info->si_code <= 0) ::raise(number);
}

void on_signal(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  if (!handle_signal(number, info, context)) pass_on(number, info, context);
  errno = saved;
}

}  // namespace

bool handle_signal(int number, void* raw, void* context) {
  const auto* info = static_cast<const siginfo_t*>(raw);
  if (number != SIGSEGV || info->si_code <= 0) return false;  // sent, not raised by an access
  const auto address = reinterpret_cast<u64>(info->si_addr);
  pindax_client* ours = nullptr;
  {
    MutexLock lock(list_mutex);
    for (pindax_client* c : list()) {
      MutexLock address_lock(c->address_mutex);
      if (c->mapping_at(address) != nullptr) ours = c;
    }
  }
  return ours != nullptr && ours->signals.handle(*ours, address, is_store(context));
}

void signals_before_fork() NO_THREAD_SAFETY_ANALYSIS { list_mutex.lock(); }
void signals_after_fork(bool child) NO_THREAD_SAFETY_ANALYSIS {
  if (child) list().clear();
  list_mutex.unlock();
}

int SignalFaults::start(pindax_client& client) {
  empty_.reset(::memfd_create("pindax-beyond", MFD_CLOEXEC));
  if (!empty_) return errno;
  MutexLock lock(list_mutex);
  list().push_back(&client);
  on_ = true;
  struct sigaction action {};
  if (::sigaction(SIGSEGV, nullptr, &action) != 0) return errno;
  if ((action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == on_signal) return 0;
  previous = action;
  action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART;
  return ::sigaction(SIGSEGV, &action, nullptr) == 0 ? 0 : errno;
}

void SignalFaults::stop(pindax_client& client) {
  MutexLock lock(list_mutex);
  std::erase(list(), &client);
}

void SignalFaults::announce(Word& word) {
  word.served.fetch_add(1, std::memory_order_seq_cst);
  if (word.waiting.load(std::memory_order_seq_cst) != 0) futex(word.served, FUTEX_WAKE, INT_MAX);
}

void SignalFaults::served(u64 begin, u64 end) {
  const u64 pages = std::min<u64>((end - begin + kBlockSize - 1) / kBlockSize, kWords);
  for (u64 i = 0; i < pages; ++i) announce(word_of(begin + i * kBlockSize));
}

void SignalFaults::served_all() {
  for (Word& word : words_) announce(word);
}

bool SignalFaults::handle(pindax_client& client, u64 address, bool write) {
  proto::FaultBody fault{};
  u64 page = 0;
  {
    MutexLock lock(client.address_mutex);
    const pindax_mapping* m = client.mapping_at(address);
    if (m == nullptr || (write && (m->prot & PROT_WRITE) == 0)) return false;
    page = m->base + round_down(address - m->base, kBlockSize);
    fault = fault_at(*m, address, write);
  }
  Word& word = word_of(fault.offset);
  const u32 before = word.served.load(std::memory_order_seq_cst);
  if (client.lost.load() || client.send(proto::Type::kFault, 0, &fault, sizeof(fault)) != 0) {
    // Nobody will ever grant again: a SIGBUS when the instruction is retried.
    constexpr int kProt = PROT_READ | PROT_WRITE;  // without the right to write a store would be a SIGSEGV for ever
    return ::mmap(reinterpret_cast<void*>(page), kBlockSize, kProt, MAP_SHARED | MAP_FIXED, empty_.get(), 0) != MAP_FAILED;
  }
  word.waiting.fetch_add(1, std::memory_order_seq_cst);
  while (word.served.load(std::memory_order_seq_cst) == before && !client.lost.load())
    if (futex(word.served, FUTEX_WAIT, before) != 0 && errno != EAGAIN && errno != EINTR) break;
  word.waiting.fetch_sub(1, std::memory_order_seq_cst);
  return true;
}

}  // namespace pindax::client

extern "C" PINDAX_API int pindax_handle_signal(int number, void* siginfo, void* context) {
  const int saved = errno;
  const bool ours = pindax::client::handle_signal(number, siginfo, context);
  errno = saved;
  return ours ? 1 : 0;
}
