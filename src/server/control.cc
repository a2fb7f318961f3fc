// SPDX-License-Identifier: BSD-3-Clause
//
// Which JSON request is carried out by whom, and how its answer travels.
#include "server/control.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/path_walk.h"

namespace pindax {

namespace control {

Result<std::string> text_argument(const Request& r, const char* key) {
  auto it = r.arguments.find(key);
  if (it == r.arguments.end() || !it->is_string())
    return Status(Errc::kInvalid, std::string("the request needs a text \"") + key + "\"");
  return it->get<std::string>();
}

std::optional<u64> optional_number(const Request& r, const char* key) {
  auto it = r.arguments.find(key);
  if (it == r.arguments.end() || !it->is_number_unsigned()) return std::nullopt;
  return it->get<u64>();
}

Result<u64> number_argument(const Request& r, const char* key) {
  if (auto n = optional_number(r, key)) return *n;
  return Status(Errc::kInvalid, std::string("the request needs a number \"") + key + "\"");
}

void in_steps(Executor& executor, std::function<Result<bool>()> step, std::function<void(const Status&)> done) {
  const Result<bool> more = step();
  if (!more.ok() || !*more) return done(more.status());
  executor.post([&executor, step = std::move(step), done = std::move(done)]() mutable {
    in_steps(executor, std::move(step), std::move(done));
  });
}

namespace {

Result<Json> stop_daemon(const Request& r) {
  if (!r.sees_all) return Status(Errc::kPermission, "only root and the mount's owner may stop the daemon");
  r.context.on_shutdown();
  return Json::object();
}

Result<Json> evict_client(const Request& r) {
  const auto pid = optional_number(r, "pid");
  const auto session = optional_number(r, "session");
  if (!pid && !session) return Status(Errc::kInvalid, "the request needs \"pid\" or \"session\"");
  for (const auto& s : r.context.sessions()) {
    if ((pid && s->peer().pid != *pid) || (session && s->id() != *session) || !s->summary().attached) continue;
    PINDAX_TRY(s->evict(fmt::format("asked for by process {} (uid {})", r.peer.pid, r.peer.uid), r.caller.uid));
    return Json{{"pid", s->peer().pid}, {"session", s->id()}, {"command", s->peer().command}};
  }
  return Status(Errc::kNotFound, "no such client");
}

using Operation = Result<Json> (*)(const Request&);
struct Entry {
  const char* name;
  Operation run;
};
constexpr Entry kOperations[] = {
    {"pins", list_pins},         {"clients", list_clients}, {"waiters", list_waiters},
    {"layout", show_layout},     {"scrub", scrub_some},     {"ls", list_directory},
    {"stat", show_stat},         {"mkdir", make_directory}, {"symlink", make_symlink},
    {"readlink", read_symlink},  {"unlink", remove_name},   {"set_attributes", change_attributes},
    {"shutdown", stop_daemon},   {"evict", evict_client},
};

// Large answers travel as a memfd.
constexpr std::size_t kMaxInlineBytes = 96 * 1024;

UniqueFd memory_with(const std::string& text) {
  UniqueFd fd(::memfd_create("pindax-reply", MFD_CLOEXEC));
  std::size_t done = 0;
  while (fd && done < text.size()) {
    const ssize_t n = ::pwrite(fd.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (n <= 0) return UniqueFd();
    done += static_cast<std::size_t>(n);
  }
  return fd;
}

}  // namespace
}  // namespace control

namespace {

// {"op":"recall", "path":P, "offset_bytes", "length_bytes"}: takes the translations of a range away; clients fault again. Pins do
// not matter: their blocks stay. Ends when all have answered, or at the recall's deadline.
void recall_file(const control::Request& r, std::function<void(Result<control::Json>)> done) {
  auto path = control::text_argument(r, "path");
  if (!path.ok()) return done(path.status());
  auto inode = walk_existing(r.context.fs, r.caller, *path, true);
  if (!inode.ok()) return done(inode.status());
  if (Status s = r.context.fs.access(**inode, W_OK, r.caller); !s.ok()) return done(s);
  const u64 begin = control::optional_number(r, "offset_bytes").value_or(0);
  const u64 length = control::optional_number(r, "length_bytes").value_or(kMaxOffset);
  if (begin >= kMaxOffset || length == 0) return done(Status(Errc::kInvalid, "the range to recall is empty or too large"));
  const ByteRange range{begin, begin + std::min(length, kMaxOffset - begin)};
  const auto count = [&context = r.context, ino = (*inode)->ino, range](u64 MappingRow::*what) {
    u64 sum = 0;
    for (const MappingRow& m : context.clients().list_mappings())
      if (m.ino == ino && m.range.overlaps(range)) sum += what == &MappingRow::granted_bytes ? (m.granted_bytes != 0 ? 1 : 0) : m.*what;
    return sum;
  };
  const u64 mapped = count(&MappingRow::granted_bytes);
  const ChangeRequest change{
      .operation = "recall",
      .lock_range = range,
      .break_range = range,
      .requester = {.pid = r.peer.pid, .tid = r.peer.pid, .uid = r.peer.uid, .command = r.peer.command},
      .only_frees = false,
      .recall_only = true};
  r.context.fs.layout().change(*(*inode)->layout(), change, [](const ChangeGrant&) { return Status(); },
                               [keep = *inode, count, mapped, done = std::move(done)](Status s) {
                                 if (!s.ok()) return done(std::move(s));
                                 done(control::Json{{"recalls", mapped}, {"recalls_pending", count(&MappingRow::recalls_pending)}});
                               });
}

// {"op":"defragment", "path":P, "offset_bytes":N, "wait_ms"?:N}: the next chunk of a file. A pin in the way is waited for so long.
std::shared_ptr<Change> defragment_file(const control::Request& r, std::function<void(Result<control::Json>)> done) {
  const auto start = [&]() -> Result<std::pair<InodeRef, u64>> {
    PINDAX_ASSIGN(const std::string path, control::text_argument(r, "path"));
    PINDAX_ASSIGN(const u64 offset, control::number_argument(r, "offset_bytes"));
    PINDAX_ASSIGN(InodeRef inode, walk_existing(r.context.fs, r.caller, path, true));
    PINDAX_TRY(r.context.fs.access(*inode, W_OK, r.caller));
    return std::pair(std::move(inode), offset);
  }();
  if (!start.ok()) {
    done(start.status());
    return nullptr;
  }
  FileSystem::ChangeContext change;
  change.requester = {.pid = r.peer.pid, .tid = r.peer.pid, .uid = r.peer.uid, .command = r.peer.command};
  change.policy = BusyPolicy::kRefuse;
  constexpr u64 kMostWaitMs = u64{1} << 40;
  if (const auto wait = control::optional_number(r, "wait_ms"); wait && *wait != 0)
    change.deadline = std::chrono::milliseconds(std::min(*wait, kMostWaitMs));
  return r.context.fs.defragment(start->first, start->second, change,
                                 [keep = start->first, done = std::move(done)](const Result<FileSystem::DefragmentStep>& step) {
                                   if (!step.ok()) return done(step.status());
                                   control::Json row{{"next_bytes", step->next},
                                                     {"moved_bytes", step->moved_bytes},
                                                     {"no_room_bytes", step->no_room_bytes},
                                                     {"busy", step->busy}};
                                   done(std::move(row));
                                 });
}

// {"op":"block", "block":N}: who has a block. It may be a look through every inode.
void find_block(const control::Request& r, std::function<void(Result<control::Json>)> answer) {
  const auto block = control::number_argument(r, "block");
  if (!block.ok()) return answer(block.status());
  if (!r.sees_all) return answer(Status(Errc::kPermission, "only root and the mount's owner may ask who has a block"));
  auto scan = std::make_shared<FileSystem::OwnerScan>();
  scan->run = {BlockNo(*block), 1};
  control::in_steps(
      r.context.fs.executor(), [&context = r.context, scan] { return context.fs.find_owners(*scan); },
      [&context = r.context, scan, answer = std::move(answer)](const Status& found) {
        found.ok() ? answer(control::describe_block(context, *scan)) : answer(found);
      });
}

}  // namespace

Status Session::handle_control(Packet& p) {
  using control::Json;
  const u64 request = p.header.request;
  auto parsed = std::make_shared<Json>(Json::parse(reinterpret_cast<const char*>(p.body.data()),
                                                   reinterpret_cast<const char*>(p.body.data()) + p.body.size(), nullptr,
                                                   /*allow_exceptions=*/false));
  if (!parsed->is_object() || !parsed->contains("op") || !(*parsed)["op"].is_string())
    return Status(Errc::kProtocol, "a control request that is no JSON object with an \"op\"");
  if (!begin_pending(request)) return {};
  context_.fs.executor().post([self = shared_from_this(), request, parsed] {
    const Caller who = self->caller();
    const std::string op = (*parsed)["op"].get<std::string>();
    KernelNews news;
    const control::Request r{self->context_, self->peer_, who, self->sees_all(), *parsed, news};
    auto answer = [self, request](const Result<Json>& result) {
      if (!result.ok()) {
        self->reply(request, result.status());
      } else {
        const std::string text = result->dump(-1, ' ', false, Json::error_handler_t::replace);
        std::vector<UniqueFd> descriptors;
        if (text.size() > control::kMaxInlineBytes) descriptors.push_back(control::memory_with(text));
        if (!descriptors.empty() && !descriptors.front())
          self->reply(request, Status(Errc::kNoMemory, "no memory for the answer"));
        else if (!descriptors.empty())
          self->reply(request, Status(), {}, {}, std::move(descriptors));
        else
          self->reply(request, Status(), std::as_bytes(std::span(text.data(), text.size())));
      }
      self->end_pending(request);
    };
    if (op == "damage") return control::show_damage(r, Json::object(), answer);
    if (op == "info") {
      auto info = control::show_info(r);
      const auto with_damage = parsed->find("damage");  // a look through every inode: not for those who ask each second
      if (!info.ok() || with_damage == parsed->end() || *with_damage != true) return answer(std::move(info));
      return control::show_damage(r, std::move(*info), answer);
    }
    if (op == "recall") return recall_file(r, answer);
    if (op == "defragment") return self->set_pending_change(request, defragment_file(r, answer));
    if (op == "block") return find_block(r, answer);
    for (const auto& entry : control::kOperations)
      if (op == entry.name) {
        Result<Json> result = entry.run(r);
        return self->context_.announce(news, [answer, result = std::move(result)] { answer(result); });
      }
    answer(Status(Errc::kNotSupported, "this daemon does not know the operation \"" + op + "\""));
  });
  return {};
}

}  // namespace pindax
