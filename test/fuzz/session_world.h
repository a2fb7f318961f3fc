// SPDX-License-Identifier: BSD-3-Clause
//
// A file system and one session of its server, whose other end is the fuzz target: no server loop, so that every input runs
// step by step. The pool is a small file, which the client maps as a real one would.
#pragma once

#include <set>

#include "fuzz/input.h"
#include "server/session.h"

namespace pindax::fuzz {

class World {
 public:
  World();   // mounts, connects
  ~World();  // the client dies; everything that waited must end, and the session must be buried

  // ---- The client ----
  // Says hello and attaches its slot area; `direct` with a descriptor of the pool.
  void attach(bool direct);
  // One packet, any bytes. The session handles it, and what it sets off runs.
  void send(std::string_view packet, const std::vector<int>& descriptors = {});
  template <class Body>
  void request(proto::Type type, const Body& body, std::string_view tail = {}) {
    std::string packet(sizeof(proto::Header), 0);
    packet.append(reinterpret_cast<const char*>(&body), sizeof body);
    packet.append(tail);
    const proto::Header h{.type = type, .size = static_cast<u32>(packet.size()), .request = next_request_++};
    std::memcpy(packet.data(), &h, sizeof h);
    send(packet);
  }
  // Reads what the daemon sent; keeps recalls for acknowledge().
  void receive();
  void acknowledge(std::size_t most);
  proto::Slot& slot(u32 index) { return reinterpret_cast<proto::Slot*>(slots_ + proto::kSlotOffset)[index]; }
  proto::SlotHeader& slot_header() { return *reinterpret_cast<proto::SlotHeader*>(slots_); }
  // As the daemon's own view of what the client may read.
  proto::Gate* gate(u32 mapping) { return session_->gate(mapping); }
  void ring();
  bool alive() const { return alive_; }
  u64 last_request() const { return next_request_ - 1; }
  int slot_fd() const { return slot_fd_.get(); }
  int doorbell_fd() const { return doorbell_.get(); }
  int pool_fd() const { return pool_fd_.get(); }

  // ---- The file system below ----
  FileSystem& fs();
  // A layout change by somebody else. With policy kRefuse it must end by itself, however the client behaves.
  void change(const std::string& path, int how, ByteRange range, BusyPolicy policy, u32 deadline_ms);
  void settle();  // what can run, runs
  void list();    // all listings

 private:
  struct Waiting {
    std::shared_ptr<Change> change;
    bool done = false;
  };

  ServerContext context_;
  UniqueFd epoll_;
  UniqueFd client_;          // our end
  UniqueFd death_;           // stands for the client's pidfd
  UniqueFd slot_fd_, doorbell_, pool_fd_;
  char* slots_ = nullptr;
  std::shared_ptr<Session> session_;
  bool alive_ = true;
  u64 next_request_ = 1;
  std::set<u64> recalls_;
  std::vector<std::shared_ptr<Waiting>> waiting_;
};

}  // namespace pindax::fuzz
