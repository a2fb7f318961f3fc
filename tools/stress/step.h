// SPDX-License-Identifier: BSD-3-Clause
//
// One step of pindax-fsx, and its line in a log:
//   [& ]NAME w=WORKER [f=FILE] [slot=N] [off=N len=N] [to=N from=FILE] [mode=N] [seed=N] [lib]
// "& " in front: the step runs together with the next one. What is not written is 0. A step whose ground is missing (a load
// where nothing is mapped) does nothing, so that a log from which lines were taken still runs.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace pindax::stress {

enum class Op : u32 {
  kWrite,       // pwrite off len seed
  kAppend,      // O_APPEND write len seed
  kRead,        // pread off len
  kTruncate,    // to size off (lib: through the library)
  kFallocate,   // mode off len (lib)
  kCopy,        // copy_file_range from file slot, off, to the file's offset `to`, len
  kClone,       // FICLONERANGE, the same arguments
  kStat, kSeek, kFsync,
  kMmap, kMunmap, kMload, kMstore, kMsync,     // an ordinary shared mapping of the mount
  kMap, kUnmap, kLoad, kStore, kPersist,       // the library's mapping number `slot`; offsets of the file
  kWriteFromMapping, kReadIntoMapping,         // system calls whose buffer is the mapping: memory `to` of slot, file range off len
  kPin, kTryPin, kUnpin,  // pin number `to` through mapping `slot`; mode 1: for writing
  kHold,                  // unpins number `to` after len milliseconds, together with the next step
  kFork,                  // a child tries the library and the mapping
  kKill,                  // the worker is killed and a new one takes its place
  kRemount, kCrash,       // all workers end; unmount, or SIGKILL of the daemon; fsck; mount
  kCheck,                 // everything is compared
  kCount,
};

struct Step {
  Op op = Op::kCheck;
  u32 worker = 0, file = 0, slot = 0, mode = 0;
  u64 offset = 0, length = 0, to = 0, seed = 0;
  bool library = false;
  bool together = false;
};

const char* op_name(Op op);
std::string step_line(const Step& step);
std::optional<Step> parse_step(std::string_view line);

// A log file: comments ("# …") and steps. An empty result: the file cannot be read or has a line that is no step (named in `error`).
std::vector<Step> read_log(const std::string& path, std::string& error);
bool write_log(const std::string& path, const std::string& head, const std::vector<Step>& steps);

}  // namespace pindax::stress
