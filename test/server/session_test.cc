// SPDX-License-Identifier: BSD-3-Clause
//
// Sessions as a correct client sees them.
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "proto/pin_fast_path.h"
#include "raw_client.h"

using namespace pindax;
using namespace pindax::test;
using proto::GrantKind;
using proto::Type;

namespace {

nlohmann::json control(RawClient& client, const nlohmann::json& request) {
  const std::string text = request.dump();
  const proto::Header header{.type = Type::kControl, .size = static_cast<u32>(sizeof(proto::Header) + text.size()),
                             .request = ++client.next_request};
  std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
  packet += text;
  client.send_bytes(packet.data(), packet.size());
  auto p = client.answer(header.request);
  REQUIRE(p.header.size != 0);
  if (p.status() != 0) return {{"error", p.text()}, {"errno", -p.status()}};
  if (p.descriptors.empty()) return nlohmann::json::parse(p.text());
  struct stat s = {};
  REQUIRE(::fstat(p.descriptors[0].get(), &s) == 0);
  std::string large(static_cast<std::size_t>(s.st_size), '\0');
  REQUIRE(::pread(p.descriptors[0].get(), large.data(), large.size(), 0) == s.st_size);
  return nlohmann::json::parse(large);
}

// The bytes of a granted block, read from the pool.
char pool_byte(const RawClient& client, u64 offset) {
  char byte = 0;
  REQUIRE(::pread(client.pool_fd.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
  return byte;
}

}  // namespace

TEST_CASE("server: a client that can open the pool is served directly") {
  World world;
  RawClient client(world);
  auto p = client.attach();
  REQUIRE(p.status() == 0);
  CHECK(p.reply<proto::AttachPoolReply>().direct == 1);
  CHECK(world.pool->witnesses_held()->size() == 1);
}

TEST_CASE("server: a client without the pool is told why it is not direct") {
  World world;
  RawClient client(world);
  client.hello();
  UniqueFd slots = RawClient::make_slots();
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  auto p = client.call(Type::kAttachPool, proto::AttachPoolBody{}, {}, {slots.get(), bell.get()});
  REQUIRE(p.status() == 0);
  CHECK(p.reply<proto::AttachPoolReply>().direct == 0);
  CHECK(p.text().size() > sizeof(proto::AttachPoolReply));
}

TEST_CASE("server: a file is created, written, read and stat'ed by message") {
  World world;
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("/a", O_RDWR | O_CREAT);
  auto w = client.call(Type::kWrite, proto::WriteBody{{handle, {}}, 4090, 12, 0}, "hello pindax");
  REQUIRE(w.status() == 0);
  CHECK(w.reply<proto::WriteReply>().written == 12);
  auto r = client.call(Type::kRead, proto::ReadBody{{handle, {}}, 4088, 100});
  REQUIRE(r.status() == 0);
  CHECK(r.text() == std::string("\0\0hello pindax", 14));
  auto s = client.call(Type::kStat, proto::FileRef{handle, {}});
  CHECK(s.reply<proto::StatReply>().size_bytes == 4102);
  CHECK((s.reply<proto::StatReply>().mode & 0777) == 0644);
  CHECK(client.call(Type::kSync, proto::FileRef{handle, {}}).status() == 0);
  CHECK(client.call(Type::kClose, proto::CloseBody{handle}).status() == 0);
  CHECK(client.call(Type::kStat, proto::FileRef{handle, {}}).status() == -EBADF);
}

TEST_CASE("server: a fault on data is granted as blocks of the pool") {
  World world;
  world.make_file("f", 16 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const auto mapping = client.map(client.open("f"), 0, 16 * kBlockSize);
  auto grants = client.fault(mapping.mapping, 4 * kBlockSize, 8 * kBlockSize, false);
  REQUIRE(!grants.empty());
  CHECK(grants[0].kind == GrantKind::kBlocks);
  CHECK(grants[0].offset == 4 * kBlockSize);
  CHECK(pool_byte(client, grants[0].pool_offset) == 'x');
}

TEST_CASE("server: a read of a hole is granted as zeros, a write allocates one block") {
  World world;
  world.make_file("f", 0, 0);
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f");
  REQUIRE(client.call(Type::kTruncate, proto::TruncateBody{{handle, {}}, 8 * kBlockSize}).status() == 0);
  const auto mapping = client.map(handle, 0, 16 * kBlockSize);
  auto read = client.fault(mapping.mapping, 0, 4 * kBlockSize, false);
  REQUIRE(read.size() == 1);
  CHECK(read[0].kind == GrantKind::kHole);
  auto write = client.fault(mapping.mapping, kBlockSize, 4 * kBlockSize, true);
  REQUIRE(!write.empty());
  CHECK(write[0].kind == GrantKind::kBlocks);
  CHECK(write[0].writable == 1);
  CHECK(write[0].length == kBlockSize);
  auto stat = client.call(Type::kStat, proto::FileRef{handle, {}});
  CHECK(stat.reply<proto::StatReply>().blocks_512 == 8);
  auto beyond = client.fault(mapping.mapping, 12 * kBlockSize, kBlockSize, true);
  REQUIRE(beyond.size() == 1);
  CHECK(beyond[0].kind == GrantKind::kBeyondEnd);
}

TEST_CASE("server: a mapping needs the rights that the file was opened with") {
  World world;
  world.make_file("f", kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f", O_RDONLY);
  const proto::MapBody body{{handle, {}}, 0, kBlockSize, PROT_READ | PROT_WRITE, 0};
  CHECK(client.call(Type::kMap, body).status() == -EACCES);
  CHECK(client.call(Type::kWrite, proto::WriteBody{{handle, {}}, 0, 1, 0}, "x").status() == -EBADF);
}

TEST_CASE("server: a truncation recalls a translation and waits for the acknowledgement") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f");
  const auto mapping = client.map(handle, 0, 4 * kBlockSize);
  REQUIRE(!client.fault(mapping.mapping, 0, 4 * kBlockSize, true).empty());
  const u64 request = client.send(Type::kTruncate, proto::TruncateBody{{handle, {}}, 0});
  auto recall = client.receive();
  REQUIRE(recall.header.type == Type::kRecall);
  const auto body = recall.as<proto::RecallBody>();
  CHECK(body.mapping == mapping.mapping);
  CHECK(body.begin == 0);
  client.send_as(0, Type::kRecallAck, proto::RecallAckBody{body.recall});
  auto done = client.answer(request);
  CHECK(done.status() == 0);
}

TEST_CASE("server: a pin holds a punch back until it ends, and a cancel ends the wait with nothing done") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f");
  const auto mapping = client.map(handle, 0, 4 * kBlockSize);
  client.slot_header().high_water.store(1);
  const proto::PinFields fields{.mapping = mapping.mapping, .kind = 0, .begin = 0, .end = kBlockSize, .age = 0,
                                .thread = static_cast<u32>(::gettid()), .episode = 1, .since_ns = 1};
  auto ring = [&] { (void)!::eventfd_write(client.doorbell.get(), 1); };
  REQUIRE(proto::fast_pin(client.gate(mapping.mapping), client.slot(0), fields, ring));
  const proto::FallocateBody punch{{handle, {}}, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 0, kBlockSize};

  const u64 cancelled = client.send(Type::kFallocate, punch);
  CHECK(client.answer(cancelled, 200).header.size == 0);
  client.send_as(0, Type::kCancel, proto::CancelBody{cancelled});
  CHECK(client.answer(cancelled).status() == -EINTR);

  const u64 waiting = client.send(Type::kFallocate, punch);
  CHECK(client.answer(waiting, 200).header.size == 0);
  RawClient tool(world);
  tool.hello(proto::kHelloControlOnly);
  auto pins = control(tool, {{"op", "pins"}});
  REQUIRE(pins.size() == 1);
  CHECK(pins[0]["path"] == "/f");
  CHECK(pins[0]["pid"] == ::getpid());
  CHECK(pins[0]["waited_by"].size() == 1);
  CHECK(control(tool, {{"op", "waiters"}}).size() == 1);
  proto::fast_unpin(client.slot(0), ring);
  CHECK(client.answer(waiting).status() == 0);
}

TEST_CASE("server: the pins of a client that is killed end, its blocks wait for its memory") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    RawClient client(world);
    (void)client.attach();
    const auto mapping = client.map(client.open("f"), 0, 4 * kBlockSize);
    auto grants = client.fault(mapping.mapping, 0, kBlockSize, true);
    void* at = ::mmap(nullptr, kBlockSize, PROT_READ | PROT_WRITE, MAP_SHARED, client.pool_fd.get(),
                      static_cast<off_t>(grants.at(0).pool_offset));
    client.slot_header().high_water.store(1);
    proto::fast_pin(client.gate(mapping.mapping), client.slot(0),
                    {.mapping = mapping.mapping, .begin = 0, .end = kBlockSize}, [] {});
    (void)!::write(ready[1], &at, 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  RawClient other(world);
  REQUIRE(other.attach().status() == 0);
  const u64 handle = other.open("f");
  const u64 request = other.send(Type::kTruncate, proto::TruncateBody{{handle, {}}, 0});
  CHECK(other.answer(request, 200).header.size == 0);
  ::kill(child, SIGKILL);
  CHECK(other.answer(request, 4000).status() == 0);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("server: names are made, listed and removed by control requests") {
  World world;
  RawClient tool(world);
  tool.hello(proto::kHelloControlOnly);
  CHECK(!control(tool, {{"op", "mkdir"}, {"path", "/d"}, {"mode", 0700}}).contains("error"));
  CHECK(!control(tool, {{"op", "symlink"}, {"path", "/d/link"}, {"target", "../file"}}).contains("error"));
  CHECK(control(tool, {{"op", "readlink"}, {"path", "/d/link"}})["target"] == "../file");
  world.make_file("file", 10, 'y');
  // Through the link, with ".." on the way.
  const u64 handle = tool.open("/d/link", O_RDONLY);
  CHECK(tool.call(Type::kRead, proto::ReadBody{{handle, {}}, 0, 100}).text() == "yyyyyyyyyy");
  auto rows = control(tool, {{"op", "ls"}, {"path", "/"}});
  REQUIRE(rows.size() == 2);
  CHECK(rows[0]["name"] == "d");
  CHECK(rows[1]["size_bytes"] == 10);
  CHECK(control(tool, {{"op", "unlink"}, {"path", "/d"}})["errno"] == ENOTEMPTY);
  CHECK(!control(tool, {{"op", "unlink"}, {"path", "/d/link"}}).contains("error"));
  CHECK(!control(tool, {{"op", "unlink"}, {"path", "/d"}}).contains("error"));
  CHECK(control(tool, {{"op", "stat"}, {"path", "/d"}})["errno"] == ENOENT);
  CHECK(control(tool, {{"op", "set_attributes"}, {"path", "/file"}, {"mode", 0400}})["mode"] == (S_IFREG | 0400));
}

TEST_CASE("server: a large answer travels as a memfd") {
  World world;
  RawClient tool(world);
  tool.hello(proto::kHelloControlOnly);
  for (int i = 0; i < 1000; ++i) world.make_file(("file-" + std::to_string(i)).c_str(), 0, 0);
  CHECK(control(tool, {{"op", "ls"}, {"path", "/"}}).size() == 1000);
}

TEST_CASE("server: info, layout and clients describe what there is") {
  World world;
  world.make_file("f", 3 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const auto mapping = client.map(client.open("f"), 0, 3 * kBlockSize);
  REQUIRE(!client.fault(mapping.mapping, 0, 3 * kBlockSize, false).empty());
  auto info = control(client, {{"op", "info"}});
  CHECK(info["label"] == "test");
  CHECK(info["pool"] == world.pool_path());
  auto layout = control(client, {{"op", "layout"}, {"path", "/f"}});
  CHECK(layout["size_bytes"] == 3 * kBlockSize);
  CHECK(layout["extents"].size() >= 1);
  REQUIRE(layout["mappings"].size() == 1);
  CHECK(layout["mappings"][0]["granted_bytes"] == 3 * kBlockSize);
  auto clients = control(client, {{"op", "clients"}});
  REQUIRE(clients.size() == 1);
  CHECK(clients[0]["direct"] == true);
  CHECK(clients[0]["mappings"] == 1);
}

TEST_CASE("server: a thread that waits for its own pin is told so") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f");
  const auto mapping = client.map(handle, 0, 4 * kBlockSize);
  client.slot_header().high_water.store(1);
  const auto self = static_cast<u32>(::gettid());
  REQUIRE(proto::fast_pin(client.gate(mapping.mapping), client.slot(0),
                          {.mapping = mapping.mapping, .begin = 0, .end = kBlockSize, .thread = self, .episode = 1}, [] {}));
  proto::TruncateBody truncate{{handle, {}}, 0};
  truncate.thread = self;
  CHECK(client.call(Type::kTruncate, truncate).status() == -EDEADLK);
  proto::fast_unpin(client.slot(0), [] {});
}
