// SPDX-License-Identifier: BSD-3-Clause
//
// The fault thread: turns userfaultfd events into requests. It waits for nobody but the kernel and the socket.
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/steps.h"
#include "client/client.h"
#include "client/mapping.h"

using namespace pindax;
using namespace pindax::client;

namespace {

// A read fault asks for this much ahead: contiguous blocks come as one piece.
constexpr u64 kFaultAroundBytes = u64{64} << 20;

// Nobody will ever grant again: the touch is a SIGBUS.
void refuse(pindax_client& client, u64 address) {
  const u64 page = round_down(address, kBlockSize);
  (void)::madvise(reinterpret_cast<void*>(page), kBlockSize, MADV_DONTNEED);  // a page of zeros would hide the marker
  (void)client.uffd.poison(page, kBlockSize);
  client.uffd.wake(page, kBlockSize);
}

}  // namespace

pindax_mapping* pindax_client::mapping_at(u64 address) {
  auto it = by_address.upper_bound(address);
  if (it == by_address.begin()) return nullptr;
  pindax_mapping* m = std::prev(it)->second;
  return address - m->base < m->span ? m : nullptr;
}

proto::FaultBody pindax::client::fault_at(const pindax_mapping& m, u64 address, bool write) {
  proto::FaultBody fault{};
  fault.mapping = m.id;
  fault.write = write ? 1 : 0;
  fault.offset = m.file_offset + round_down(address - m.base, kBlockSize);
  fault.length = std::min(kFaultAroundBytes, m.file_end() - fault.offset);
  return fault;
}

void pindax_client::run_faults() {
  ::pthread_setname_np(::pthread_self(), "pindax-faults");
  pollfd fds[2] = {{uffd.fd(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
  while (!ending.load()) {
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if ((fds[1].revents & POLLIN) != 0) {
      u64 count = 0;
      (void)!::read(stop.get(), &count, sizeof(count));
    }
    uffd_msg event;
    while (::read(uffd.fd(), &event, sizeof(event)) == static_cast<ssize_t>(sizeof(event))) {
      if (event.event != UFFD_EVENT_PAGEFAULT) continue;  // REMAP: reading it lets the service thread's mremap return
      const u64 address = event.arg.pagefault.address;
      const bool write = (event.arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0;
      proto::FaultBody fault{};
      {
        MutexLock lock(address_mutex);
        const pindax_mapping* m = mapping_at(address);
        if (m == nullptr) continue;
        fault = fault_at(*m, address, write);
      }
      PINDAX_STEP("client.fault");
      if (lost.load() || send(proto::Type::kFault, 0, &fault, sizeof(fault)) != 0) refuse(*this, address);
    }
  }
}
