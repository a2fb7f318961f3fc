// SPDX-License-Identifier: BSD-3-Clause
//
// Serves the client library and the command-line tools on a unix socket (SOCK_SEQPACKET).
//
// One thread waits for everything: sockets, doorbells, ends of processes, timers. It never waits for a client: what must wait
// (pins, breaks, full sockets) is a continuation that runs elsewhere when its time comes.
//
// Death and restart (D1, D2). A client's pins end when its socket hangs up or its process ends. Its blocks are released only
// when its address space is gone and its witness byte is free; until then the server looks again, every few
// milliseconds at first. At start, witness bytes that are still held belong to clients of an earlier daemon: freed blocks go to
// quarantine until they are gone too.
#pragma once

#include <memory>
#include <set>
#include <thread>
#include <tuple>

#include "server/context.h"
#include "server/session.h"

namespace pindax {

class Server {
 public:
  // Listens and serves on return. The file system, the pool and the executor behind them outlive the server. An old
  // socket of a dead daemon is replaced; kBusy if somebody answers there.
  static Result<std::unique_ptr<Server>> start(FileSystem& fs, ServerOptions options);
  ~Server();  // stop()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Tells clients that the daemon ends, hangs up on them, interrupts what waits for them. Their witness bytes stay, so
  // that the next daemon knows of them. Idempotent. Any thread but the loop's and the executor's.
  void stop();

  // For the mount's ioctls (proto/mount_ioctl.h). Thread-safe.
  TokenTable& tokens() { return context_.tokens; }
  const ServerOptions& options() const { return context_.options; }
  // Called once when a tool asks the daemon to end; any thread. Set before the first client can ask.
  void set_shutdown(std::function<void()> callback) EXCLUDES(mutex_);
  // Outlives the server's last request; null: no mount.
  void set_kernel_view(KernelView* view) { context_.kernel_view.store(view); }

 private:
  Server(FileSystem& fs, ServerOptions options);
  Status listen();
  void run();
  void accept_clients();
  bool turn_away();
  void serve(u64 tag, u32 events);
  void end_session(const std::shared_ptr<Session>& session, const Status& why);
  void housekeeping();
  void watch_former_clients();
  void watch_stuck_pins();
  int timeout_ms();

  using Clock = std::chrono::steady_clock;
  ServerContext context_;
  UniqueFd epoll_, listener_, wake_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};

  Mutex mutex_{LockRank::kServer};
  std::map<u64, std::shared_ptr<Session>> sessions_ GUARDED_BY(mutex_);
  std::function<void()> shutdown_ GUARDED_BY(mutex_);

  // Loop thread.
  UniqueFd spare_;  // a descriptor to give up when no other is left
  std::map<u64, std::shared_ptr<Session>> dying_;  // hung up, memory perhaps not gone
  u64 next_session_ = 1;
  Clock::time_point next_housekeeping_;
  std::chrono::milliseconds burial_pause_{1};
  std::vector<u32> former_witnesses_;
  std::vector<u32> reserved_witnesses_;  // all that were held at the start, until the last one is free
  Clock::time_point next_former_check_;
  std::set<std::tuple<u64, u32, u64>> stuck_;  // pins that were logged and still last: session, slot, publication
};

}  // namespace pindax
