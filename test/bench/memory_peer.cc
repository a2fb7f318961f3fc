// SPDX-License-Identifier: BSD-3-Clause
//
// A peer for mount_bench: the least that a FUSE file system on libfuse can do. Files of one directory, in memory, nothing survives.
// What it costs is the kernel's and libfuse's share. Usage: memory_peer MOUNTPOINT [OPTIONS] (ends with its mount)
// Of the mount's options default_permissions is what counts: the kernel then asks for a directory's attributes after each change
// of it, before it looks a name up again. Without it nobody checks whether a caller may.

#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

namespace {

struct File {
  fuse_ino_t ino = 0;
  mode_t mode = 0;
  std::shared_mutex mutex;
  std::vector<char> data;
  std::atomic<unsigned long> lookups{0};
};

using FileRef = std::shared_ptr<File>;

std::shared_mutex names_mutex;
std::map<std::string, FileRef> names;
std::map<fuse_ino_t, FileRef> inodes;
fuse_ino_t next_ino = FUSE_ROOT_ID + 1;

FileRef by_ino(fuse_ino_t ino) {
  const std::shared_lock lock(names_mutex);
  auto it = inodes.find(ino);
  return it == inodes.end() ? nullptr : it->second;
}

struct stat attributes(fuse_ino_t ino, File* f) {
  struct stat s {};
  s.st_ino = ino;
  s.st_nlink = 1;
  s.st_mode = f == nullptr ? S_IFDIR | 0777 : S_IFREG | f->mode;
  s.st_blksize = 4096;
  if (f != nullptr) {
    const std::shared_lock lock(f->mutex);
    s.st_size = static_cast<off_t>(f->data.size());
  }
  return s;
}

fuse_entry_param entry(File& f) {
  f.lookups.fetch_add(1);
  fuse_entry_param e{};
  e.ino = f.ino;
  e.attr = attributes(f.ino, &f);
  e.attr_timeout = e.entry_timeout = 1.0;
  return e;
}

void lookup(fuse_req_t req, fuse_ino_t, const char* name) {
  FileRef f;
  {
    const std::shared_lock lock(names_mutex);
    if (auto it = names.find(name); it != names.end()) f = it->second;
  }
  if (f == nullptr) return void(::fuse_reply_err(req, ENOENT));
  const fuse_entry_param e = entry(*f);
  ::fuse_reply_entry(req, &e);
}

void forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  if (const FileRef f = by_ino(ino); f != nullptr && f->lookups.fetch_sub(count) == count) {
    const std::unique_lock lock(names_mutex);
    inodes.erase(ino);
  }
  ::fuse_reply_none(req);
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  const FileRef f = by_ino(ino);
  if (f == nullptr && ino != FUSE_ROOT_ID) return void(::fuse_reply_err(req, ENOENT));
  const struct stat s = attributes(ino, f.get());
  ::fuse_reply_attr(req, &s, 1.0);
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat* to, int what, fuse_file_info*) {
  const FileRef f = by_ino(ino);
  if (f != nullptr && (what & FUSE_SET_ATTR_SIZE) != 0) {
    const std::unique_lock lock(f->mutex);
    f->data.resize(static_cast<std::size_t>(to->st_size));
  }
  getattr(req, ino, nullptr);
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  const FileRef f = by_ino(ino);
  if (f == nullptr) return void(::fuse_reply_err(req, ENOENT));
  fi->fh = reinterpret_cast<uint64_t>(new FileRef(f));
  fi->direct_io = 1;
  ::fuse_reply_open(req, fi);
}

void create(fuse_req_t req, fuse_ino_t, const char* name, mode_t mode, fuse_file_info* fi) {
  auto f = std::make_shared<File>();
  f->mode = mode & 07777;
  {
    const std::unique_lock lock(names_mutex);
    if (!names.emplace(name, f).second) return void(::fuse_reply_err(req, EEXIST));
    f->ino = next_ino++;
    inodes[f->ino] = f;
  }
  fi->fh = reinterpret_cast<uint64_t>(new FileRef(f));
  fi->direct_io = 1;
  const fuse_entry_param e = entry(*f);
  ::fuse_reply_create(req, &e, fi);
}

void release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  delete reinterpret_cast<FileRef*>(fi->fh);
  ::fuse_reply_err(req, 0);
}

void unlink(fuse_req_t req, fuse_ino_t, const char* name) {
  std::size_t gone = 0;
  {
    const std::unique_lock lock(names_mutex);
    gone = names.erase(name);
  }
  ::fuse_reply_err(req, gone == 0 ? ENOENT : 0);
}

void read(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* fi) {
  File& f = **reinterpret_cast<FileRef*>(fi->fh);
  const std::shared_lock lock(f.mutex);
  const std::size_t at = std::min(static_cast<std::size_t>(offset), f.data.size());
  ::fuse_reply_buf(req, f.data.data() + at, std::min(size, f.data.size() - at));
}

void write(fuse_req_t req, fuse_ino_t, const char* bytes, std::size_t size, off_t offset, fuse_file_info* fi) {
  File& f = **reinterpret_cast<FileRef*>(fi->fh);
  const std::size_t end = static_cast<std::size_t>(offset) + size;
  {
    const std::unique_lock lock(f.mutex);
    if (f.data.size() < end) f.data.resize(end);
    std::memcpy(f.data.data() + offset, bytes, size);
  }
  ::fuse_reply_write(req, size);
}

fuse_lowlevel_ops operations() {
  fuse_lowlevel_ops ops{};
  ops.lookup = lookup;
  ops.forget = forget;
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.open = open;
  ops.create = create;
  ops.release = release;
  ops.unlink = unlink;
  ops.read = read;
  ops.write = write;
  return ops;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return ::write(2, "usage: memory_peer MOUNTPOINT [OPTIONS]\n", 40), 2;
  std::string program = argv[0], dash_o = "-o";
  char* arguments[] = {program.data(), dash_o.data(), argv[2], nullptr};
  fuse_args args{.argc = argc == 3 ? 3 : 1, .argv = arguments, .allocated = 0};
  const fuse_lowlevel_ops ops = operations();
  fuse_session* session = ::fuse_session_new(&args, &ops, sizeof ops, nullptr);
  if (session == nullptr || ::fuse_session_mount(session, argv[1]) != 0) return 4;
  fuse_loop_config* config = ::fuse_loop_cfg_create();
  ::fuse_loop_cfg_set_max_threads(config, 4);
  const int result = ::fuse_session_loop_mt(session, config);
  ::fuse_loop_cfg_destroy(config);
  ::fuse_session_unmount(session);
  ::fuse_session_destroy(session);
  ::fuse_opt_free_args(&args);
  return result == 0 ? 0 : 4;
}
