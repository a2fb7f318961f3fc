// SPDX-License-Identifier: BSD-3-Clause
//
// A client and a kernel that live in the test: shared memory in process, the library's own fast path, and a FIFO that the test
// reads. Schedules are made with step points (base/steps.h), never with sleeps.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/steps.h"
#include "catch.h"
#include "layout/client_port.h"
#include "proto/pin_fast_path.h"

namespace pindax::layout_test {

using namespace std::chrono_literals;
inline constexpr u64 kPage = kBlockSize;
constexpr ByteRange pages(u64 first, u64 count) { return {first * kPage, (first + count) * kPage}; }

// Waits until `condition`; false after ten seconds.
template <class F>
bool eventually(F&& condition) {
  for (int i = 0; i < 10000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

// A thread that arrives at `step` stays there until release(); arrived() waits for it. Acts once.
class StopAt {
 public:
  explicit StopAt(const char* step) : step_(step) {
    steps::arm(step, [this] {
      std::unique_lock lock(mutex_);
      if (arrived_) return;
      arrived_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return released_; });
    });
  }
  ~StopAt() {
    release();
    steps::disarm(step_);
  }
  bool arrived() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 10s, [this] { return arrived_; });
  }
  void release() {
    std::unique_lock lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  const char* step_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool arrived_ = false, released_ = false;
};

// Runs `hook` once, at the first arrival at `step`.
class OnceAt {
 public:
  OnceAt(const char* step, std::function<void()> hook) : step_(step) {
    steps::arm(step, [this, hook = std::move(hook)] {
      if (!done_.exchange(true)) hook();
    });
  }
  ~OnceAt() { steps::disarm(step_); }
  bool happened() const { return done_; }

 private:
  const char* step_;
  std::atomic<bool> done_{false};
};

class FakeClient : public ClientPort {
 public:
  struct Sent {
    bool recall = false;
    u64 id = 0;  // of the recall
    u32 mapping = 0;
    ByteRange range;
    u64 generation = 0;
    GrantPiece piece;
    bool downgrade = false;
  };
  static constexpr u32 kGates = 256, kSlots = 512;

  FakeClient(Layout& layout, u32 pid, bool shared_memory = true)
      : layout_(client_layout(layout)),
        shared_(shared_memory),
        gates_(std::make_unique<proto::Gate[]>(kGates)),
        slots_(std::make_unique<proto::Slot[]>(kSlots)) {
    identity_.session = pid;
    identity_.pid = pid;
  }

  // ---- ClientPort ----
  const ClientIdentity& identity() const override { return identity_; }
  proto::GateHeader* gate_header() override { return shared_ ? &gate_header_ : nullptr; }
  proto::Gate* gate(u32 mapping) override { return shared_ ? &gates_[mapping % kGates] : nullptr; }
  proto::SlotHeader* slot_header() override { return shared_ ? &slot_header_ : nullptr; }
  proto::Slot* slots() override { return shared_ ? slots_.get() : nullptr; }
  u64 send_grant(u32 mapping, const GrantPiece& piece, u64 generation) override {
    return push({false, 0, mapping, piece.range, generation, piece, false});
  }
  bool revocable() const override { return watched; }
  u64 processed() override { return carried_out; }
  void send_recall(u64 recall, u32 mapping, ByteRange range, bool downgrade) override {
    push({true, recall, mapping, range, 0, {}, downgrade});
    if (auto_ack) acknowledge_later(recall);
  }
  void send_pin_recall(u32 slot, u64 pin, std::chrono::milliseconds deadline) override {
    std::lock_guard lock(mutex_);
    asked_.push_back({slot, pin, deadline});
  }
  Status evict(const std::string&, std::optional<u32> as) override {
    ++evictions;
    evicted_as = as;
    if (evict_result != Errc::kOk) return Status(evict_result);
    if (on_evict) on_evict();
    return {};
  }
  void drain_doorbell() override { bell = 0; }
  bool poll_dead() override { return dead; }

  // ---- The library ----
  // Pins through the fast path; a slot of its own each. kMaxSlots: the slow path is needed.
  u32 try_pin(u32 mapping, ByteRange range, u32 thread = 1, u64 generation = 0, u32 kind = 0) {
    const u32 slot = new_slot();
    auto f = fields(mapping, range, thread);
    f.kind = kind;
    if (proto::fast_pin(gates_[mapping], slots_[slot], f, [this] { ring(); }, generation)) return slot;
    return proto::kMaxSlots;
  }
  void unpin(u32 slot) { proto::fast_unpin(slots_[slot], [this] { ring(); }); }
  // A slot in state asked, for a slow request.
  PinRequest ask(u32 mapping, ByteRange range, u32 thread = 1, u64 age = ~u64{0}, u32 kind = 0) {
    const u32 slot = new_slot();
    auto f = fields(mapping, range, thread);
    f.kind = kind;
    if (age != ~u64{0}) f.age = age;
    proto::publish_slot(slots_[slot], f, proto::SlotState::kAsked);
    PinRequest r;
    r.slot = slot;
    r.kind = kind;
    r.range = range;
    r.age = f.age;
    r.thread = thread;
    r.episode = f.episode;
    return r;
  }
  u64 age() const { return gate_header_.ticket.load(); }
  // As the server's loop does when the doorbell is readable.
  void ring() {
    ++bell;
    ++rings;
    layout_.doorbell(*this);
  }

