// SPDX-License-Identifier: BSD-3-Clause
//
// Clients that break the protocol: the harm ends with their session (R33).

#include <cstdlib>
#include <iostream>
#include <random>

#include "raw_client.h"

using namespace pindax;
using namespace pindax::test;
using proto::Type;

namespace {

// The server still serves others.
void check_alive(const World& world) {
  RawClient client(world);
  CHECK(client.attach().status() == 0);
}

}  // namespace

TEST_CASE("server: what is not a hello first ends the session") {
  World world;
  SECTION("another request") {
    RawClient client(world);
    client.send(Type::kStat, proto::FileRef{});
    CHECK(client.hung_up());
  }
  SECTION("a short packet") {
    RawClient client(world);
    client.send_bytes("abc", 3);
    CHECK(client.hung_up());
  }
  SECTION("a packet that lies about its size") {
    RawClient client(world);
    const proto::Header header{.type = Type::kHello, .size = 4096, .request = 1};
    client.send_bytes(&header, sizeof(header));
    CHECK(client.hung_up());
  }
  SECTION("a packet larger than any message") {
    RawClient client(world);
    const std::vector<char> big(proto::kMaxMessageBytes + 1);
    client.send_bytes(big.data(), big.size());
    CHECK(client.hung_up());
  }
  SECTION("another version is answered, not thrown out") {
    RawClient client(world);
    proto::HelloBody body{};
    body.version = proto::kProtocolVersion + 1;
    CHECK(client.call(Type::kHello, body).status() != 0);
  }
  SECTION("a forged token") {
    RawClient client(world);
    proto::HelloBody body{};
    body.version = proto::kProtocolVersion;
    body.token[3] = 1;
    CHECK(client.call(Type::kHello, body).status() == -EACCES);
  }
  check_alive(world);
}

TEST_CASE("server: wrong descriptors end the session and nothing else") {
  World world;
  RawClient client(world);
  client.hello();
  UniqueFd pool(::open(world.pool_path().c_str(), O_RDWR | O_CLOEXEC));
  UniqueFd slots = RawClient::make_slots();
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd in(ends[0]), out(ends[1]);
  auto attempt = [&](const proto::AttachPoolBody& body, const std::vector<int>& fds) {
    client.send(Type::kAttachPool, body, {}, fds);
    CHECK(client.hung_up());
  };
  SECTION("none at all") { attempt({1, 1, 0, 0}, {}); }
  SECTION("too few") { attempt({1, 1, 0, 0}, {pool.get(), slots.get()}); }
  SECTION("too many") { attempt({1, 1, 1, 0}, {pool.get(), slots.get(), bell.get(), null.get(), in.get(), out.get()}); }
  SECTION("unsealed slots") {
    UniqueFd open_slots = RawClient::make_slots(0);
    attempt({1, 1, 0, 0}, {pool.get(), open_slots.get(), bell.get()});
  }
  SECTION("a pipe for the slots") { attempt({1, 1, 0, 0}, {pool.get(), in.get(), bell.get()}); }
  SECTION("a file for the doorbell") { attempt({1, 1, 0, 0}, {pool.get(), slots.get(), null.get()}); }
  SECTION("an eventfd for the userfaultfd") { attempt({1, 1, 1, 0}, {pool.get(), slots.get(), bell.get(), bell.get()}); }
  SECTION("a read-only pool announced as writable") {
    UniqueFd read_only(::open(world.pool_path().c_str(), O_RDONLY | O_CLOEXEC));
    attempt({1, 1, 0, 0}, {read_only.get(), slots.get(), bell.get()});
  }
  SECTION("descriptors with a message that brings none") {
    client.send(Type::kCancel, proto::CancelBody{1}, {}, {null.get()});
    CHECK(client.hung_up());
  }
  check_alive(world);
}

