// SPDX-License-Identifier: BSD-3-Clause
//
// A worker of pindax-fsx: a process that carries out one command at a time. The coordinator holds this end.
//
// Commands and answers are fixed structs on a SOCK_SEQPACKET pair; bytes that are read lie in memory that both share. A worker that
// does not answer is busy; the coordinator goes on with the others.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "stress/step.h"

namespace pindax::stress {

inline constexpr u32 kFiles = 2;
inline constexpr u32 kMappings = 3;  // of the library, a worker
inline constexpr u32 kPins = 4;      // a worker
inline constexpr i64 kSignal = 10'000;  // an access that ended by signal N answers -(kSignal + N)

class Worker {
 public:
  // Starts the process; its first answer tells whether it could open everything. `largest`: the longest transfer in bytes.
  static std::optional<Worker> start(const std::string& folder, u64 largest);
  Worker(Worker&&) noexcept = default;
  Worker& operator=(Worker&&) noexcept = default;
  ~Worker() = default;

  bool send(const Step& step);
  // The answer: 0 or more, or a negative errno; nothing if there is none within the time. -EPIPE: the worker has ended.
  std::optional<i64> answer(u64 wait_ms);
  const u8* buffer() const { return buffer_; }
  pid_t pid() const { return pid_; }
  void kill();                 // SIGKILL; does not wait
  void close() { socket_.reset(); }  // an idle worker ends by itself
  bool reap(u64 wait_ms);      // waits for its end; true when it is gone

 private:
  Worker() = default;
  UniqueFd socket_;
  u8* buffer_ = nullptr;
  pid_t pid_ = -1;
  u64 largest_ = 0;
};

std::string file_path(const std::string& folder, u32 file);

}  // namespace pindax::stress
