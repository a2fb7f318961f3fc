// SPDX-License-Identifier: BSD-3-Clause
//
// pindax pin FILE: holds a pin from a shell.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>

#include "common/command.h"
#include "common/session.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string file, socket, kind = "transient";
  u64 offset = 0, length = 0, hold_ms = 0;
  bool hold_given = false, write = false, try_only = false, ignore_recall = false, transferable = false;
};

// Readable once the daemon has asked for the lease back.
int recall_event = -1;

void on_recall(struct pindax_mapping*, size_t, size_t, uint32_t deadline_ms, void* context) {
  const auto& o = *static_cast<const Options*>(context);
  fmt::print("asked to end the lease within {}{}\n", age_text(deadline_ms), o.ignore_recall ? "; it stays" : "");
  std::fflush(stdout);
  const uint64_t one = 1;
  if (!o.ignore_recall) (void)!::write(recall_event, &one, sizeof(one));
}

// Waits until the time is over or, without --hold, until standard input ends; or until the lease is asked for.
void hold(const Options& o) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(o.hold_ms);
  for (;;) {
    i64 left = 3'600'000;
    if (o.hold_given) {
      left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
      if (left <= 0) return;
    }
    pollfd fds[2] = {{recall_event, POLLIN, 0}, {o.hold_given ? -1 : STDIN_FILENO, POLLIN, 0}};
    if (::poll(fds, 2, static_cast<int>(std::min<i64>(left, 3'600'000))) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    if (fds[1].revents == 0) continue;
    char sink[256];
    const ssize_t n = ::read(STDIN_FILENO, sink, sizeof(sink));
    if (n == 0 || (n < 0 && errno != EINTR)) return;
  }
}

Result<unsigned> pin_flags(const Options& o) {
  unsigned flags = o.write ? PINDAX_PIN_WRITE : 0;
  if (o.kind == "lease") flags |= PINDAX_PIN_LEASE;
  else if (o.kind == "longterm") flags |= PINDAX_PIN_LONGTERM;
  if (o.transferable) flags |= PINDAX_PIN_TRANSFERABLE;
  if (o.kind != "transient" && o.kind != "lease" && o.kind != "longterm") return Status(Errc::kInvalid, fmt::format("'{}' is no kind of pin: transient, lease or longterm", o.kind));
  return flags;
}

int run(Options& o) {
  auto flags = pin_flags(o);
  if (!flags.ok()) return usage("pin", std::string(flags.status().message()));
  recall_event = ::eventfd(0, EFD_CLOEXEC);
  const struct pindax_attach_options attach = {sizeof(attach), 0, nullptr, on_recall, &o};
  auto session = Session::open(o.file, o.socket, o.write ? O_RDWR : O_RDONLY, &attach);
  if (!session.ok()) return fail("pin", session.status());
  if (o.length == 0) o.length = session->size_bytes() > o.offset ? session->size_bytes() - o.offset : 0;
  if (o.length == 0) return fail("pin", Status(Errc::kInvalid, "nothing to pin: --offset is at or beyond the end of the file"));
  const u64 begin = round_down(o.offset, kBlockSize);
  auto mapping = session->map(begin, round_up(o.offset + o.length, kBlockSize) - begin, o.write ? PROT_READ | PROT_WRITE : PROT_READ, 0);
  if (!mapping.ok()) return fail("pin", mapping.status());
  struct pindax_pin pin{};
  const auto pin_call = o.try_only ? pindax_try_pin : pindax_pin;
  if (const int error = pin_call(*mapping, o.offset - begin, o.length, *flags, &pin); error != 0)
    return fail("pin", library_status(error));
  fmt::print("pinned {} {} ({}{}), pid {}\n", escape(o.file), range_text(o.offset, o.length), o.kind, o.write ? ", write" : "", ::getpid());
  std::fflush(stdout);
  hold(o);
  if (const int error = pindax_unpin(*mapping, &pin); error != 0) return fail("pin", library_status(error));
  return kDone;
}

}  // namespace

void add_pin(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("pin", "Pin a range of a file until a time is over or standard input ends");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  add_size(sub, "--offset", o->offset, "first byte (0)");
  add_size(sub, "--length", o->length, "bytes (to the end of the file)");
  sub->add_option("--kind", o->kind, "transient, lease or longterm")->capture_default_str();
  add_duration(sub, "--hold", o->hold_ms, "how long; without it until standard input ends")->each([o](const std::string&) { o->hold_given = true; });
  sub->add_flag("--write", o->write, "pin for writing: allocates the range first");
  sub->add_flag("--transferable", o->transferable, "any thread of the holder may end it");
  sub->add_flag("--ignore-recall", o->ignore_recall, "keep a lease that is asked for (to try the policies out)");
  sub->add_flag("--try", o->try_only, "fail with EAGAIN instead of waiting behind a layout change");
  sub->add_option("--socket", o->socket, "use this daemon without a mount")->type_name("SOCKET");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
