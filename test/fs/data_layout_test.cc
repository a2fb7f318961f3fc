// SPDX-License-Identifier: BSD-3-Clause
//
// The data half together with the layout room: pins and translations in the way of changes.
#include <fcntl.h>

#include <future>

#include "data_helpers.h"
#include "layout/fixture.h"

using namespace pindax;
using namespace pindax::test;
using layout_test::eventually;
using layout_test::FakeClient;
using layout_test::pages;

namespace {

// A client that maps one file and acknowledges recalls, unless told otherwise.
struct Client {
  World& w;
  InodeRef file;
  std::shared_ptr<FakeClient> port;
  Mapping* mapping = nullptr;

  Client(World& world, const InodeRef& inode, u32 pid = 100) : w(world), file(inode) {
    Layout& layout = w.fs().layout();
    port = std::make_shared<FakeClient>(layout, pid);
    port->acknowledge_later = [p = port.get(), &executor = w.fs().executor()](u64 recall) {
      executor.post([p, recall] { p->acknowledge(recall); });
    };
    port->auto_ack = true;
    client_layout(layout).add_client(port);
    mapping = client_layout(layout).add_mapping(*file->layout(), *port, 1, {0, u64{1} << 30}, true);
  }
  ~Client() {
    client_layout(w.fs().layout()).client_gone(*port);
    client_layout(w.fs().layout()).client_memory_gone(*port);
  }
  // A fault: looks the range up and grants it.
  std::vector<Translation> fault(ByteRange range, bool write) {
    std::promise<std::vector<Translation>> result;
    client_layout(w.fs().layout()).with_fault(*mapping, range, write ? FaultKind::kWrite : FaultKind::kRead, [&](Result<SharedHold> hold) {
      auto found = w.fs().translate(*file, range, write).value();
      std::vector<GrantPiece> pieces;
      for (const Translation& t : found) {
        GrantPiece p;
        p.range = {t.file_offset, t.file_offset + t.length};
        p.kind = t.kind == Translation::Kind::kBlocks ? GrantPiece::Kind::kBlocks : GrantPiece::Kind::kHole;
        p.pool_offset = t.pool_offset.value;
        p.writable = t.writable;
        pieces.push_back(p);
      }
      client_layout(w.fs().layout()).grant(*mapping, *hold, pieces);
      hold->release();
      result.set_value(std::move(found));
    });
    return result.get_future().get();
  }
  u32 pin(ByteRange range) {
    const u32 slot = port->try_pin(1, range);
    REQUIRE(slot != proto::kMaxSlots);
    return slot;
  }
};

// A change under way.
struct Pending {
  std::shared_ptr<std::promise<Status>> promise = std::make_shared<std::promise<Status>>();
  std::future<Status> future = promise->get_future();
  std::shared_ptr<Change> handle;

  FileSystem::DoneStatus callback() {
    return [p = promise](Status s) { p->set_value(std::move(s)); };
  }
  bool waits() { return future.wait_for(std::chrono::milliseconds(30)) == std::future_status::timeout; }
  Errc result() {
    REQUIRE(future.wait_for(std::chrono::seconds(10)) == std::future_status::ready);
    return future.get().code();
  }
};

Pending truncate(World& w, const InodeRef& f, u64 size, const FileSystem::ChangeContext& context = {}) {
  Pending p;
  p.handle = w.fs().truncate(f, size, context, p.callback());
  return p;
}
Pending punch(World& w, const InodeRef& f, ByteRange range) {
  Pending p;
  p.handle = w.fs().fallocate(f, kPunch, range.begin, range.length(), {}, p.callback());
  return p;
}

}  // namespace

TEST_CASE("fs: [R1] a punch of pinned blocks waits, and frees them when the pin ends") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  Client c(w, f);
  c.fault(pages(0, 8), true);
  const u32 slot = c.pin(pages(3, 1));
  auto p = punch(w, f, pages(2, 3));
  CHECK(p.waits());
  CHECK(w.slot(f).blocks == 8);
  CHECK(w.contents(f) == text('x', 8 * kBlockSize));
  c.port->unpin(slot);
  CHECK(p.result() == Errc::kOk);
  CHECK(w.slot(f).blocks == 5);
  CHECK(c.port->recalls() > 0);
}

TEST_CASE(
    "fs: [R13] pins right before and behind a punched range do not hold it up, one on its last page does") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  Client c(w, f);
  c.pin(pages(1, 1));
  c.pin(pages(4, 1));
  CHECK(punch(w, f, pages(2, 2)).result() == Errc::kOk);
  const u32 last = c.pin(pages(3, 1));
  auto p = punch(w, f, pages(2, 2));
  CHECK(p.waits());
  c.port->unpin(last);
  CHECK(p.result() == Errc::kOk);
}

TEST_CASE("fs: [R14] a truncate to 0 sees a pin on any page; one inside a block sees a pin on that block") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 8 * kBlockSize)).ok());
  Client c(w, f);
  for (const u64 page : {u64{0}, u64{7}}) {
    const u32 slot = c.pin(pages(page, 1));
    auto p = truncate(w, f, 0);
    CHECK(p.waits());
    p.handle->interrupt();
    CHECK(p.result() == Errc::kInterrupted);
    c.port->unpin(slot);
  }
  CHECK(w.contents(f) == text('x', 8 * kBlockSize));
  const u32 cut = c.pin(pages(2, 1));
  CHECK(truncate(w, f, 3 * kBlockSize).result() == Errc::kOk);
  auto p = truncate(w, f, 2 * kBlockSize + 100);
  CHECK(p.waits());
  c.port->unpin(cut);
  CHECK(p.result() == Errc::kOk);
  CHECK(w.contents(f) == text('x', 2 * kBlockSize + 100));
}

