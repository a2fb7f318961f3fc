// SPDX-License-Identifier: BSD-3-Clause
//
// pindax fallocate FILE: with the option names of util-linux's fallocate(1). Collapse, insert and unshare, which FUSE does not
// forward, go by ioctl; everything goes that way, so that one call has one set of errors.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/unique_fd.h"
#include "common/command.h"
#include "common/session.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string file, socket;
  u64 offset = 0, length = 0;
  bool length_given = false;
  bool collapse = false, insert = false, punch = false, zero = false, unshare = false, dig = false, keep = false, posix = false;
  bool verbose = false;
  std::string on_busy;
  u64 deadline_ms = 0;
};

Status errno_status(const std::string& what) { return Status(from_errno(errno), fmt::format("{}: {}", what, std::strerror(errno))); }

constexpr std::array<const char*, 5> kPolicies{"", "wait", "refuse", "quarantine", "evict"};  // PINDAX_ON_BUSY_…

Status change(const Session& session, const Options& o, int mode, u64 offset, u64 length) {
  struct pindax_change_options options{};
  options.size = sizeof(options);
  options.on_busy = static_cast<uint32_t>(std::find(kPolicies.begin(), kPolicies.end(), o.on_busy) - kPolicies.begin());
  options.deadline_ms = o.deadline_ms;
  const int error = pindax_fallocate_ext(session.client(), session.fd(), mode, offset, length, &options);
  return error == 0 ? Status() : library_status(error).with_context(escape(o.file));
}

int mode_of(const Options& o) {
  int mode = o.keep ? FALLOC_FL_KEEP_SIZE : 0;
  if (o.collapse) mode |= FALLOC_FL_COLLAPSE_RANGE;
  if (o.insert) mode |= FALLOC_FL_INSERT_RANGE;
  if (o.punch) mode |= FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (o.zero) mode |= FALLOC_FL_ZERO_RANGE;
  if (o.unshare) mode |= FALLOC_FL_UNSHARE_RANGE;
  return mode;
}

bool is_zero(const std::vector<char>& bytes, std::size_t length) {
  return std::all_of(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length), [](char c) { return c == 0; });
}

// Punches the blocks that hold zeros only.
Result<u64> dig(const Session& session, const Options& o, u64 end) {
  std::vector<char> bytes(1u << 20);
  u64 dug = 0, run_begin = 0, run_end = 0;
  const auto flush = [&]() -> Status {
    if (run_end > run_begin) {
      PINDAX_TRY(change(session, o, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, run_begin, run_end - run_begin));
      dug += run_end - run_begin;
    }
    run_begin = run_end = 0;
    return {};
  };
  for (u64 at = round_up(o.offset, kBlockSize); at < end;) {
    const off_t data = ::lseek(session.fd(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return errno_status(o.file);
    at = std::max(at, round_down(static_cast<u64>(data), kBlockSize));
    if (at >= end) break;
    const ssize_t n = ::pread(session.fd(), bytes.data(), std::min<u64>(bytes.size(), end - at), static_cast<off_t>(at));
    if (n < 0) return errno_status(o.file);
    if (n == 0) break;
    for (u64 block = 0; block < static_cast<u64>(n); block += kBlockSize) {
      const std::size_t size = std::min<std::size_t>(kBlockSize, static_cast<std::size_t>(n) - block);
      const std::vector<char> piece(bytes.begin() + static_cast<std::ptrdiff_t>(block), bytes.begin() + static_cast<std::ptrdiff_t>(block + size));
      const bool hole = is_zero(piece, size) && at + block + size <= end;
      if (!hole || at + block != run_end) PINDAX_TRY(flush());
      if (!hole) continue;
      if (run_end == run_begin) run_begin = at + block;
      run_end = at + block + size;
    }
    at += static_cast<u64>(n);
  }
  PINDAX_TRY(flush());
  return dug;
}

int run(Options& o) {
  const int operations = o.collapse + o.insert + o.punch + o.zero + o.unshare + o.dig + o.posix;
  if (operations > 1) return usage("fallocate", "give one of -c, -d, -i, -p, -u, -x and -z");
  if ((o.collapse || o.insert || o.posix) && o.keep) return usage("fallocate", "-n does not go with -c, -i and -x");
  if (!o.dig && !o.length_given) return usage("fallocate", "say how long the range is: --length");
  if (!o.dig && o.length == 0) return usage("fallocate", "the length must be greater than zero");
  if (o.dig && !o.socket.empty()) return usage("fallocate", "-d needs a mount");
  if (o.socket.empty() && !o.punch && !o.dig && !o.collapse && !o.insert) {
    const UniqueFd made(::open(o.file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));  // as fallocate(1)
    if (!made) return fail("fallocate", errno_status(o.file));
  }
  auto session = Session::open(o.file, o.socket, O_RDWR);
  if (!session.ok()) return fail("fallocate", session.status());
  if (o.dig) {
    const u64 end = o.length_given ? std::min(session->size_bytes(), o.offset + o.length) : session->size_bytes();
    const auto dug = dig(*session, o, end);
    if (!dug.ok()) return fail("fallocate", dug.status());
    if (o.verbose) fmt::print("{}: {} ({} bytes) converted to sparse holes.\n", escape(o.file), size_text(*dug), *dug);
    return kDone;
  }
  if (const Status s = change(*session, o, mode_of(o), o.offset, o.length); !s.ok()) return fail("fallocate", s);
  const char* done = o.collapse ? "removed" : o.insert ? "inserted" : o.punch ? "deallocated" : o.zero ? "zeroed" : o.unshare ? "unshared" : "allocated";
  if (o.verbose) fmt::print("{}: {} ({} bytes) {}.\n", escape(o.file), size_text(o.length), o.length, done);
  return kDone;
}

}  // namespace

void add_fallocate(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("fallocate", "Reserve, punch, zero, collapse, insert or unshare a range of a file");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  add_size(sub, "-o,--offset", o->offset, "where the range begins (0)");
  add_size(sub, "-l,--length", o->length, "how long it is")->each([o](const std::string&) { o->length_given = true; });
  sub->add_flag("-n,--keep-size", o->keep, "do not make the file longer");
  sub->add_flag("-c,--collapse-range", o->collapse, "take the range out: what is behind it moves down");
  sub->add_flag("-i,--insert-range", o->insert, "make room: what is behind the offset moves up");
  sub->add_flag("-p,--punch-hole", o->punch, "make the range a hole (implies -n)");
  sub->add_flag("-z,--zero-range", o->zero, "make the range read as zeros, allocated");
  sub->add_flag("-u,--unshare-range", o->unshare, "give the file blocks of its own in the range");
  sub->add_flag("-d,--dig-holes", o->dig, "punch out blocks that hold only zeros");
  sub->add_flag("-x,--posix", o->posix, "reserve as posix_fallocate(3) does, which is what Pindax does anyway");
  sub->add_option("--on-busy", o->on_busy, "what to do about pins in the way: wait, refuse, quarantine or evict (else what the file or the mount says)")
      ->check(CLI::IsMember({"wait", "refuse", "quarantine", "evict"}));
  add_duration(sub, "--deadline", o->deadline_ms, "how long to wait for them first");
  sub->add_flag("-v,--verbose", o->verbose, "say what was done");
  sub->add_option("--socket", o->socket, "use this daemon without a mount")->type_name("SOCKET");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