TEST_CASE("server: another file for the pool is refused with a reason") {
  World world;
  RawClient client(world);
  client.hello();
  UniqueFd other(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  UniqueFd slots = RawClient::make_slots();
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  auto p = client.call(Type::kAttachPool, proto::AttachPoolBody{1, 1, 0, 0}, {}, {other.get(), slots.get(), bell.get()});
  CHECK(p.reply<proto::AttachPoolReply>().direct == 0);
  CHECK(world.pool->witnesses_held()->empty());
}

TEST_CASE("server: nonsense in requests is an error of that client") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const u64 handle = client.open("f");
  const auto mapping = client.map(handle, 0, 4 * kBlockSize);
  SECTION("unknown handles and mappings") {
    CHECK(client.call(Type::kStat, proto::FileRef{99, {}}).status() == -EBADF);
    CHECK(client.call(Type::kUnmap, proto::UnmapBody{77, 0}).status() == -EINVAL);
    CHECK(client.call(Type::kFault, proto::FaultBody{77, 0, 0, kBlockSize}).status() == -EINVAL);
    CHECK(client.call(Type::kUnpinMessage, proto::UnpinBody{12345}).status() != 0);
    client.send_as(0, Type::kRecallAck, proto::RecallAckBody{4711});
    CHECK(client.call(Type::kStat, proto::FileRef{handle, {}}).status() == 0);
  }
  SECTION("a mapping that wraps around") {
    const proto::MapBody body{{handle, {}}, ~u64{0} - 4095, 8192, PROT_READ, 0};
    CHECK(client.call(Type::kMap, body).status() == -EINVAL);
  }
  SECTION("a pin outside its mapping") {
    const proto::PinBody body{mapping.mapping, proto::kNoSlot, 0, 0, 0, 5 * kBlockSize, 0, 1, 1};
    CHECK(client.call(Type::kPin, body).status() == -EINVAL);
  }
  SECTION("a pin of a slot that is not asked for") {
    const proto::PinBody body{mapping.mapping, 5, 0, 0, 0, kBlockSize, 0, 1, 1};
    client.send(Type::kPin, body);
    auto p = client.receive();
    CHECK((p.header.size == 0 || p.status() != 0));
  }
  SECTION("a fault outside its mapping") {
    client.send_as(0, Type::kFault, proto::FaultBody{mapping.mapping, 0, 64 * kBlockSize, kBlockSize});
    CHECK(client.hung_up());
  }
  SECTION("an unaligned fault") {
    client.send_as(0, Type::kFault, proto::FaultBody{mapping.mapping, 0, 5, kBlockSize});
    CHECK(client.hung_up());
  }
  SECTION("a body of the wrong size") {
    client.send(Type::kPersist, proto::UnmapBody{});
    CHECK(client.hung_up());
  }
  SECTION("an unknown type") {
    client.send(static_cast<Type>(4711), proto::UnmapBody{});
    CHECK(client.hung_up());
  }
  SECTION("JSON that is none") {
    client.send(Type::kControl, proto::UnmapBody{}, "{{{{");
    CHECK(client.hung_up());
  }
  check_alive(world);
}

TEST_CASE("server: [R33] forged slots harm nobody") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  RawClient client(world);
  REQUIRE(client.attach().status() == 0);
  const auto mapping = client.map(client.open("f"), 0, 4 * kBlockSize);
  client.slot_header().high_water.store(~0u);
  for (u32 i = 0; i < 64; ++i) {
    client.slot(i).mapping.store(i % 2 == 0 ? 0xffffffffu : mapping.mapping + i);
    client.slot(i).begin.store(~u64{0} - i);
    client.slot(i).end.store(i);
    client.slot(i).state.store(0xffffffffffffff00u + i);
  }
  RawClient other(world);
  REQUIRE(other.attach().status() == 0);
  const u64 handle = other.open("f");
  const u64 request = other.send(Type::kTruncate, proto::TruncateBody{{handle, {}}, 0});
  client.socket.reset();  // whatever it forged ends with it
  CHECK(other.answer(request, 8000).status() == 0);
}

namespace {

u64 seed_of_run() {
  const char* given = std::getenv("PINDAX_SEED");
  const u64 seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::cout << "PINDAX_SEED=" << seed << '\n';
  return seed;
}

// Messages of the right size whose fields are the worst that each may be, or right, so that they get behind the checks.
class Hostile {
 public:
  Hostile(const World& world, u64 seed) : random_(seed), client_(world) {
    REQUIRE(client_.attach().status() == 0);
    handle_ = client_.open("f");
    mapping_ = client_.map(handle_, 0, 16 * kBlockSize).mapping;
  }

  // False: thrown out.
  bool say_something() {
    static const struct {
      Type type;
      std::size_t bytes;
    } kinds[] = {{Type::kOpen, sizeof(proto::OpenBody)},         {Type::kClose, sizeof(proto::CloseBody)},
                 {Type::kMap, sizeof(proto::MapBody)},           {Type::kUnmap, sizeof(proto::UnmapBody)},
                 {Type::kFault, sizeof(proto::FaultBody)},       {Type::kPin, sizeof(proto::PinBody)},
                 {Type::kCancel, sizeof(proto::CancelBody)},     {Type::kPersist, sizeof(proto::PersistBody)},
                 {Type::kFallocate, sizeof(proto::FallocateBody)}, {Type::kTruncate, sizeof(proto::TruncateBody)},
                 {Type::kClone, sizeof(proto::CloneBody)},       {Type::kRead, sizeof(proto::ReadBody)},
                 {Type::kWrite, sizeof(proto::WriteBody)},       {Type::kStat, sizeof(proto::FileRef)},
                 {Type::kRecallAck, sizeof(proto::RecallAckBody)}, {Type::kUnpinMessage, sizeof(proto::UnpinBody)},
                 {Type::kSync, sizeof(proto::FileRef)}};
    const auto& kind = kinds[random_() % std::size(kinds)];
    std::vector<char> packet(sizeof(proto::Header) + kind.bytes);
    for (std::size_t at = sizeof(proto::Header); at < packet.size(); at += 8) {
      const u64 word = this->word();
      std::memcpy(packet.data() + at, &word, std::min<std::size_t>(8, packet.size() - at));
    }
    if (kind.type == Type::kOpen) append(packet, std::vector<std::string>{"f", "/", "", "../../etc", std::string(5000, 'x'), "f/f"}[random_() % 6]);
    if (kind.type == Type::kWrite) append(packet, std::string(random_() % 9000, 'w'));
    const proto::Header header{.type = kind.type, .size = static_cast<u32>(packet.size()), .request = random_() % 8};
    std::memcpy(packet.data(), &header, sizeof(header));
    client_.send_bytes(packet.data(), packet.size());
    while (client_.receive_fresh(0).header.size != 0) {  // what it says does not matter, but it must not pile up
    }
    struct pollfd state = {client_.socket.get(), POLLIN, 0};
    return ::poll(&state, 1, 0) == 0;
  }

