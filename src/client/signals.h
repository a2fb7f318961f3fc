// SPDX-License-Identifier: BSD-3-Clause
//
// Faults without a userfaultfd: a handler of SIGSEGV asks the daemon and waits. As everywhere, only the service thread changes what
// lies at an address, in the FIFO's order; the handler merely retries the instruction when it is told that something came.
//
// The promises for loads and stores are the same. System calls on memory that is not translated fail with EFAULT, since no
// handler runs for them. The handler touches no heap; it takes address_mutex and a mutex of its own, neither of which is ever held over
// an access to a mapping, so the faulting thread cannot hold them.
#pragma once

#include <array>
#include <atomic>

#include "base/types.h"
#include "base/unique_fd.h"

struct pindax_client;

namespace pindax::client {

// What handler and service thread of one client share.
class SignalFaults {
 public:
  // 0 or an errno. Installs the process's handler with the first one; what was there before is called for all other addresses.
  int start(pindax_client& client);
  void stop(pindax_client& client);
  bool on() const { return on_; }
  int empty_file() const { return empty_.get(); }

  // Service thread: something came for the pages of [begin, end), bytes of a mapping.
  void served(u64 begin, u64 end);
  void served_all();
  // Handler: asks for the address if it is the client's. False: it is not, or the access has no right to be there.
  bool handle(pindax_client& client, u64 address, bool write);

 private:
  static constexpr unsigned kWords = 64;
  struct Word {
    std::atomic<u32> served{0}, waiting{0};
  };
  Word& word_of(u64 file_offset) { return words_[file_offset / kBlockSize % kWords]; }
  static void announce(Word& word);

  bool on_ = false;
  UniqueFd empty_;  // a file without a byte: mapped where a touch is to be a SIGBUS
  std::array<Word, kWords> words_;
};

// True: the fault was one of ours and the instruction can be retried.
bool handle_signal(int number, void* info, void* context);

// Around fork, so that the child finds the list of clients whole; none of them is the child's.
void signals_before_fork();
void signals_after_fork(bool child);

}  // namespace pindax::client
