// SPDX-License-Identifier: BSD-3-Clause
//
// The client protocol: packets of any kind in any order, with descriptors that fit and that do not, mixed with changes by
// others. Promises: no crash; a client that breaks the protocol loses its session and nothing else; when it is dead,
// everything that waited for it ends.
#include <fcntl.h>

#include "fuzz/session_world.h"

using namespace pindax;
using namespace pindax::fuzz;

namespace {

using proto::Type;

proto::FileRef file_ref(Input& in) {
  proto::FileRef ref{};
  const u8 how = in.byte();
  ref.handle = how < 250 ? 1 + how % 4 : in.odd_number();
  if (how >= 240) ref.handle = 0;
  return ref;
}
u64 offset(Input& in) {
  const u8 how = in.byte();
  return how < 200 ? u64{how % 32u} * kBlockSize : how < 225 ? u64{how} * 777 : in.odd_number();
}
u32 mapping(Input& in) {
  const u8 how = in.byte();
  return how < 240 ? how % 4u : static_cast<u32>(in.odd_number());
}

// A request whose fields are mostly sensible.
void sensible(World& w, Input& in) {
  const u8 what = in.byte();
  switch (what % 18) {
    case 0: {
      static constexpr u32 kFlags[] = {O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_CREAT, O_RDWR | O_TRUNC, O_DIRECTORY,
                                       O_RDWR | O_CREAT | O_EXCL, O_PATH};
      static const char* const kPaths[] = {"f", "/g", "d", "d/new", "", "/", "../x", "f/x"};
      const u8 how = in.byte();
      const proto::OpenBody body{.flags = how < 250 ? kFlags[how % 8] : in.take<u32>(), .mode = in.half(), .umask = 022};
      const u8 name = in.byte();
      return w.request(Type::kOpen, body, name < 200 ? std::string_view(kPaths[name % 8]) : in.text());
    }
    case 1: return w.request(Type::kClose, proto::CloseBody{1 + in.below(4)});
    case 2:
      return w.request(Type::kMap, proto::MapBody{.file = file_ref(in), .offset = offset(in), .length = offset(in),
                                                  .prot = in.byte() % 4u, .flags = in.byte() % 8 == 0 ? proto::kMapIndirect : 0});
    case 3: return w.request(Type::kUnmap, proto::UnmapBody{mapping(in), 0});
    case 4:
      return w.request(Type::kFault, proto::FaultBody{.mapping = mapping(in), .write = in.byte() % 2u, .offset = offset(in),
                                                      .length = offset(in)});
    case 5:
    case 6: {
      const u8 how = in.byte();
      proto::PinBody body{};
      body.mapping = mapping(in);
      body.slot = how % 4 == 0 ? proto::kNoSlot : how < 240 ? how % 8u : static_cast<u32>(in.odd_number());
      body.kind = (how & 16) != 0 ? proto::kPinWrite | in.byte() % 3u : in.byte() % 3u;
      body.flags = how % 3 == 0 ? proto::kPinTry : 0;
      body.begin = offset(in);
      body.end = body.begin + offset(in);
      body.thread = 1;
      if (body.slot < 64)
        w.slot(body.slot).state = (how & 32) != 0 ? 0x100 + static_cast<u64>(proto::SlotState::kAsked) : in.half();
      return w.request(Type::kPin, body);
    }
    case 7: return w.request(Type::kUnpinMessage, proto::UnpinBody{in.below(8)});
    case 8: return w.request(Type::kCancel, proto::CancelBody{w.last_request() - in.below(8)});
    case 9: return w.request(Type::kPersist, proto::PersistBody{mapping(in), 0, offset(in), offset(in)});
    case 10:
      return w.request(Type::kFallocate, proto::FallocateBody{.file = file_ref(in), .mode = in.byte(), .policy = in.byte() % 6u,
                                                              .offset = offset(in), .length = offset(in), .deadline_ms = in.byte() % 4u});
    case 11:
      return w.request(Type::kTruncate, proto::TruncateBody{.file = file_ref(in), .size = offset(in), .policy = in.byte() % 6u,
                                                            .thread = 0, .deadline_ms = in.byte() % 4u});
    case 12:
      return w.request(Type::kClone, proto::CloneBody{file_ref(in), file_ref(in), offset(in), offset(in), offset(in)});
    case 13: return w.request(Type::kRead, proto::ReadBody{file_ref(in), offset(in), offset(in)});
    case 14: {
      const std::string data(in.half(), 'w');
      const u32 length = in.byte() % 8 == 0 ? in.take<u32>() : static_cast<u32>(data.size());
      return w.request(Type::kWrite, proto::WriteBody{file_ref(in), offset(in), length, in.byte() % 8 == 0 ? 1u : 0u}, data);
    }
    case 15: return w.request(Type::kStat, file_ref(in));
    case 16: return w.request(Type::kSync, file_ref(in));
    default: {
      static const char* const kOps[] = {"pins", "clients", "waiters", "layout", "info", "ls", "stat", "mkdir", "symlink",
                                         "readlink", "unlink", "set_attributes", "shutdown", "recall", "evict"};
      static const char* const kMore[] = {"\"path\":\"/f\"", "\"path\":\"/d/n\",\"target\":\"t\",\"mode\":493",
                                          "\"path\":17", "\"path\":\"\\ud800\",\"mode\":-1", "\"mode\":1e300,\"path\":\"/f\",\"uid\":4294967296",
                                          "\"pid\":-1", "\"session\":18446744073709551615", "\"path\":[[[[]]]]"};
      std::string json = std::string("{\"op\":\"") + kOps[in.byte() % 15];
      json += std::string("\",") + kMore[in.byte() % 8] + "}";
      if (in.byte() % 4 == 0) {
        const std::size_t at = in.below(json.size());
        json.insert(at, in.text());
      }
      const proto::Header h{.type = Type::kControl, .size = static_cast<u32>(sizeof h + json.size()), .request = 7};
      std::string packet(reinterpret_cast<const char*>(&h), sizeof h);
      return w.send(packet + json);
    }
  }
}

// A packet of any bytes under a header that may be right.
void raw(World& w, Input& in) {
  const u8 how = in.byte();
  const u8 type = in.byte();
  const std::string_view body = in.text();
  proto::Header h{.type = static_cast<Type>(type < 240 ? type % 22u : in.take<u32>()),
                  .size = static_cast<u32>(sizeof h + body.size()),
                  .request = in.byte()};
  if (how % 8 == 1) h.size = in.take<u32>();
  std::string packet(reinterpret_cast<const char*>(&h), sizeof h);
  packet += body;
  if (how % 8 == 2) packet.resize(in.byte());
  std::vector<int> descriptors;
  if (how >= 128)
    for (u64 n = in.below(8); n > 0; --n) {
      const int choices[] = {w.slot_fd(), w.doorbell_fd(), w.pool_fd(), 0};
      if (const int fd = choices[in.byte() % 4]; fd >= 0) descriptors.push_back(fd);
    }
  w.send(packet, descriptors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  Input in(data, size);
  const u8 how = in.byte();
  World w;
  if (how % 16 != 0) w.attach((how & 16) == 0);
  if ((how & 32) != 0) {  // something to work with
    w.request(Type::kOpen, proto::OpenBody{.flags = O_RDWR, .mode = 0, .umask = 0}, "f");
    w.request(Type::kMap, proto::MapBody{.file = {.handle = 1, .token = {}}, .offset = 0, .length = 65536, .prot = 3,
                                         .flags = (how & 16) == 0 ? 0 : proto::kMapIndirect});
  }
  for (int steps = 0; !in.empty() && w.alive() && steps < 100; ++steps) {
    const u8 step = in.byte();
    if (step < 160) sensible(w, in);
    else if (step < 200) raw(w, in);
    else if (step < 220) w.acknowledge(1 + step % 4);
    else if (step < 245) {
      const u8 kind = in.byte();
      const u64 begin = offset(in) % 131072;
      const auto policy = static_cast<BusyPolicy>(1 + in.byte() % 4);
      w.change("/f", kind, {begin, 131072}, policy, in.byte() % 4);
    } else if (step < 250) w.ring();
    else w.list();
  }
  return 0;
}
