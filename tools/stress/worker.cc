// SPDX-License-Identifier: BSD-3-Clause
#include "stress/worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pindax/pindax.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "proto/mount_ioctl.h"
#include "stress/process.h"
#include "stress/random.h"

namespace pindax::stress {
namespace {

// What FUSE does not forward goes by ioctl.
constexpr u32 kNotForwarded = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;

i64 code_of(i64 result) { return result < 0 ? -errno : result; }

// The worker's side.
class Hands {
 public:
  Hands(std::string folder, u8* buffer, u64 largest) : folder_(std::move(folder)), buffer_(buffer), largest_(largest) {}

  i64 open();
  i64 carry_out(const Step& s);

 private:
  struct Mapping {
    pindax_mapping* object = nullptr;
    u64 file_offset = 0;
  };
  struct Pin {
    struct pindax_pin pin{};
    pindax_mapping* through = nullptr;
  };

  i64 change(const Step& s);
  i64 transfer(const Step& s);
  i64 memory(const Step& s);
  i64 pins(const Step& s);
  i64 with_mapping(const Step& s);
  i64 fork_child(const Step& s);
  i64 access(u8* memory, const Step& s, bool store);
  u8* address(const Step& s, u64 file_offset) const {
    const Mapping& m = mappings_[s.slot];
    return static_cast<u8*>(pindax_mapping_address(m.object)) + (file_offset - m.file_offset);
  }