  void scribble_on_slots() {
    client_.slot_header().high_water.store(static_cast<u32>(word()));
    client_.slot_header().processed.store(word());
    for (int i = 0; i < 8; ++i) {
      auto& slot = client_.slot(static_cast<u32>(random_() % 32));
      slot.mapping.store(static_cast<u32>(random_() % 2 == 0 ? mapping_ : word()));
      slot.kind.store(static_cast<u32>(word()));
      slot.begin.store(word());
      slot.end.store(word());
      slot.age.store(word());
      slot.state.store(random_() % 2 == 0 ? random_() % 256 : word());
    }
  }
  u64 rounds() { return random_() % 60; }

 private:
  static void append(std::vector<char>& packet, const std::string& tail) { packet.insert(packet.end(), tail.begin(), tail.end()); }

  u64 word() {
    const u64 handle_or_small[] = {handle_, mapping_, 0, 1, 2, 16, u64{1} << 32, u64{mapping_} << 32, (u64{1} << 32) | mapping_};
    switch (random_() % 7) {
      case 0: return (random_() % 20) * kBlockSize;
      case 1: return ~u64{0} - random_() % 3 * kBlockSize;
      case 2: return u64{1} << (random_() % 64);
      case 3: return random_();
      default: return handle_or_small[random_() % std::size(handle_or_small)];
    }
  }

  std::mt19937_64 random_;
  RawClient client_;
  u64 handle_ = 0;
  u32 mapping_ = 0;
};

}  // namespace

TEST_CASE("server: [R33] well-sized messages and slots with hostile fields harm their sender alone") {
  World world;
  world.make_file("f", 16 * kBlockSize, 'x');
  world.make_file("g", 16 * kBlockSize, 'y');
  RawClient bystander(world);
  REQUIRE(bystander.attach().status() == 0);
  const u64 handle = bystander.open("g");
  const u32 mapping = bystander.map(handle, 0, 16 * kBlockSize).mapping;
  std::mt19937_64 random(seed_of_run());
  for (int round = 0; round < 150; ++round) {
    Hostile hostile(world, random());
    for (u64 i = hostile.rounds(); i > 0 && hostile.say_something(); --i)
      if (i % 4 == 0) hostile.scribble_on_slots();
    if (round % 10 != 0) continue;
    CHECK(bystander.fault(mapping, (static_cast<u64>(round) % 16) * kBlockSize, kBlockSize, true).size() == 1);
    const auto read = bystander.call(Type::kRead, proto::ReadBody{{handle, {}}, 0, 16 * kBlockSize});
    CHECK(read.text() == std::string(16 * kBlockSize, 'y'));
  }
  // Whatever the hostile ones left behind in their own file, it can be changed.
  const u64 own = bystander.open("f");
  CHECK(bystander.call(Type::kTruncate, proto::TruncateBody{{own, {}}, 0}).status() == 0);
  check_alive(world);
}

TEST_CASE("server: random messages never end the server") {
  World world;
  world.make_file("f", 4 * kBlockSize, 'x');
  std::mt19937_64 random(seed_of_run());
  for (int round = 0; round < 60; ++round) {
    RawClient client(world);
    REQUIRE(client.attach().status() == 0);
    const u64 handle = client.open("f");
    client.map(handle, 0, 4 * kBlockSize);
    for (int i = 0; i < 30; ++i) {
      // Mostly small numbers where numbers are expected: they get further.
      std::vector<u64> words(2 + random() % 10);
      for (auto& w : words) {
        switch (random() % 4) {
          case 0: w = random() % 4; break;
          case 1: w = (random() % 8) * kBlockSize; break;
          case 2: w = handle; break;
          default: w = random(); break;
        }
      }
      const proto::Header header{.type = static_cast<Type>(1 + random() % 21),
                                 .size = static_cast<u32>(words.size() * 8),
                                 .request = random() % 8};
      std::memcpy(words.data(), &header, sizeof(header));
      client.send_bytes(words.data(), words.size() * 8);
    }
  }
  check_alive(world);
}