  void acknowledge(u64 recall) { layout_.recall_acknowledged(*this, recall); }
  // Acknowledges the oldest recall that was not; false if there is none.
  bool acknowledge_next() {
    u64 id = 0;
    {
      std::lock_guard lock(mutex_);
      for (; acknowledged_ < sent_.size() && id == 0; ++acknowledged_)
        if (sent_[acknowledged_].recall) id = sent_[acknowledged_].id;
    }
    if (id != 0) acknowledge(id);
    return id != 0;
  }
  std::vector<Sent> sent() {
    std::lock_guard lock(mutex_);
    return sent_;
  }
  std::size_t recalls() {
    std::size_t n = 0;
    for (const Sent& s : sent()) n += s.recall ? 1 : 0;
    return n;
  }

  std::function<void(u64)> acknowledge_later = [](u64) {};
  struct Asked {
    u32 slot = 0;
    u64 pin = 0;
    std::chrono::milliseconds deadline{};
  };
  std::vector<Asked> asked() {
    std::lock_guard lock(mutex_);
    return asked_;
  }
  std::atomic<int> evictions{0};
  std::optional<u32> evicted_as;
  Errc evict_result = Errc::kOk;
  std::function<void()> on_evict;
  std::atomic<bool> auto_ack{false}, dead{false}, watched{false};
  std::atomic<u64> carried_out{0};
  std::atomic<int> bell{0}, rings{0};
  u32 episode = 1;

  proto::Slot& slot(u32 i) { return slots_[i]; }
  proto::SlotHeader& header() { return slot_header_; }
  u32 new_slot() {
    const u32 slot = next_slot_.fetch_add(1);
    PINDAX_ASSERT(slot < kSlots);
    slot_header_.high_water.store(slot + 1);
    return slot;
  }
  proto::PinFields fields(u32 mapping, ByteRange range, u32 thread) const {
    proto::PinFields f;
    f.mapping = mapping;
    f.begin = range.begin;
    f.end = range.end;
    f.age = age();
    f.thread = thread;
    f.episode = episode;
    return f;
  }

 private:
  u64 push(Sent s) {
    std::lock_guard lock(mutex_);
    sent_.push_back(std::move(s));
    return sent_.size();
  }

  ClientLayout& layout_;
  ClientIdentity identity_;
  const bool shared_;
  proto::GateHeader gate_header_{};
  proto::SlotHeader slot_header_{};
  std::unique_ptr<proto::Gate[]> gates_;
  std::unique_ptr<proto::Slot[]> slots_;
  std::atomic<u32> next_slot_{0};
  std::mutex mutex_;
  std::vector<Sent> sent_;
  std::vector<Asked> asked_;
  std::size_t acknowledged_ = 0;
};

class FakeKernel : public KernelCache {
 public:
  void drop(InodeNo, ByteRange range, std::function<void()> done) override {
    std::unique_lock lock(mutex_);
    ranges.push_back(range);
    if (!hold) {
      lock.unlock();
      return done();
    }
    waiting_.push_back(std::move(done));
  }
  void invalidate_attributes(InodeNo) override {}
  std::size_t drops() {
    std::lock_guard lock(mutex_);
    return ranges.size();
  }
  bool finish(std::size_t i) {
    std::function<void()> done;
    {
      std::lock_guard lock(mutex_);
      if (i >= waiting_.size()) return false;
      done = waiting_[i];
    }
    done();
    return true;
  }
  std::atomic<bool> hold{false};
  std::vector<ByteRange> ranges;  // read it when nothing runs

 private:
  std::mutex mutex_;
  std::vector<std::function<void()>> waiting_;
};

class FakeQuarantine : public QuarantineOwner {
 public:
  void release(u64 block, u64 length) override {
    std::lock_guard lock(mutex_);
    released_.push_back({block, length});
  }
  bool punch_freed(u64 block, u64 length) override {
    std::lock_guard lock(mutex_);
    punched_.push_back({block, length});
    return !punch_fails;
  }
  std::vector<std::pair<u64, u64>> released() {
    std::lock_guard lock(mutex_);
    return released_;
  }
  std::vector<std::pair<u64, u64>> punched() {
    std::lock_guard lock(mutex_);
    return punched_;
  }
  std::atomic<bool> punch_fails{false};

 private:
  std::mutex mutex_;
  std::vector<std::pair<u64, u64>> punched_;
  std::vector<std::pair<u64, u64>> released_;
};

// The outcome of a change.
struct Outcome {
  std::atomic<int> applied{0};
  std::atomic<int> ended{0};
  std::mutex mutex;
  Errc code = Errc::kOk;
  ChangeGrant grant;
  std::shared_ptr<Change> handle;
  bool done() const { return ended == 1; }
  bool wait() {
    return eventually([&] { return ended == 1; });
  }
  Errc result() {
    REQUIRE(wait());
    std::lock_guard lock(mutex);
    return code;
  }
};

