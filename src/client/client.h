// SPDX-License-Identifier: BSD-3-Clause
//
// One session of the library.
//
// Threads of the library, one of each per client (F3)
//   service  reads the daemon's FIFO: grants, recalls, replies. Takes only `mappings_mutex`, which nobody holds over a fault, a
//            request or a pool access; allocates nothing; touches no pool memory; runs no callbacks.
//   faults   reads the userfaultfd: sends a request for each fault. Also reads the REMAP events that the service
//            thread's mremap waits for, so it must never wait for the service thread: it takes no lock that the
//            service thread holds across a mremap.
//   leases   runs the application's recall callbacks.
//
// After fork the child has none of these threads and no mappings: `generation` tells, every call fails with ENOTCONN.
#pragma once

#include <pindax/pindax.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "client/file_io.h"
#include "client/requests.h"
#include "client/signals.h"
#include "client/userfaultfd.h"
#include "proto/messages.h"
#include "proto/shared.h"

namespace pindax::client {

class Leases;
class SlotPool;

// Number of this process's life: grows in a forked child.
extern std::atomic<u32> fork_generation;
void install_fork_handler();
// Every client is known to the fork handler from its construction to its end.
void fork_list_add(pindax_client& c);
void fork_list_remove(pindax_client& c);

}  // namespace pindax::client

struct pindax_mapping;

struct pindax_client {
  pindax_client();
  ~pindax_client();
  pindax_client(const pindax_client&) = delete;
  pindax_client& operator=(const pindax_client&) = delete;

  // 0 or a negative errno with the text set: dead after fork or when the daemon is gone.
  int usable() const;

  // Sends a packet; thread-safe. 0 or a negative errno.
  int send(pindax::proto::Type type, pindax::u64 request, const void* body, std::size_t body_length,
           std::string_view rest = {}, const int* descriptors = nullptr, unsigned descriptor_count = 0);
  // Sends and waits for the reply: 0 or a negative errno with the daemon's text set.
  int call(pindax::proto::Type type, const void* body, std::size_t body_length, pindax::client::Reply& reply,
           std::string_view rest = {}, const int* descriptors = nullptr, unsigned descriptor_count = 0);
  template <class Body>
  int call(pindax::proto::Type type, const Body& body, pindax::client::Reply& reply, std::string_view rest = {}) {
    return call(type, &body, sizeof(body), reply, rest);
  }

  pindax::proto::Gate& gate(pindax::u32 mapping) const;
  void ring_doorbell() const;

  // Table of mappings by id, for the service thread, and by address, for the fault thread.
  pindax_mapping* mapping_by_id(pindax::u32 id) REQUIRES(mappings_mutex);
  pindax_mapping* mapping_at(pindax::u64 address) REQUIRES(address_mutex);

  pindax::UniqueFd socket;
  pindax::UniqueFd pool;
  pindax::UniqueFd slot_memory;
  pindax::UniqueFd gate_memory;
  pindax::UniqueFd doorbell;
  pindax::UniqueFd stop;  // eventfd: tells the fault thread to end
  pindax::client::Userfaultfd uffd;
  pindax::client::SignalFaults signals;  // on() without a userfaultfd
  pindax::UniqueFd passed_device;  // /dev/userfaultfd from the daemon

  pindax::proto::WelcomeBody welcome{};
  std::string where;       // as given to attach
  std::string mount_path;  // empty without a mount
  bool direct = false;
  bool revocable = false;  // pool pages are watched, too: the daemon may revoke by itself (client/mapping.h)
  pindax_client* next_in_fork_list = nullptr;  // fork.cc
  bool pool_writable = false;
  int map_flags = 0;  // of mmap: sharing, MAP_SYNC
  std::string why_indirect;
  std::string why_signals;
  pindax_attach_options options{};
  const pindax::u32 born = pindax::client::fork_generation.load();
  std::atomic<bool> lost{false};    // the daemon is gone
  std::atomic<bool> ending{false};  // detach: the fault thread returns

  std::byte* gates = nullptr;  // kGateAreaBytes
  std::byte* slots = nullptr;  // kSlotAreaBytes

  pindax::client::Requests requests;
  std::unique_ptr<pindax::client::SlotPool> slot_pool;
  std::unique_ptr<pindax::client::Leases> leases;

  // Held by the service thread over mmap and mremap of a mapping's pieces, by unmap over munmap. Outer to address_mutex.
  pindax::Mutex mappings_mutex{pindax::LockRank::kClient};
  std::vector<pindax_mapping*> by_id GUARDED_BY(mappings_mutex);
  // Unmapped, but a pin through it may still have to be ended (R7): objects without memory.
  std::vector<pindax_mapping*> unmapped GUARDED_BY(mappings_mutex);
  std::atomic<pindax::i64> pieces{0};  // kernel mappings that all mappings consist of, beyond one each

  pindax::Mutex address_mutex{pindax::LockRank::kClientQueue};
  std::map<pindax::u64, pindax_mapping*> by_address GUARDED_BY(address_mutex);  // by first address

  // Descriptors that pindax_open made without a mount, and their handles.
  pindax::Mutex files_mutex{pindax::LockRank::kLeaf};
  std::map<int, pindax::u64> handles GUARDED_BY(files_mutex);

  // Descriptors that pindax_open made: pindax_pread and pindax_pwrite by mapping.
  pindax::client::FileTable files;

  // What the service thread reads into. Not in thread-local storage, which would keep dlopen from loading the library.
  const std::unique_ptr<std::byte[]> packet = std::make_unique<std::byte[]>(pindax::proto::kMaxMessageBytes);
  std::thread service;
  std::thread faults;

  // In a forked child: its copies of our descriptors, so that the parent's end shows and its witness goes with it.
  void close_descriptors();

  // Bodies of the threads.
  void run_service();
  void run_faults();
  // Fills `ref` for a descriptor: a handle of ours, or a fresh token of the mount. 0 or a negative errno.
  int file_ref(int fd, pindax::proto::FileRef& ref);
};
