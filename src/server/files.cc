// SPDX-License-Identifier: BSD-3-Clause
//
// Files of a session: open by path (where there is no mount to do it), read, write, stat, sync.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "pmem/bus_guard.h"
#include "server/path_walk.h"
#include "server/session.h"

namespace pindax {

Result<Session::OpenFile> Session::use_file(const proto::FileRef& ref) {
  if (ref.handle != 0) {
    auto it = files_.find(ref.handle);
    if (it == files_.end()) return Status(Errc::kBadDescriptor, "no such open file");
    return it->second;
  }
  Token token;
  std::copy(std::begin(ref.token), std::end(ref.token), token.begin());
  PINDAX_ASSIGN(TokenTable::Grant grant, context_.tokens.redeem(token, peer_.pid));
  return OpenFile{.inode = std::move(grant.inode), .access = grant.access};
}

// ---- Open ----

namespace {

Result<std::pair<InodeRef, bool>> open_or_create(FileSystem& fs, const Caller& caller, std::string_view path,
                                                 const proto::OpenBody& open, KernelNews& news) {
  const int flags = static_cast<int>(open.flags);
  const bool create = (flags & O_CREAT) != 0;
  const bool exclusive = create && (flags & O_EXCL) != 0;
  const bool follow = (flags & O_NOFOLLOW) == 0 && !exclusive;
  PINDAX_ASSIGN(WalkResult at, walk_path(fs, caller, path, follow));
  if (at.inode && exclusive) return Status(Errc::kExists, "the file exists: " + std::string(path));
  if (at.inode) return std::pair{at.inode, false};
  if (!create) return Status(Errc::kNotFound, "no such file: " + std::string(path));
  if (at.must_be_directory || at.name.empty()) return Status(Errc::kIsDirectory, "a directory cannot be opened this way");
  PINDAX_TRY(fs.access(*at.parent, W_OK | X_OK, caller));
  auto created = fs.create(*at.parent, at.name, {.mode = S_IFREG | (open.mode & 07777u)}, caller);
  if (created.ok()) news.names.emplace_back(at.parent->ino, at.name);
  if (created.ok()) return std::pair{*created, true};
  if (created.code() != Errc::kExists || exclusive) return created.status();
  // Somebody was faster: it is theirs that we open.
  PINDAX_ASSIGN(InodeRef existing, fs.lookup(*at.parent, at.name));
  return std::pair{existing, false};
}

Status check_open(FileSystem& fs, const Caller& caller, Inode& inode, int flags) {
  PINDAX_ASSIGN(const Attributes attributes, fs.attributes(inode));
  const int access = flags & O_ACCMODE;
  if (S_ISLNK(attributes.mode)) return Status(Errc::kInvalid, "a symbolic link, and O_NOFOLLOW was given");
  if (S_ISDIR(attributes.mode)) {
    if (access != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) != 0) return Status(Errc::kIsDirectory);
  } else if ((flags & O_DIRECTORY) != 0) {
    return Status(Errc::kNotDirectory);
  } else if (!S_ISREG(attributes.mode)) {
    return Status(Errc::kNoDevice, "only regular files and directories are opened without a mount");
  }
  unsigned mask = access == O_WRONLY ? W_OK : access == O_RDWR ? R_OK | W_OK : R_OK;
  if ((flags & O_TRUNC) != 0) mask |= W_OK;
  return fs.access(inode, mask, caller);
}

}  // namespace

Status Session::handle_open(Packet& p) {
  proto::OpenBody open;
  std::span<const std::byte> rest;
  PINDAX_TRY(take_body(p, open, &rest));
  const int flags = static_cast<int>(open.flags);
  constexpr int kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC |
                         O_NONBLOCK | O_SYNC | O_DSYNC | O_LARGEFILE | O_NOATIME | O_DIRECT | O_NOCTTY | 0100000;
  const u64 request = p.header.request;
  if ((flags & ~kKnown) != 0 || (flags & O_ACCMODE) == O_ACCMODE) {
    reply(request, Status(Errc::kInvalid, "open flags that are not supported without a mount"));
    return {};
  }
  if (files_.size() >= kMaxOpenFiles) {
    reply(request, Status(Errc::kNoMemory, "this client has too many files open"));
    return {};
  }
  Caller who = caller();
  who.umask = open.umask & 0777;
  const std::string_view path(reinterpret_cast<const char*>(rest.data()), rest.size());
  KernelNews news;
  auto opened = open_or_create(context_.fs, who, path, open, news);
  if (!opened.ok()) {
    reply(request, opened.status());
    return {};
  }
  const auto [inode, created] = *opened;
  if (!created) {
    if (Status s = check_open(context_.fs, who, *inode, flags); !s.ok()) {
      reply(request, s);
      return {};
    }
  }
  const OpenFile file{.inode = inode, .access = flags & O_ACCMODE};
  if (created || (flags & O_TRUNC) == 0) {
    finish_open(request, file, news);
    return {};
  }
  // O_TRUNC waits for pins like any truncation (R25); the handle appears with the reply.
  if (!begin_pending(request)) return {};
  const u64 handle = next_handle_++;
  files_.emplace(handle, file);
  auto self = shared_from_this();
  FileSystem::ChangeContext change{.requester = {.pid = peer_.pid, .tid = open.thread, .uid = peer_.uid, .command = peer_.command},
                                   .caller = who};
  auto reply_open = [self, request, handle, inode = inode](Status status) {
    auto attributes = self->context_.fs.attributes(*inode);
    if (status.ok()) status = attributes.status();
    if (status.ok()) {
      const proto::OpenReply body{.handle = handle, .inode = inode->ino.value, .size_bytes = attributes->size_bytes,
                                  .mode = attributes->mode, .reserved = 0};
      self->reply_body(request, body);
    } else {
      self->reply(request, status);  // the unnamed handle goes with the session
    }
    self->end_pending(request);
  };
  auto done = [self, inode = inode, reply_open](const Status& status) {
    self->after_change(*inode, status, true, [reply_open, status] { reply_open(status); });
  };
  set_pending_change(request, context_.fs.truncate(inode, 0, change, std::move(done)));
  return {};
}

