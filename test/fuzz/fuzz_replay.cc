// SPDX-License-Identifier: BSD-3-Clause
//
// The journal's replay: headers and records from the input, with checksums that are right unless the input says otherwise.
// Promises: no crash and no hang; reading alone stores nothing; after a recovery the ring is empty, takes new records and
// gives them back.
#include "base/crc32c.h"
#include "fsck/fsck.h"
#include "fuzz/pool.h"
#include "journal/record.h"
#include "journal/transaction.h"

using namespace pindax;
using namespace pindax::fuzz;

namespace {

constexpr u64 kHeaderBlocks = 2;
constexpr u64 kLifeMax = u64{1} << 60;

class Ring {
 public:
  Ring(Pool& pool, Input& in) : pool_(pool), in_(in), g_(pool.geometry()) {
    // The newer copy: the ring holds records of its epoch and, after a return to an older one, they would count again.
    format::JournalHeader copies[kHeaderBlocks];
    for (u64 copy = 0; copy < kHeaderBlocks; ++copy)
      std::memcpy(&copies[copy], pool_.media().bytes() + (g_.journal_block + copy) * kBlockSize, sizeof copies[copy]);
    header_ = copies[0].sequence > copies[1].sequence ? copies[0] : copies[1];
  }

  // Both copies of the header, most often from one mould.
  void headers(u8 how) {
    if ((how & 1) != 0) header_.head = in_.odd_number() & ((how & 2) != 0 ? ~u64{0} : ~u64{7});
    if ((how & 4) != 0) header_.epoch = in_.odd_number();
    for (u64 copy = 0; copy < kHeaderBlocks; ++copy) {
      format::JournalHeader h = header_;
      h.self_block = g_.journal_block + copy;
      h.sequence = header_.sequence + copy;
      if ((how & 8) != 0) h.sequence = in_.odd_number();
      within_life_ &= h.sequence < kLifeMax && h.head < kLifeMax;
      format::seal(h);
      if ((how & 16) != 0 && copy == 1) h.crc = h.crc ^ 1u;
      pool_.media().poke((g_.journal_block + copy) * kBlockSize, &h, sizeof h);
    }
    lsn_ = header_.head;
  }

  // False: numbers that no journal reaches. Then the promise is only that nothing crashes.
  bool within_life() const { return within_life_; }

  void record() {
    const u8 how = in_.byte();
    std::string body;
    const u64 count = in_.below(6);
    for (u64 i = 0; i < count; ++i) body += range();
    body.resize(round_up(body.size(), 8));
    format::RecordHeader h{};
    h.magic = format::kRecordMagic;
    h.lsn = lsn_;
    h.epoch = header_.epoch;
    h.length_bytes = static_cast<u32>(sizeof h + body.size());
    h.range_count = static_cast<u32>(count);
    if (how % 16 == 1) h.length_bytes = static_cast<u32>(in_.odd_number());
    if (how % 16 == 2) h.range_count = static_cast<u32>(in_.odd_number());
    if (how % 16 == 3) h.lsn = in_.odd_number();
    if (how % 16 == 4) h.epoch = in_.odd_number();
    std::vector<std::byte> bytes(sizeof h + body.size());
    std::memcpy(bytes.data(), &h, sizeof h);
    if (!body.empty()) std::memcpy(bytes.data() + sizeof h, body.data(), body.size());
    seal_record(bytes, header_.epoch);
    if (how % 16 == 5) bytes[offsetof(format::RecordHeader, crc)] ^= std::byte{1};
    if (how % 16 == 6) bytes.resize(in_.below(bytes.size()));
    store(bytes);
    lsn_ += sizeof h + body.size();
  }

 private:
  std::string range() {
    format::RecordRange r{};
    const u8 how = in_.byte();
    const u64 block = pool_.pick_structure(in_);
    u64 offset = block * kBlockSize + in_.half() % kBlockSize;
    std::string content(in_.text());
    switch (how % 8) {
      case 0:
      case 1: break;
      case 2: {  // a whole block as it is
        offset = block * kBlockSize;
        content.assign(reinterpret_cast<const char*>(pool_.media().bytes() + offset), kBlockSize);
        break;
      }
      case 3: offset = in_.odd_number(); break;
      case 4: offset = g_.pool_blocks * kBlockSize - in_.byte(); break;
      case 5: offset = g_.journal_block * kBlockSize - 16 + in_.byte(); break;
      case 6:
        r.flags = format::kRangeRevoke;
        offset = block * kBlockSize;
        content.clear();
        break;
      default: offset = (g_.journal_block + g_.journal_blocks) * kBlockSize + in_.half();
    }
    r.offset = offset;
    r.length_bytes = static_cast<u32>(content.size());
    if ((how & 0x40) != 0) r.length_bytes = static_cast<u32>(in_.odd_number());
    if ((how & 0x80) != 0) r.flags = in_.byte();
    std::string out(reinterpret_cast<const char*>(&r), sizeof r);
    out += content;
    if ((how & 0x20) == 0) out.resize(round_up(out.size(), 8));
    return out;
  }

