// SPDX-License-Identifier: BSD-3-Clause
//
// The slot area: a client with one mapping writes whatever it likes into the memory that it shares with the daemon, between
// and during changes of the file. Promises: no crash and no hang; counts beyond the area are clamped; a change that must not
// wait does not; when the client is dead, every change ends.
#include <fcntl.h>

#include "fuzz/session_world.h"
#include "proto/pin_fast_path.h"

using namespace pindax;
using namespace pindax::fuzz;

namespace {

using proto::Type;

void poke(proto::Slot& slot, Input& in) {
  const u8 field = in.byte();
  const u64 value = in.odd_number();
  switch (field % 10) {
    case 0: slot.state = value; break;
    case 1: slot.mapping = static_cast<u32>(value); break;
    case 2: slot.kind = static_cast<u32>(value); break;
    case 3: slot.begin = value; break;
    case 4: slot.end = value; break;
    case 5: slot.age = value; break;
    case 6: slot.thread = static_cast<u32>(value); break;
    case 7: slot.episode = static_cast<u32>(value); break;
    case 8: slot.since_ns = value; break;
    default: slot.state = (slot.state & ~u64{0xff}) + proto::kSlotSequenceUnit + field / 10 % 5;
  }
}

proto::PinFields fields(Input& in) {
  proto::PinFields f;
  const u8 how = in.byte();
  f.mapping = how < 230 ? 0 : in.byte();
  f.kind = how % 3u | ((how & 8) != 0 ? proto::kPinWrite : 0);
  f.begin = how < 200 ? u64{in.byte() % 16u} * kBlockSize : in.odd_number();
  f.end = f.begin + (how < 210 ? u64{in.byte() % 16u} * kBlockSize : in.odd_number());
  f.age = in.byte();
  f.thread = in.byte() % 4u;
  f.episode = in.byte() % 4u;
  return f;
}

void step(World& w, Input& in) {
  const u8 what = in.byte();
  const u32 index = in.byte() % 16u;
  switch (what % 10) {
    case 0:
    case 1: poke(w.slot(index), in); break;
    case 2: {
      proto::Gate* gate = w.gate(0);
      if (gate != nullptr) (void)proto::fast_pin(*gate, w.slot(index), fields(in), [&] { w.ring(); });
      break;
    }
    case 3: proto::fast_unpin(w.slot(index), [&] { w.ring(); }); break;
    case 4: proto::publish_slot(w.slot(index), fields(in), static_cast<proto::SlotState>(in.byte() % 5)); break;
    case 5: {
      const proto::PinFields f = fields(in);
      proto::publish_slot(w.slot(index), f, proto::SlotState::kAsked);
      w.request(Type::kPin, proto::PinBody{.mapping = f.mapping, .slot = in.byte() < 250 ? index : in.take<u32>(),
                                           .kind = f.kind, .flags = what % 4 == 0 ? proto::kPinTry : 0, .begin = f.begin,
                                           .end = f.end, .age = f.age, .thread = f.thread, .episode = f.episode});
      break;
    }
    case 6: {
      const u8 kind = in.byte();
      const u64 begin = u64{in.byte() % 16u} * kBlockSize;
      const auto policy = static_cast<BusyPolicy>(1 + in.byte() % 4);
      w.change("/f", kind, {begin, 65536}, policy, in.byte() % 4);
      break;
    }
    case 7: w.request(Type::kFault, proto::FaultBody{.mapping = 0, .write = in.byte() % 2u, .offset = (in.byte() % 16u) * kBlockSize, .length = kBlockSize}); break;
    case 8: {
      const u8 how = in.byte();
      if (how < 100) w.acknowledge(1 + how % 3);
      else if (how < 140) w.ring();
      else if (how < 160) w.list();
      else if (how < 170) w.request(Type::kUnmap, proto::UnmapBody{0, 0});
      else if (how < 172) w.slot_header().high_water = static_cast<u32>(in.odd_number());
      else w.slot_header().high_water = how;
      break;
    }
    default: w.request(Type::kCancel, proto::CancelBody{w.last_request() - in.below(8)});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  Input in(data, size);
  World w;
  w.attach(true);
  FUZZ_REQUIRE(w.alive(), "the attached session");
  w.request(Type::kOpen, proto::OpenBody{.flags = O_RDWR, .mode = 0, .umask = 0}, "f");
  w.request(Type::kMap,
            proto::MapBody{.file = {.handle = 1, .token = {}}, .offset = 0, .length = 65536, .prot = 3, .flags = 0});
  for (int steps = 0; !in.empty() && w.alive() && steps < 100; ++steps) step(w, in);
  return 0;
}
