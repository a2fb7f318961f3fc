// SPDX-License-Identifier: BSD-3-Clause
//
// The only locks of the project: annotated for clang's thread-safety analysis and
// ranked. A thread may take a lock only if its rank is greater than every rank it
// holds (equal where the rank says "ordered by key"); an inversion aborts at once.
// docs/concurrency.md explains each rank and who may wait for whom.
#pragma once

#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define PINDAX_TSA(x) __attribute__((x))
#else
#define PINDAX_TSA(x)
#endif
#define CAPABILITY(x) PINDAX_TSA(capability(x))
#define SCOPED_CAPABILITY PINDAX_TSA(scoped_lockable)
#define GUARDED_BY(x) PINDAX_TSA(guarded_by(x))
#define PT_GUARDED_BY(x) PINDAX_TSA(pt_guarded_by(x))
#define REQUIRES(...) PINDAX_TSA(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) PINDAX_TSA(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) PINDAX_TSA(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) PINDAX_TSA(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) PINDAX_TSA(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) PINDAX_TSA(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) PINDAX_TSA(release_generic_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) PINDAX_TSA(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) PINDAX_TSA(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS PINDAX_TSA(no_thread_safety_analysis)

namespace pindax {

// Outermost first. Ranks marked (key) may be held several at a time, in ascending order of a key (inode number).
enum class LockRank : int {
  kDaemon = 10,        // start, stop, mount table
  kServer = 20,        // table of client sessions
  kClient = 30,        // one session
  kSync = 34,          // one inode's fsync; held while waiting for the media
  kRename = 36,        // renames that move a directory to another parent
  kInode = 40,         // (key) one inode's metadata: attributes, extent tree, directory tree
  kInodeCache = 50,    // a shard of the inode cache
  kLayout = 60,        // one inode's range lock, mappings, breaks, page-cache owners
  kWaitGraph = 65,     // the waits-for graph
  kClientQueue = 70,   // one client's outgoing FIFO and gate page
  kExecutor = 75,      // task queues
  kOrphans = 78,       // orphan tree, held by a transaction until it commits
  kQuarantine = 80,    // quarantine tree, likewise
  kAllocGroup = 90,    // (key) one allocation group in memory
  kCommit = 100,       // journal append; allocation bitmaps
  kCheckpoint = 105,   // only ever taken before kCommit is released, never while waiting for media: see journal
  kOverlay = 110,      // a shard of the staged metadata blocks
  kPool = 120,         // mapping of allocation groups
  kLeaf = 1000,        // nothing else is taken under it
};

namespace lock_check {
void acquired(LockRank rank, const void* lock);
void released(LockRank rank, const void* lock);
void before_acquire(LockRank rank, const void* lock);
bool is_ordered_by_key(LockRank rank);
// Aborts if this thread holds any ranked lock: call before anything that can wait for a client or the kernel.
void assert_none_held();
}  // namespace lock_check

class CAPABILITY("mutex") Mutex {
 public:
  explicit Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE() {
    lock_check::before_acquire(rank_, this);
    mutex_.lock();
    lock_check::acquired(rank_, this);
  }
  bool try_lock() TRY_ACQUIRE(true) {
    if (!mutex_.try_lock()) return false;
    lock_check::acquired(rank_, this);
    return true;
  }
  void unlock() RELEASE() {
    lock_check::released(rank_, this);
    mutex_.unlock();
  }

 private:
  friend class CondVar;
  std::mutex mutex_;
  const LockRank rank_;
};

class CAPABILITY("shared_mutex") SharedMutex {
 public:
  explicit SharedMutex(LockRank rank) : rank_(rank) {}
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;

  void lock() ACQUIRE() {
    lock_check::before_acquire(rank_, this);
    mutex_.lock();
    lock_check::acquired(rank_, this);
  }
  void unlock() RELEASE() {
    lock_check::released(rank_, this);
    mutex_.unlock();
  }
  void lock_shared() ACQUIRE_SHARED() {
    lock_check::before_acquire(rank_, this);
    mutex_.lock_shared();
    lock_check::acquired(rank_, this);
  }
  void unlock_shared() RELEASE_SHARED() {
    lock_check::released(rank_, this);
    mutex_.unlock_shared();
  }

 private:
  std::shared_mutex mutex_;
  const LockRank rank_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class SCOPED_CAPABILITY WriteLock {
 public:
  explicit WriteLock(SharedMutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~WriteLock() RELEASE() { mutex_.unlock(); }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  SharedMutex& mutex_;
};

class SCOPED_CAPABILITY ReadLock {
 public:
  explicit ReadLock(SharedMutex& m) ACQUIRE_SHARED(m) : mutex_(m) { mutex_.lock_shared(); }
  ~ReadLock() RELEASE_GENERIC() { mutex_.unlock_shared(); }
  ReadLock(const ReadLock&) = delete;
  ReadLock& operator=(const ReadLock&) = delete;

 private:
  SharedMutex& mutex_;
};

// Waits drop the mutex and take it again; the rank stays on the thread's books meanwhile.
class CondVar {
 public:
  void wait(Mutex& m) REQUIRES(m) {
    std::unique_lock<std::mutex> lock(m.mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  template <class Duration>
  std::cv_status wait_for(Mutex& m, Duration d) REQUIRES(m) {
    std::unique_lock<std::mutex> lock(m.mutex_, std::adopt_lock);
    auto r = cv_.wait_for(lock, d);
    lock.release();
    return r;
  }
  void notify_one() { cv_.notify_one(); }
  void notify_all() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace pindax