  void store(const std::vector<std::byte>& bytes) {
    const u64 ring = (g_.journal_blocks - kHeaderBlocks) * kBlockSize;
    const u64 base = (g_.journal_block + kHeaderBlocks) * kBlockSize;
    for (u64 done = 0; done < bytes.size();) {
      const u64 at = (lsn_ + done) % ring;
      const u64 n = std::min<u64>(bytes.size() - done, ring - at);
      pool_.media().poke(base + at, bytes.data() + done, n);
      done += n;
    }
  }

  Pool& pool_;
  Input& in_;
  const format::Geometry g_;
  format::JournalHeader header_;
  u64 lsn_ = 0;
  bool within_life_ = true;
};

void view_all(MetaStore& store, const Pool& pool) {
  u32 sum = 0;
  for (const u64 block : pool.structures()) {
    auto view = store.view(block_offset(BlockNo(block)), kBlockSize);
    FUZZ_REQUIRE(view.ok(), view.status().message());
    sum = crc32c(view->data(), kBlockSize, sum);
  }
  FUZZ_REQUIRE(!store.view(PoolOffset(pool.geometry().pool_blocks * kBlockSize), 8).ok(), "a view behind the pool");
}

void read_only(Pool& pool) {
  MediaLog log;
  pool.media().record(&log);
  if (auto store = MetaStore::open(pool.media(), pool.geometry(), SyncMode::kStrict, true); store.ok())
    view_all(**store, pool);
  pool.media().record(nullptr);
  for (const MediaEvent& e : log.events)
    FUZZ_REQUIRE(e.kind != MediaEvent::Kind::kStore && e.kind != MediaEvent::Kind::kStoreNt, "a reader stores");
}

// Appends to the recovered ring; the next recovery must find exactly that.
void append(Pool& pool) {
  const BlockNo block(pool.geometry().pool_blocks - 1);
  const std::string text(700, 'j');
  {
    auto store = MetaStore::open(pool.media(), pool.geometry(), SyncMode::kStrict);
    if (!store.ok()) return;
    view_all(**store, pool);
    for (u64 i = 0; i < 4; ++i) {
      Transaction tx(**store);
      std::byte* bytes = tx.modify_new(block_offset(block), [](std::byte*) {});
      std::memcpy(bytes, text.data(), text.size());
      bytes[4000] = static_cast<std::byte>(i);
      const auto lsn = tx.commit();
      FUZZ_REQUIRE(lsn.ok(), lsn.status().message());
    }
  }
  auto store = MetaStore::open(pool.media(), pool.geometry(), SyncMode::kStrict);
  FUZZ_REQUIRE(store.ok(), store.status().message());
  FUZZ_REQUIRE((*store)->replay_report().records == 4, std::to_string((*store)->replay_report().records));
  auto view = (*store)->view(block_offset(block), kBlockSize);
  FUZZ_REQUIRE(view.ok() && std::memcmp(view->data(), text.data(), text.size()) == 0, "another record's bytes");
  store->reset();
  store = MetaStore::open(pool.media(), pool.geometry(), SyncMode::kStrict);
  FUZZ_REQUIRE(store.ok() && (*store)->replay_report().was_clean, "the ring after a recovery");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static Pool clean(Left::kClean), killed(Left::kKilled);
  Input in(data, size);
  const u8 how = in.byte();
  Pool& pool = (how & 0x80) != 0 ? killed : clean;
  pool.revert();
  bool within_life = true;
  if ((how & 0x40) != 0) {  // the killed mount's own records, with damage
    const format::Geometry& g = pool.geometry();
    for (u64 n = in.below(4); n > 0; --n) {
      const u64 flipped = in.odd_number();
      const u64 at = (g.journal_block + kHeaderBlocks) * kBlockSize + in.half();
      pool.media().poke(at, &flipped, 1 + in.below(8));
    }
  } else {
    Ring ring(pool, in);
    ring.headers(how);
    for (u64 n = in.below(6); n > 0; --n) ring.record();
    within_life = ring.within_life();
  }
  read_only(pool);
  (void)fsck(pool.media(), {});
  if ((how & 0x20) == 0 && within_life) {
    append(pool);
    return 0;
  }
  auto fs = mount(pool.media(), {});
  if (!fs) return 0;
  walk(*fs);
  change(*fs, in);
  end(std::move(fs), false);
  (void)fsck(pool.media(), {});
  return 0;
}
