// SPDX-License-Identifier: BSD-3-Clause
//
// KernelCache over a mount: drops the kernel's pages, attributes and names by notifications on the FUSE device.
//
// A notification may block: behind a fill of its page that is not answered yet, behind write-back that needs
// our own workers, behind a SETATTR that waits, behind another change of the directory. So (C2)
//  1. it runs on threads that serve no requests and hold no lock;
//  2. a call covers one page, so that it can block only behind a fill of that page;
//  3. every job that finds no idle thread gets a new one: a blocked job never holds up another.
// Threads that found nothing to do for a while end.
#pragma once

#include <deque>
#include <string>
#include <unordered_set>

#include "fuse/node_table.h"
#include "layout/layout.h"

struct fuse_session;

namespace pindax {

class Notifier : public KernelCache {
 public:
  explicit Notifier(const NodeTable& nodes) : nodes_(nodes) {}
  ~Notifier() override { stop(); }

  // The mount that answers; `generation` of its inodes is looked up for refreshes. Until connect() and after
  // disconnect() the kernel caches nothing, so that jobs are done at once.
  void connect(fuse_session* session, std::string mount_point) EXCLUDES(mutex_);
  void disconnect() EXCLUDES(mutex_);
  // Ends the threads after the jobs that are queued. The connection must have ended, so that none blocks for
  // ever.
  void stop() EXCLUDES(mutex_);

  void drop(InodeNo ino, ByteRange range, std::function<void()> done) override EXCLUDES(mutex_);
  void invalidate_attributes(InodeNo ino) override EXCLUDES(mutex_);
  // As invalidate_attributes, and `done` runs, on any thread, once the kernel has forgotten them and, if `resized`, knows the new size.
  void refresh(InodeNo ino, bool resized, std::function<void()> done) EXCLUDES(mutex_);
  // `name` of directory `dir` means something else now, or nothing: `done` runs, on any thread, once the kernel has forgotten
  // what it meant, and the directory's times.
  void forget_name(InodeNo dir, std::string name, std::function<void()> done) EXCLUDES(mutex_);

 private:
  struct Job {
    InodeNo ino;
    ByteRange range;  // empty: attributes
    std::function<void()> done;
    std::string name;  // not empty: this name of the directory `ino`, and its attributes
    bool resized = true;  // of attributes
  };
  void push(Job job) EXCLUDES(mutex_);
  void run() EXCLUDES(mutex_);
  void carry_out(const Job& job) EXCLUDES(mutex_);
  void get_attributes(fuse_session* session, const std::string& mount_point, InodeNo ino);

  static constexpr unsigned kMaxThreads = 512;

  const NodeTable& nodes_;
  Mutex mutex_{LockRank::kLeaf};
  CondVar work_, ended_;
  std::deque<Job> queue_ GUARDED_BY(mutex_);
  std::unordered_set<u64> refreshing_ GUARDED_BY(mutex_);  // inodes whose refresh is queued and not begun
  fuse_session* session_ GUARDED_BY(mutex_) = nullptr;
  std::string mount_point_ GUARDED_BY(mutex_);
  unsigned using_session_ GUARDED_BY(mutex_) = 0;
  unsigned idle_ GUARDED_BY(mutex_) = 0;
  unsigned threads_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
};

}  // namespace pindax
