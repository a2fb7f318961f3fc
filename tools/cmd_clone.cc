// SPDX-License-Identifier: BSD-3-Clause
//
// pindax clone SRC DST: DST gets SRC's blocks; bytes are copied only when one of them is stored into.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/command.h"
#include "common/daemon.h"
#include "common/session.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string source, destination, socket;
  u64 offset = 0, to = 0, length = 0;
  bool whole = true;  // no range was given: the destination becomes the source
  bool dedupe = false;
  bool json = false;
};

// With a mount: where both files lie, and what mode a new destination gets.
Result<unsigned> look_at_both(const Options& o) {
  struct stat from {
  }, to{};
  if (::stat(o.source.c_str(), &from) != 0)
    return Status(from_errno(errno), fmt::format("{}: {}", o.source, std::strerror(errno)));
  if (!S_ISREG(from.st_mode)) return Status(Errc::kInvalid, o.source + " is not a regular file");
  const auto slash = o.destination.rfind('/');
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : o.destination.substr(0, slash);
  const bool exists = ::stat(o.destination.c_str(), &to) == 0;
  if (exists && S_ISDIR(to.st_mode))
    return Status(Errc::kIsDirectory, o.destination + " is a directory: name the file in it");
  if (exists && to.st_dev == from.st_dev && to.st_ino == from.st_ino && o.whole)
    return Status(Errc::kInvalid, "source and destination are the same file");
  if (!exists && ::stat(folder.c_str(), &to) != 0)
    return Status(from_errno(errno), fmt::format("{}: {}", folder, std::strerror(errno)));
  if (to.st_dev != from.st_dev)
    return Status(Errc::kWouldCross,
                  fmt::format("{} and {} are not in the same file system: use cp", o.source, o.destination));
  return from.st_mode & 07777u;
}

Status run_clone(const Options& o, u64* bytes) {
  unsigned mode = 0644;
  if (o.socket.empty()) {
    PINDAX_ASSIGN(mode, look_at_both(o));
  }
  PINDAX_ASSIGN(auto session, Session::open(o.source, o.socket, O_RDONLY));
  const int flags = O_WRONLY | (o.dedupe ? 0 : O_CREAT) | (o.whole ? O_TRUNC : 0);
  const int fd = o.socket.empty() ? ::open(o.destination.c_str(), flags | O_CLOEXEC, mode)
                                  : pindax_open(session.client(), o.destination.c_str(), flags, mode);
  if (fd < 0 && o.socket.empty())
    return Status(from_errno(errno), fmt::format("{}: {}", o.destination, std::strerror(errno)));
  if (fd < 0) return library_status(fd).with_context(o.destination);
  int error = 0;
  *bytes = 0;
  if (o.dedupe) {
    const u64 end = o.length != 0 ? o.offset + o.length : session.size_bytes();
    for (u64 at = o.offset, step = 0; at < end && error == 0; at += step, *bytes += step) {
      error = pindax_dedupe_range(session.client(), session.fd(), at, fd, o.to + (at - o.offset), end - at,
                                  &step);
      if (step == 0) break;
    }
  } else {
    error = pindax_clone_range(session.client(), session.fd(), o.offset, fd, o.to, o.length);
    *bytes = o.length != 0 ? o.length : session.size_bytes() - std::min(o.offset, session.size_bytes());
  }
  const Status status = error != 0 ? library_status(error) : Status();
  if (o.socket.empty())
    ::close(fd);
  else
    pindax_close(session.client(), fd);
  return status;
}

}  // namespace

void add_clone(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("clone", "Give a file the blocks of another, without copying bytes");
  sub->add_option("SRC", o->source, "the file whose blocks are shared")->required();
  sub->add_option("DST", o->destination, "made, or replaced if no range is given")->required();
  auto* offset =
      sub->add_option("--offset", o->offset, "where the range begins in SRC, in bytes; a multiple of 4096")
          ->type_name("BYTES");
  auto* length = sub->add_option("--length", o->length, "of the range; to the end of SRC by default")
                     ->type_name("BYTES");
  auto* to = sub->add_option("--to", o->to, "where it goes in DST; a multiple of 4096")->type_name("BYTES");
  sub->add_flag("--dedupe", o->dedupe,
                "share only what both files have in common already; says how much that was");
  sub->add_option("--socket", o->socket, "ask this daemon; the paths are then inside its file system")
      ->type_name("SOCKET");
  sub->add_flag("--json", o->json, "print JSON");
  commands.run(sub, [o, offset, length, to] {
    o->whole = offset->count() == 0 && length->count() == 0 && to->count() == 0 && !o->dedupe;
    u64 bytes = 0;
    if (const Status s = run_clone(*o, &bytes); !s.ok()) return fail("clone", s);
    if (o->json)
      fmt::print("{}\n", Json{{"shared_bytes", bytes}}.dump());
    else if (o->dedupe)
      fmt::print("{} shared\n", size_text(bytes));
    return static_cast<int>(kDone);
  });
}

}  // namespace pindax::tools
