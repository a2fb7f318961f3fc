// SPDX-License-Identifier: BSD-3-Clause
//
// pindax evict MNT: ends a client's process with SIGKILL, by the daemon's pidfd, so never the wrong one. pindax recall FILE: asks
// clients to give up their translations of a range, as a layout change would.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "common/listing.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct EvictOptions {
  std::string where;
  std::vector<u64> pids, sessions;
  bool yes = false, json = false;
};

bool contains(const std::vector<u64>& list, u64 n) { return std::find(list.begin(), list.end(), n) != list.end(); }

int evict(const EvictOptions& o) {
  if (o.pids.empty() && o.sessions.empty())
    return usage("evict", "say whom: --pid PID or --session NUMBER, as pindax clients shows them");
  auto daemon = Daemon::connect(o.where);
  if (!daemon.ok()) return fail("evict", daemon.status());
  auto clients = daemon->control({{"op", "clients"}});
  if (!clients.ok()) return fail("evict", clients.status());
  std::vector<Json> chosen;
  std::string names;
  for (const Json& row : *clients) {
    if (row.contains("hidden_rows")) continue;
    if (!contains(o.pids, number_field(row, "pid")) && !contains(o.sessions, number_field(row, "session"))) continue;
    chosen.push_back(row);
    names += fmt::format("{}{} (pid {}, uid {}, {} mappings, {} pins)", names.empty() ? "" : ", ", text_field(row, "command"),
                         text_field(row, "pid"), text_field(row, "uid"), text_field(row, "mappings"), text_field(row, "pins"));
  }
  if (chosen.size() < o.pids.size() + o.sessions.size())
    return fail("evict", Status(Errc::kNotFound, "no such client of yours: pindax clients lists them"));
  if (!o.yes) {
    if (::isatty(STDIN_FILENO) == 0) return usage("evict", "this kills " + names + "; say --yes to do so without being asked");
    fmt::print("Kill {}? [y/N] ", names);
    std::fflush(stdout);
    std::string answer;
    std::getline(std::cin, answer);
    if (answer != "y" && answer != "yes") return kFoundSomething;
  }
  Json killed = Json::array();
  for (const Json& row : chosen) {
    // By session: the process behind a number may be another one by now.
    auto reply = daemon->control({{"op", "evict"}, {"session", number_field(row, "session")}});
    if (!reply.ok()) return fail("evict", reply.status());
    killed.push_back(*reply);
  }
  if (o.json) fmt::print("{}\n", killed.dump(2));
  else fmt::print("killed {}\n", names);
  return kDone;
}

struct RecallOptions {
  ListingOptions listing;
  std::string file, socket;
  u64 offset = 0, length = 0;
};

int recall(RecallOptions& o) {
  std::string inner;
  if (Status s = locate(o.file, o.socket, o.listing, inner); !s.ok()) return fail("recall", s);
  auto daemon = Daemon::connect(o.listing.where);
  if (!daemon.ok()) return fail("recall", daemon.status());
  Json request = {{"op", "recall"}, {"path", inner}, {"offset_bytes", o.offset}};
  if (o.length != 0) request["length_bytes"] = o.length;
  auto reply = daemon->control(request);
  if (!reply.ok()) return fail("recall", reply.status());
  const u64 pending = number_field(*reply, "recalls_pending"), sent = number_field(*reply, "recalls");
  if (o.listing.json) fmt::print("{}\n", reply->dump(2));
  else if (pending != 0)
    fmt::print("{}", wrap(fmt::format("{} recalls were sent, {} are not answered in time; by whom: pindax clients {}", sent, pending,
                                      o.listing.where), terminal_width(), 2));
  else fmt::print("{}\n", sent == 0 ? "nobody maps that range" : sent == 1 ? "1 recall was sent and answered" : fmt::format("{} recalls were sent and answered", sent));
  return pending != 0 ? kFoundSomething : kDone;
}

}  // namespace

void add_evict(Commands& commands) {
  auto o = std::make_shared<EvictOptions>();
  auto* sub = commands.add("evict", "Kill a client that does not let go");
  sub->add_option("MNT", o->where, "mount point, any path on the mount, or a daemon's socket")->required();
  sub->add_option("--pid", o->pids, "the client's process; may be given more than once")->type_name("PID")->allow_extra_args(false);
  sub->add_option("--session", o->sessions, "the client's number in pindax clients; the same")->type_name("NUMBER")->allow_extra_args(false);
  sub->add_flag("-y,--yes", o->yes, "do not ask");
  sub->add_flag("--json", o->json, "print JSON");
  commands.run(sub, [o] { return evict(*o); });
}

void add_recall(Commands& commands) {
  auto o = std::make_shared<RecallOptions>();
  auto* sub = commands.add("recall", "Ask clients to drop their translations of a file; they fault again. Pins stay");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  add_size(sub, "--offset", o->offset, "first byte (0)");
  add_size(sub, "--length", o->length, "bytes (to the end of everything)");
  sub->add_option("--socket", o->socket, "ask this daemon")->type_name("SOCKET");
  sub->add_flag("--json", o->listing.json, "print JSON");
  commands.run(sub, [o] { return recall(*o); });
}

}  // namespace pindax::tools