void Session::finish_open(u64 request, OpenFile file, const KernelNews& news) {
  auto attributes = context_.fs.attributes(*file.inode);
  if (!attributes.ok()) return reply(request, attributes.status());
  if (!begin_pending(request)) return;
  const u64 handle = next_handle_++;
  const proto::OpenReply body{.handle = handle, .inode = file.inode->ino.value, .size_bytes = attributes->size_bytes,
                              .mode = attributes->mode, .reserved = 0};
  files_.emplace(handle, std::move(file));
  context_.announce(news, [self = shared_from_this(), request, body] {
    self->reply_body(request, body);
    self->end_pending(request);
  });
}

Status Session::handle_close(Packet& p) {
  proto::CloseBody close;
  PINDAX_TRY(take_body(p, close));
  const bool known = files_.erase(close.handle) == 1;
  reply(p.header.request, known ? Status() : Status(Errc::kBadDescriptor, "no such open file"));
  return {};
}

// ---- Data ----

Status Session::handle_read(Packet& p) {
  proto::ReadBody read;
  PINDAX_TRY(take_body(p, read));
  if (read.length > proto::kMaxDataBytes) return Status(Errc::kProtocol, "a read longer than a message");
  const u64 request = p.header.request;
  auto file = use_file(read.file);
  if (file.ok() && file->access == O_WRONLY) file = Status(Errc::kBadDescriptor, "the file is open for writing only");
  if (!file.ok()) {
    reply(request, file.status());
    return {};
  }
  if (!begin_pending(request)) return {};
  auto self = shared_from_this();
  context_.fs.read(file->inode, read.offset, read.length,
                   [self, request, read, keep = file->inode](Result<const FileSystem::ReadPieces*> pieces) {
                     if (!pieces.ok()) {
                       self->reply(request, pieces.status());
                     } else {
                       std::vector<std::byte> data;
                       Status copied;
                       for (const auto& piece : **pieces)
                         if (copied.ok()) copied = append_guarded(data, piece);
                       if (!copied.ok()) data.clear();
                       if (!copied.ok())
                         self->context_.fs.executor().post([self, keep, read] { self->context_.fs.examine(*keep, read.offset, read.length); });
                       self->reply(request, copied, data);
                     }
                     self->end_pending(request);
                   },
                   FileSystem::Reader::kClient);
  return {};
}

Status Session::handle_write(Packet& p) {
  proto::WriteBody write;
  std::span<const std::byte> data;
  PINDAX_TRY(take_body(p, write, &data));
  if (write.length != data.size() || write.length > proto::kMaxDataBytes || write.append > 1)
    return Status(Errc::kProtocol, "a write that lies about its length");
  const u64 request = p.header.request;
  auto file = use_file(write.file);
  if (file.ok() && file->access == O_RDONLY) file = Status(Errc::kBadDescriptor, "the file is open for reading only");
  if (!file.ok()) {
    reply(request, file.status());
    return {};
  }
  if (!begin_pending(request)) return {};
  auto self = shared_from_this();
  const FileSystem::WriteRequest what{
      .offset = write.offset, .data = data, .append = write.append == 1, .caller = caller()};
  context_.fs.write(file->inode, what, [self, request, inode = file->inode](const Result<u64>& written) {
    self->after_change(*inode, written.status(), true, [self, request, written] {
      if (written.ok())
        self->reply_body(request, proto::WriteReply{.written = *written});
      else
        self->reply(request, written.status());
      self->end_pending(request);
    });
  });
  return {};
}

// What clients that map the file see of its size.
void Session::publish_size(Inode& inode) {
  if (inode.layout_if_any() == nullptr) return;
  if (auto size = context_.fs.size(inode); size.ok()) context_.clients().set_size(*inode.layout(), *size);
}

Status Session::handle_stat(Packet& p) {
  proto::FileRef ref;
  PINDAX_TRY(take_body(p, ref));
  auto file = use_file(ref);
  if (!file.ok()) {
    reply(p.header.request, file.status());
    return {};
  }
  auto a = context_.fs.attributes(*file->inode);
  if (!a.ok()) {
    reply(p.header.request, a.status());
    return {};
  }
  const proto::StatReply body{.inode = a->ino.value,
                              .size_bytes = a->size_bytes,
                              .blocks_512 = a->blocks_512,
                              .mode = a->mode,
                              .uid = a->uid,
                              .gid = a->gid,
                              .links = a->links,
                              .mtime_s = a->mtime.seconds,
                              .mtime_ns = a->mtime.nanoseconds,
                              .reserved = 0};
  reply_body(p.header.request, body);
  return {};
}

Status Session::handle_sync(Packet& p) {
  proto::FileRef ref;
  PINDAX_TRY(take_body(p, ref));
  auto file = use_file(ref);
  const u64 request = p.header.request;
  if (!file.ok()) {
    reply(request, file.status());
    return {};
  }
  if (!begin_pending(request)) return {};
  // The media may take its time: not on the loop.
  context_.fs.executor().post([self = shared_from_this(), request, inode = file->inode] {
    const u64 begun = self->context_.uncommitted.begin_sync(*inode);
    Status s = self->context_.fs.fsync(*inode, false);
    if (s.ok() && begun != 0) self->context_.uncommitted.end_sync(*inode, begun);
    self->reply(request, s);
    self->end_pending(request);
  });
  return {};
}

}  // namespace pindax