  const std::string folder_;
  u8* const buffer_;
  const u64 largest_;
  pindax_client* client_ = nullptr;
  std::array<int, kFiles> fds_{}, append_fds_{}, library_fds_{};
  std::array<u8*, kFiles> mounted_{};  // ordinary mappings
  std::array<Mapping, kMappings> mappings_{};
  std::array<Pin, kPins> pins_{};
};

i64 Hands::open() {
  if (const int code = pindax_attach(folder_.c_str(), nullptr, &client_); code != 0) return code;
  for (u32 i = 0; i < kFiles; ++i) {
    const std::string path = file_path(folder_, i);
    fds_[i] = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    append_fds_[i] = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fds_[i] < 0 || append_fds_[i] < 0) return -errno;
    library_fds_[i] = pindax_open(client_, path.c_str(), O_RDWR, 0);
    if (library_fds_[i] < 0) return library_fds_[i];
  }
  return 0;
}

i64 Hands::access(u8* memory, const Step& s, bool store) {
  const int signal = guarded_access([&] {
    if (store) std::memcpy(memory, buffer_, s.length);
    else std::memcpy(buffer_, memory, s.length);
  });
  return signal != 0 ? -(kSignal + signal) : static_cast<i64>(s.length);
}

i64 Hands::change(const Step& s) {
  if (s.op == Op::kTruncate)
    return s.library ? pindax_truncate(client_, library_fds_[s.file], s.offset) : code_of(::ftruncate(fds_[s.file], static_cast<off_t>(s.offset)));
  const int mode = static_cast<int>(s.mode);
  if (s.library) return pindax_fallocate(client_, library_fds_[s.file], mode, s.offset, s.length);
  if ((s.mode & kNotForwarded) != 0) {
    proto::IoctlFallocate request{s.mode, 0, s.offset, s.length};
    return code_of(::ioctl(fds_[s.file], proto::kIocFallocate, &request));
  }
  return code_of(::fallocate(fds_[s.file], mode, static_cast<off_t>(s.offset), static_cast<off_t>(s.length)));
}

i64 Hands::transfer(const Step& s) {
  const int fd = fds_[s.file];
  const auto offset = static_cast<off_t>(s.offset);
  switch (s.op) {
    case Op::kWrite:
      fill_pattern(buffer_, s.seed, s.offset, s.length);
      return code_of(::pwrite(fd, buffer_, s.length, offset));
    case Op::kAppend:
      fill_pattern(buffer_, s.seed, 0, s.length);
      return code_of(::write(append_fds_[s.file], buffer_, s.length));
    case Op::kRead: return code_of(::pread(fd, buffer_, s.length, offset));
    case Op::kWriteFromMapping:
    case Op::kReadIntoMapping: return with_mapping(s);
    case Op::kCopy: {
      off_t from = offset, to = static_cast<off_t>(s.to);
      u64 done = 0;
      while (done < s.length) {
        const ssize_t n = ::copy_file_range(fds_[s.slot % kFiles], &from, fd, &to, s.length - done, 0);
        if (n < 0) return -errno;
        if (n == 0) break;
        done += static_cast<u64>(n);
      }
      return static_cast<i64>(done);
    }
    default: {  // kClone
      struct file_clone_range range{};
      range.src_fd = fds_[s.slot % kFiles];
      range.src_offset = s.offset;
      range.src_length = s.length;
      range.dest_offset = s.to;
      if (s.library) return pindax_clone_range(client_, library_fds_[s.slot % kFiles], s.offset, library_fds_[s.file], s.to, s.length);
      return code_of(::ioctl(fd, FICLONERANGE, &range));
    }
  }
}

// A system call whose buffer is the mapping. Where faults are signals (PINDAX_FAULTS) it meets pages that nobody has touched, or that
// were recalled since, with EFAULT or a short count: touched, it goes on.
i64 Hands::with_mapping(const Step& s) {
  const bool write = s.op == Op::kWriteFromMapping;
  const char* faults = std::getenv("PINDAX_FAULTS");
  const bool signals = faults != nullptr && std::strcmp(faults, "signals") == 0;
  u8* const memory = address(s, s.to);
  u64 done = 0;
  for (unsigned tries = 0; done < s.length && tries < 1000; ++tries) {
    const auto offset = static_cast<off_t>(s.offset + done);
    const ssize_t n = write ? ::pwrite(fds_[s.file], memory + done, s.length - done, offset) : ::pread(fds_[s.file], memory + done, s.length - done, offset);
    if (n > 0) done += static_cast<u64>(n);
    else if (n == 0 || errno != EFAULT || !signals) return n == 0 ? static_cast<i64>(done) : -errno;
    if (!signals) break;
    for (u64 at = done; at < s.length; at = round_down(s.to + at, kBlockSize) + kBlockSize - s.to) {
      volatile u8& byte = memory[at];
      const int signal = guarded_access([&] {
        const u8 same = byte;
        if (!write) byte = same;
      });
      if (signal != 0) return -(kSignal + signal);
    }
  }
  return static_cast<i64>(done);
}

i64 Hands::memory(const Step& s) {
  u8*& shared = mounted_[s.file];
  Mapping& m = mappings_[s.slot % kMappings];
  switch (s.op) {
    case Op::kMmap: {
      void* p = ::mmap(nullptr, largest_, PROT_READ | PROT_WRITE, MAP_SHARED, fds_[s.file], 0);
      if (p == MAP_FAILED) return -errno;
      shared = static_cast<u8*>(p);
      return 0;
    }
    case Op::kMunmap: {
      const i64 code = code_of(::munmap(shared, largest_));
      shared = nullptr;
      return code;
    }
    case Op::kMload: return access(shared + s.offset, s, false);
    case Op::kMstore:
      fill_pattern(buffer_, s.seed, s.offset, s.length);
      return access(shared + s.offset, s, true);
    case Op::kMsync: return code_of(::msync(shared, largest_, MS_SYNC));
    case Op::kMap:
      m.file_offset = s.offset;
      return pindax_map(client_, library_fds_[s.file], s.offset, s.length, PROT_READ | PROT_WRITE, s.mode != 0 ? PINDAX_MAP_POPULATE : 0, &m.object);
    case Op::kUnmap: return pindax_unmap(m.object);
    case Op::kLoad: return access(address(s, s.offset), s, false);
    case Op::kStore:
      fill_pattern(buffer_, s.seed, s.offset, s.length);
      return access(address(s, s.offset), s, true);
    default: return pindax_persist(m.object, s.offset - m.file_offset, s.length);  // kPersist
  }
}

i64 Hands::pins(const Step& s) {
  Pin& pin = pins_[s.to % kPins];
  if (s.op == Op::kUnpin || s.op == Op::kHold) {
    if (s.op == Op::kHold) sleep_ms(s.length);
    return pindax_unpin(pin.through, &pin.pin);
  }
  const Mapping& m = mappings_[s.slot % kMappings];
  pin.through = m.object;
  const unsigned flags = s.mode != 0 ? PINDAX_PIN_WRITE : 0;
  return (s.op == Op::kPin ? pindax_pin : pindax_try_pin)(m.object, s.offset - m.file_offset, s.length, flags, &pin.pin);
}

// In a child the library answers -ENOTCONN and the mapping is not there.
i64 Hands::fork_child(const Step& s) {
  const pid_t child = ::fork();
  if (child < 0) return -errno;
  if (child == 0) {
    struct pindax_pin pin{};
    const Mapping& m = mappings_[s.slot % kMappings];
    if (pindax_pin(m.object, 0, 4096, 0, &pin) != -ENOTCONN) ::_exit(1);
    volatile u8* byte = static_cast<u8*>(pindax_mapping_address(m.object));
    if (guarded_access([&] { *byte = 0; }) != SIGSEGV) ::_exit(2);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (status == 0) return 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

i64 Hands::carry_out(const Step& s) {
  switch (s.op) {
    case Op::kTruncate:
    case Op::kFallocate: return change(s);
    case Op::kStat: {
      struct stat st{};
      return ::fstat(fds_[s.file], &st) != 0 ? -errno : st.st_size;
    }
    case Op::kSeek: return code_of(::lseek(fds_[s.file], static_cast<off_t>(s.offset), s.mode != 0 ? SEEK_HOLE : SEEK_DATA));
    case Op::kFsync: return code_of(::fsync(fds_[s.file]));
    case Op::kPin:
    case Op::kTryPin:
    case Op::kUnpin:
    case Op::kHold: return pins(s);
    case Op::kFork: return fork_child(s);
    case Op::kWrite:
    case Op::kAppend:
    case Op::kRead:
    case Op::kCopy:
    case Op::kClone:
    case Op::kWriteFromMapping:
    case Op::kReadIntoMapping: return transfer(s);
    default: return memory(s);
  }
}

[[noreturn]] void live(int socket, const std::string& folder, u8* buffer, u64 largest) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  install_fault_handlers();
  Hands hands(folder, buffer, largest);
  i64 result = hands.open();
  for (;;) {
    if (::send(socket, &result, sizeof(result), MSG_NOSIGNAL) != sizeof(result)) ::_exit(0);
    Step step;
    if (::recv(socket, &step, sizeof(step), 0) != sizeof(step)) ::_exit(0);
    result = hands.carry_out(step);
  }
}

}  // namespace

std::string file_path(const std::string& folder, u32 file) { return fmt::format("{}/fsx{}", folder, file); }

std::optional<Worker> Worker::start(const std::string& folder, u64 largest) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return std::nullopt;
  Worker worker;
  worker.socket_ = UniqueFd(ends[0]);
  worker.largest_ = largest;
  void* memory = ::mmap(nullptr, largest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return std::nullopt;
  worker.buffer_ = static_cast<u8*>(memory);
  worker.pid_ = ::fork();
  if (worker.pid_ == 0) {
    ::close_range(3, static_cast<unsigned>(ends[1]) - 1, 0);
    ::close_range(static_cast<unsigned>(ends[1]) + 1, ~0u, 0);
    live(ends[1], folder, worker.buffer_, largest);
  }
  ::close(ends[1]);
  return worker;
}

bool Worker::send(const Step& step) { return ::send(socket_.get(), &step, sizeof(step), MSG_NOSIGNAL) == sizeof(step); }

std::optional<i64> Worker::answer(u64 wait_ms) {
  struct pollfd p{socket_.get(), POLLIN, 0};
  if (::poll(&p, 1, static_cast<int>(wait_ms)) <= 0) return std::nullopt;
  i64 result = 0;
  if (::recv(socket_.get(), &result, sizeof(result), 0) != sizeof(result)) return -EPIPE;
  return result;
}

void Worker::kill() { ::kill(pid_, SIGKILL); }

bool Worker::reap(u64 wait_ms) {
  const u64 end = now_ms() + wait_ms;
  while (::waitpid(pid_, nullptr, WNOHANG) != pid_) {
    if (now_ms() >= end) return false;
    sleep_ms(1);
  }
  ::munmap(buffer_, largest_);
  buffer_ = nullptr;
  return true;
}

}  // namespace pindax::stress
