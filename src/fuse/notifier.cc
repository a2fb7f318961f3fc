// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/notifier.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <thread>

#include "base/steps.h"
#include "base/unique_fd.h"
#include "fs/file_system.h"

namespace pindax {
namespace {

constexpr std::chrono::seconds kIdleTime{10};

// A file handle as the kernel's fuse_encode_fh makes it: node id in two halves, generation.
// Opens no path, sends no LOOKUP while the kernel has the inode, and finds unlinked files too.
struct NodeHandle {
  alignas(struct file_handle) std::array<unsigned char, sizeof(struct file_handle) + 3 * sizeof(u32)> bytes{};

  NodeHandle(NodeId node, u32 generation) {
    constexpr int kFileidInoGen = 0x81;  // FILEID_INO64_GEN
    struct file_handle head {};
    head.handle_bytes = 3 * sizeof(u32);
    head.handle_type = kFileidInoGen;
    std::memcpy(bytes.data(), &head, sizeof head);
    const u32 words[3] = {static_cast<u32>(node >> 32), static_cast<u32>(node), generation};
    std::memcpy(bytes.data() + sizeof head, words, sizeof words);
  }
  struct file_handle* get() {
    return reinterpret_cast<struct file_handle*>(bytes.data());
  }
};

// GETATTR of `fd` itself, whatever the kernel has cached.
void force_getattr(int fd) {
  struct statx ignored {};
  (void)::statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &ignored);
}

}  // namespace

void Notifier::connect(fuse_session* session, std::string mount_point) {
  MutexLock lock(mutex_);
  session_ = session;
  mount_point_ = std::move(mount_point);
}

void Notifier::disconnect() {
  MutexLock lock(mutex_);
  session_ = nullptr;
  while (using_session_ != 0) ended_.wait(mutex_);
}

void Notifier::stop() {
  MutexLock lock(mutex_);
  stopping_ = true;
  work_.notify_all();
  while (threads_ != 0) ended_.wait(mutex_);
  stopping_ = false;
}

void Notifier::drop(InodeNo ino, ByteRange range, std::function<void()> done) {
  push({ino, range.empty() ? ByteRange{0, kMaxOffset} : range, std::move(done), {}});
}

void Notifier::invalidate_attributes(InodeNo ino) {
  if (!nodes_.knows(ino)) return;
  {
    MutexLock lock(mutex_);
    if (!refreshing_.insert(ino.value).second) return;
  }
  push({ino, ByteRange{}, {}, {}});
}

void Notifier::refresh(InodeNo ino, bool resized, std::function<void()> done) {
  if (!nodes_.knows(ino)) return done();  // what the kernel learns from now on is new
  push({ino, ByteRange{}, std::move(done), {}, resized});
}

void Notifier::forget_name(InodeNo dir, std::string name, std::function<void()> done) {
  if (!nodes_.knows(dir)) return done();
  push({dir, ByteRange{}, std::move(done), std::move(name)});
}

void Notifier::push(Job job) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(job));
  if (queue_.size() <= idle_) {
    work_.notify_one();
  } else if (threads_ < kMaxThreads) {
    ++threads_;
    std::thread([this] { run(); }).detach();
  }
}

void Notifier::run() {
  ::pthread_setname_np(::pthread_self(), "pindax-notify");
  mutex_.lock();
  for (;;) {
    if (!queue_.empty()) {
      Job job = std::move(queue_.front());
      queue_.pop_front();
      mutex_.unlock();
      carry_out(job);
      if (job.done) job.done();
      job = Job{};
      mutex_.lock();
      continue;
    }
    if (stopping_) break;
    ++idle_;
    const bool timed_out = work_.wait_for(mutex_, kIdleTime) == std::cv_status::timeout;
    --idle_;
    if (timed_out && queue_.empty()) break;
  }
  --threads_;
  ended_.notify_all();
  mutex_.unlock();
}

void Notifier::carry_out(const Job& job) {
  fuse_session* session = nullptr;
  std::string mount_point;
  const bool known = nodes_.knows(job.ino);
  {
    MutexLock lock(mutex_);
    if (job.range.empty() && !job.done) refreshing_.erase(job.ino.value);
    if (session_ == nullptr || !known) return;
    session = session_;
    mount_point = mount_point_;
    ++using_session_;
  }
  lock_check::assert_none_held();
  PINDAX_STEP("fuse.notify");
  const NodeId node = nodes_.node_of(job.ino);
  if (!job.name.empty()) {
    (void)::fuse_lowlevel_notify_inval_entry(session, node, job.name.data(), job.name.size());
    (void)::fuse_lowlevel_notify_inval_inode(session, node, -1, 0);
  } else if (job.range.empty() && !job.resized) {
    (void)::fuse_lowlevel_notify_inval_inode(session, node, -1, 0);
  } else if (job.range.empty()) {
    get_attributes(session, mount_point, job.ino);
  } else if (job.range.end == kMaxOffset) {  // to the end of the file: length 0 says so
    (void)::fuse_lowlevel_notify_inval_inode(session, node,
                                             static_cast<off_t>(round_down(job.range.begin, kBlockSize)), 0);
  } else {
    const ByteRange pages = block_aligned(job.range);
    for (u64 at = pages.begin; at < pages.end; at += kBlockSize) {
      const int r = ::fuse_lowlevel_notify_inval_inode(session, node, static_cast<off_t>(at), kBlockSize);
      if (r == -ENOENT || r == -ENODEV) break;  // the kernel has let go of the inode, or of the mount
    }
  }
  MutexLock lock(mutex_);
  --using_session_;
  ended_.notify_all();
}

// C7. Forgetting the attributes is not enough: the kernel appends at, maps up to and splices to the size that
// it knows, until a GETATTR tells it another. The request comes back to our own workers; this thread serves
// none.
void Notifier::get_attributes(fuse_session* session, const std::string& mount_point, InodeNo ino) {
  const NodeId node = nodes_.node_of(ino);
  if (::fuse_lowlevel_notify_inval_inode(session, node, -1, 0) != 0) return;
  const InodeRef inode = nodes_.find(node);
  if (inode == nullptr || mount_point.empty()) return;
  const UniqueFd root(::open(mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return;
  NodeHandle handle(node, inode->generation);
  const UniqueFd file(::open_by_handle_at(root.get(), handle.get(), O_PATH | O_CLOEXEC));
  if (file) {
    force_getattr(file.get());
    return;
  }
  // Without CAP_DAC_READ_SEARCH: by one of its names.
  for (const std::string& path : inode->owner.paths(ino, 1)) {
    struct statx ignored {};
    (void)::statx(AT_FDCWD, (mount_point + path).c_str(),
                  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_FORCE_SYNC, STATX_SIZE, &ignored);
  }
}

}  // namespace pindax