struct Fixture {
  explicit Fixture(LayoutOptions options = quick()) : executor(2), layout(Layout::create(executor, options)) {
    layout->set_kernel_cache(&kernel);
    layout->set_quarantine_owner(&quarantine);
    inode = layout->attach(InodeNo(7));
  }
  ~Fixture() {
    steps::disarm_all();
    inode.reset();
    executor.drain();
    executor.stop();
  }
  // Periods so long that only the event under test can be the reason for what happens.
  static LayoutOptions quick() {
    LayoutOptions o;
    o.rescan_period = 60s;
    return o;
  }

  std::shared_ptr<FakeClient> client(u32 pid, bool shared_memory = true) {
    auto c = std::make_shared<FakeClient>(*layout, pid, shared_memory);
    c->acknowledge_later = [this, weak = std::weak_ptr<FakeClient>(c)](u64 recall) {
      executor.post([weak, recall] {
        if (auto strong = weak.lock()) strong->acknowledge(recall);
      });
    };
    clients().add_client(c);
    return c;
  }
  ClientLayout& clients() { return client_layout(*layout); }
  Mapping* map(FakeClient& c, u32 id, ByteRange range) { return clients().add_mapping(*inode, c, id, range, true); }

  static ChangeRequest request(ByteRange range, const char* operation = "punch") {
    ChangeRequest r;
    r.operation = operation;
    r.lock_range = r.break_range = range;
    r.requester = {1, 1, 0, "truncater"};
    return r;
  }
  std::shared_ptr<Outcome> change(const ChangeRequest& r, std::function<void(const ChangeGrant&)> apply = nullptr) {
    auto o = std::make_shared<Outcome>();
    auto handle = layout->change(
        *inode, r,
        [o, apply](const ChangeGrant& g) {
          {
            std::lock_guard lock(o->mutex);
            o->grant = g;
          }
          ++o->applied;
          if (apply) apply(g);
          return Status();
        },
        [o](Status s) {
          std::lock_guard lock(o->mutex);
          o->code = s.code();
          ++o->ended;
        });
    std::lock_guard lock(o->mutex);
    o->handle = handle;
    return o;
  }
  std::shared_ptr<Outcome> punch(ByteRange range) { return change(request(range)); }

  // A direct fault as the server serves it: under a hold, look up and grant. `block` 0: a hole.
  Errc fault(Mapping* m, ByteRange range, u64 block = 1, bool write = false, bool copied = false) {
    return fault_as(m, range, write ? FaultKind::kWrite : FaultKind::kRead, block, write, copied);
  }
  Errc fault_as(Mapping* m, ByteRange range, FaultKind kind, u64 block, bool write, bool copied = false) {
    auto code = std::make_shared<std::atomic<int>>(-1);
    clients().with_fault(*m, range, kind, [this, m, range, block, write, copied, code](Result<SharedHold> hold) {
      if (hold.ok()) {
        GrantPiece piece;
        piece.kind = block == 0 ? GrantPiece::Kind::kHole : GrantPiece::Kind::kBlocks;
        piece.range = range;
        piece.pool_offset = block * kPage;
        piece.writable = write;
        piece.copied = copied;
        clients().grant(*m, *hold, {piece});
      }
      *code = static_cast<int>(hold.code());
    });
    PINDAX_ASSERT(eventually([&] { return *code != -1; }));  // not Catch: any thread may call this
    return static_cast<Errc>(code->load());
  }
  struct Fill {
    std::atomic<int> ended{0};
    std::atomic<int> code{-1};
    std::shared_ptr<Change> handle;
    bool wait() {
      return eventually([&] { return ended == 1; });
    }
  };
  std::shared_ptr<Fill> fill(ByteRange range, bool writable) {
    auto f = std::make_shared<Fill>();
    f->handle = layout->with_fill(*inode, range, writable, [f](Result<SharedHold> hold) {
      f->code = static_cast<int>(hold.code());
      ++f->ended;
    });
    return f;
  }
  struct Pin {
    std::atomic<int> ended{0};
    std::atomic<int> code{-1};
    std::atomic<u64> id{0};
    std::shared_ptr<Change> handle;
    bool wait() {
      return eventually([&] { return ended == 1; });
    }
  };
  std::shared_ptr<Pin> pin(Mapping* m, const PinRequest& r) {
    auto p = std::make_shared<Pin>();
    p->handle = clients().pin(*m, r, [p](Result<u64> result) {
      p->code = static_cast<int>(result.code());
      if (result.ok()) p->id = *result;
      ++p->ended;
    });
    return p;
  }
  // Waits until the number of operations in `phase` is n.
  bool waiting(std::size_t n, const char* phase = "waiting for pins") {
    return eventually([&] {
      std::size_t found = 0;
      for (const ChangeRow& row : clients().list_changes()) found += row.phase == phase ? 1 : 0;
      return found == n;
    });
  }
  void settle() { executor.drain(); }

  Executor executor;
  FakeKernel kernel;
  FakeQuarantine quarantine;
  std::unique_ptr<Layout> layout;
  InodeLayoutPtr inode;
};

}  // namespace pindax::layout_test