TEST_CASE("fs: [R9] an interrupted or refused truncate leaves size, blocks and times as they were") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  Client c(w, f);
  const u32 slot = c.pin(pages(0, 1));
  const auto before = w.slot(f);
  auto p = truncate(w, f, 0);
  CHECK(p.waits());
  // Appends and reads go on while it sleeps.
  CHECK(w.append(f, "end").value() == 3);
  CHECK(w.read(f, 4 * kBlockSize, 10).value() == "end");
  p.handle->interrupt();
  CHECK(p.result() == Errc::kInterrupted);
  FileSystem::ChangeContext refuse;
  refuse.policy = BusyPolicy::kRefuse;
  CHECK(truncate(w, f, 0, refuse).result() == Errc::kTextBusy);
  CHECK(w.fs().size(*f).value() == before.size_bytes + 3);
  CHECK(w.slot(f).blocks == 5);
  c.port->unpin(slot);
}

TEST_CASE(
    "fs: [R19] a write into a hole that a client reads as zeros takes the zeros away first; a pin of it does "
    "not matter") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.truncate(f, 8 * kBlockSize).ok());
  Client c(w, f);
  CHECK(c.fault(pages(0, 8), false).at(0).kind == Translation::Kind::kHole);
  const u32 slot = c.pin(pages(2, 1));
  c.port->auto_ack = false;
  std::promise<Result<u64>> written;
  auto future = written.get_future();
  std::string data = text('w', 100);
  FileSystem::WriteRequest request;
  request.offset = 2 * kBlockSize;
  request.data = std::as_bytes(std::span(data));
  w.fs().write(f, request, [&](Result<u64> n) { written.set_value(std::move(n)); });
  std::fill(data.begin(), data.end(), '?');  // it was queued, so it has a copy
  REQUIRE(eventually([&] { return c.port->recalls() > 0; }));
  CHECK(future.wait_for(std::chrono::milliseconds(30)) == std::future_status::timeout);
  while (c.port->acknowledge_next()) {
  }
  c.port->auto_ack = true;
  REQUIRE(future.wait_for(std::chrono::seconds(10)) == std::future_status::ready);
  CHECK(future.get().value() == 100);
  CHECK(w.read(f, 2 * kBlockSize, 101).value() == text('w', 100) + text('\0', 1));
  CHECK(c.fault(pages(2, 1), false).at(0).kind == Translation::Kind::kBlocks);
  c.port->unpin(slot);
}

TEST_CASE("fs: a write in place disturbs neither pins nor translations") {
  World w;
  auto f = w.create("f");
  REQUIRE(w.write(f, 0, text('x', 4 * kBlockSize)).ok());
  Client c(w, f);
  const auto t = c.fault(pages(0, 4), true);
  const u32 slot = c.pin(pages(0, 4));
  CHECK(w.write(f, 100, "new").value() == 3);
  CHECK(w.append(f, "more").value() == 4);
  CHECK(std::memcmp(w.media().view(t.at(0).pool_offset + 100, 3), "new", 3) == 0);
  CHECK(c.port->recalls() == 0);
  c.port->unpin(slot);
}

TEST_CASE(
    "fs: with policy quarantine a truncate completes at once, and pinned blocks rest until the pin ends "
    "[R32]") {
  World w(16u << 20);
  auto f = w.create("f");
  const u64 free_at_start = w.free_blocks();
  REQUIRE(w.write(f, 0, text('q', 8 * kBlockSize)).ok());
  Client c(w, f);
  const auto t = c.fault(pages(0, 8), true);
  const u32 slot = c.pin(pages(2, 3));
  FileSystem::ChangeContext context;
  context.policy = BusyPolicy::kQuarantine;
  CHECK(truncate(w, f, 100, context).result() == Errc::kOk);
  CHECK(w.slot(f).blocks == 1);
  auto resting = w.fs().allocator().quarantined().value();
  u64 blocks = 0;
  for (const auto& q : resting) blocks += q.run.length;
  CHECK(blocks == 3);
  CHECK(w.free_blocks() <= free_at_start - 1 - 3);  // the list of them takes a block too
  // Nobody gets them: what the pin shows stays.
  auto g = w.create("g");
  REQUIRE(w.fs().allocator().reclaim().ok());
  while (w.append(g, text('g', 1u << 20)).ok()) {
  }
  CHECK(*w.media().view(t.at(0).pool_offset + 3 * kBlockSize, 1) == std::byte{'q'});
  CHECK(w.append(g, "g").code() == Errc::kNoSpace);
  c.port->unpin(slot);
  CHECK(eventually([&] { return w.fs().allocator().quarantined().value().empty(); }));
  CHECK(w.append(g, "g").value() == 1);
  REQUIRE(w.truncate(f, 8 * kBlockSize).ok());
  CHECK(w.contents(f) == text('q', 100) + text('\0', 8 * kBlockSize - 100));
}
