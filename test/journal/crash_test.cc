// SPDX-License-Identifier: BSD-3-Clause
//
// Random transactions on a recorded pool, crashes at random events with random losses, also in recovery. Oracle: the
// pool holds the effects of exactly the first k transactions, where k covers all that were promised to survive.
#include <algorithm>
#include <map>

#include "catch.h"
#include "crash_state.h"
#include "journal/meta_store.h"
#include "journal_util.h"

using namespace pindax;
using namespace pindax::test;

namespace {

constexpr u64 kBlocks = 12;
constexpr u32 kSlots = 8;  // objects in a block
constexpr u32 kCells = 64;  // u64s in an object

struct Cell {
  u64 block, slot, index;
  auto operator<=>(const Cell&) const = default;
};
using Model = std::map<Cell, u64>;

// What was promised when the recording had so many events.
struct Promise {
  u64 events;
  std::size_t committed;  // transactions that returned
  std::size_t durable;    // of these, for certain on the media
};

struct Run {
  std::vector<Model> states;  // after 0, 1, … transactions
  std::vector<Promise> promises;
};

void commit_random(MetaStore& store, Run& run, std::mt19937_64& rng) {
  Model next = run.states.back();
  Transaction tx(store);
  // A transaction writes its number into several objects, so that half of one shows.
  const u64 number = run.states.size();
  const u64 objects = 1 + rng() % 5;
  for (u64 i = 0; i < objects; ++i) {
    const Cell cell{rng() % kBlocks, rng() % kSlots, rng() % kCells};
    const u64 cells = rng() % 8 == 0 ? kCells : 1;
    for (u64 k = 0; k < cells; ++k) {
      const Cell c{cell.block, cell.slot, (cell.index + k) % kCells};
      REQUIRE(put(tx, data_block(c.block) + c.slot * 512, static_cast<u32>(c.index), number).ok());
      next[c] = number;
    }
  }
  run.states.push_back(std::move(next));
  REQUIRE(tx.commit().ok());
}

Run work(MetaStore& store, const MediaLog& log, std::size_t transactions, std::mt19937_64& rng) {
  Run run;
  run.states.emplace_back();
  std::size_t durable = 0;
  for (std::size_t i = 1; i <= transactions; ++i) {
    commit_random(store, run, rng);
    if (store.mode() == SyncMode::kStrict) durable = i;
    run.promises.push_back({log.events.size(), i, durable});
    if (rng() % 10 == 0) {
      REQUIRE(store.sync(store.last_lsn()).ok());
      durable = i;
    } else if (rng() % 25 == 0) {
      REQUIRE(store.checkpoint().ok());
      durable = i;
    }
    run.promises.push_back({log.events.size(), i, durable});
  }
  return run;
}

// The number of transactions whose effects the store shows, or -1 if it shows no such state.
int shown(MetaStore& store, const Run& run, std::size_t least) {
  Model found;
  for (u64 b = 0; b < kBlocks; ++b)
    for (u64 s = 0; s < kSlots; ++s)
      for (u32 i = 0; i < kCells; ++i)
        if (const u64 v = get(store, data_block(b) + s * 512, i); v != 0) found[{b, s, i}] = v;
  for (std::size_t k = least; k < run.states.size(); ++k)
    if (run.states[k] == found) return static_cast<int>(k);
  return -1;
}

Promise promised_at(const Run& run, u64 events) {
  Promise best{0, 0, 0};
  for (const Promise& p : run.promises)
    if (p.events <= events) best = p;
  return best;
}

// Passes everything on until told to fail.
class FailingMedia final : public Media {
 public:
  explicit FailingMedia(Media& below) : below_(below) {}
  void fail_after(u64 calls) { left_ = calls; }

  u64 size() const override { return below_.size(); }
  Granularity granularity() const override { return below_.granularity(); }
  const std::byte* view(PoolOffset at, u64 length) const override { return below_.view(at, length); }
  Status read(PoolOffset at, void* out, u64 length) const override { return below_.read(at, out, length); }
  Status write(PoolOffset at, const void* data, u64 length) override {
    PINDAX_TRY(go_on());
    return below_.write(at, data, length);
  }
  Status write_nt(PoolOffset at, const void* data, u64 length) override { return write(at, data, length); }
  Status zero(PoolOffset at, u64 length) override {
    PINDAX_TRY(go_on());
    return below_.zero(at, length);
  }
  Status flush(PoolOffset at, u64 length) override {
    PINDAX_TRY(go_on());
    return below_.flush(at, length);
  }
  Status drain() override { return go_on(); }
  Status punch(PoolOffset at, u64 length) override { return zero(at, length); }
  Status sync_all() override { return go_on(); }
  bool failed() const override { return left_ == 0; }

 private:
  Status go_on() {
    if (left_ == 0) return Status(Errc::kIo, "told to fail");
    --left_;
    return {};
  }
  Media& below_;
  u64 left_ = ~u64{0};
};

void explore(Granularity granularity, SyncMode mode, int rounds, int crashes, u64 salt) {
  std::mt19937_64 rng(seed() + salt);
  for (int round = 0; round < rounds; ++round) {
    RecordingMedia media(format::kMinPoolBytes, granularity);
    REQUIRE(MetaStore::format_journal(media, small_geometry()).ok());
    auto store = open_store(media, mode);
    auto before = copy_of(media);
    MediaLog log;
    media.record(&log);
    const Run run = work(*store, log, 120, rng);
    media.record(nullptr);
    std::vector<u64> positions;
    for (int i = 0; i < crashes; ++i) positions.push_back(rng() % (log.events.size() + 1));
    std::sort(positions.begin(), positions.end());
    CrashState state(std::move(before), log);
    for (u64 position : positions) {
      CAPTURE(round, position);
      state.advance_to(position);
      const Promise promise = promised_at(run, position);
      // The daemon dies and the host lives: nothing acknowledged is lost, in any mode.
      REQUIRE(shown(*open_store(*state.image(keep_all()), mode), run, promise.committed) >= 0);
      // The host dies.
      auto image = state.image(random_crash(rng));
      auto image_before = copy_of(*image);
      MediaLog recovery;
      image->record(&recovery);
      const auto k = shown(*open_store(*image, mode), run, promise.durable);
      REQUIRE(k >= 0);
      // The host dies again, in recovery.
      CrashState again(std::move(image_before), recovery);
      again.advance_to(rng() % (recovery.events.size() + 1));
      auto second = again.image(random_crash(rng));
      REQUIRE(shown(*open_store(*second, mode), run, promise.durable) == k);
    }
  }
}

}  // namespace

TEST_CASE("journal: crashes at any event keep whole transactions in order, cache-line granularity, strict") {
  explore(Granularity::kCacheLine, SyncMode::kStrict, 2, 35, 1);
}
TEST_CASE("journal: crashes at any event keep whole transactions in order, cache-line granularity, posix") {
  explore(Granularity::kCacheLine, SyncMode::kPosix, 2, 35, 2);
}
TEST_CASE("journal: crashes at any event keep whole transactions in order, byte granularity, strict") {
  explore(Granularity::kByte, SyncMode::kStrict, 2, 25, 3);
}
TEST_CASE("journal: crashes at any event keep whole transactions in order, page granularity, posix") {
  explore(Granularity::kPage, SyncMode::kPosix, 2, 35, 4);
}
TEST_CASE("journal: crashes at any event keep whole transactions in order, page granularity, strict") {
  explore(Granularity::kPage, SyncMode::kStrict, 2, 35, 5);
}

TEST_CASE("journal: the daemon dies, and the host while the next one recovers: the log was not durable yet") {
  for (Granularity granularity : {Granularity::kCacheLine, Granularity::kPage}) {
    std::mt19937_64 rng(seed() + 7);
    for (int round = 0; round < 4; ++round) {
      RecordingMedia media(format::kMinPoolBytes, granularity);
      REQUIRE(MetaStore::format_journal(media, small_geometry()).ok());
      auto store = open_store(media, SyncMode::kPosix);
      auto before = copy_of(media);
      MediaLog log;
      media.record(&log);
      const Run run = work(*store, log, 60, rng);
      store.reset();
      const u64 died = log.events.size();
      store = open_store(media, SyncMode::kPosix);
      const u64 recovered = log.events.size();
      media.record(nullptr);
      CrashState state(std::move(before), log);
      for (u64 position = died; position <= recovered; ++position) {
        CAPTURE(round, position, recovered);
        state.advance_to(position);
        const std::size_t least = position == recovered ? 60 : promised_at(run, died).durable;
        auto image = state.image(random_crash(rng));
        REQUIRE(shown(*open_store(*image, SyncMode::kPosix), run, least) >= 0);
      }
    }
  }
}

TEST_CASE("journal: when the media fails, commits fail from then on and reads go on") {
  for (u64 calls = 0; calls < 12; ++calls) {
    auto memory = new_pool();
    FailingMedia media(*memory);
    auto store = open_store(media, SyncMode::kStrict);
    REQUIRE(put_one(*store, data_block(0), 0, 7).ok());
    media.fail_after(calls);
    bool failed = false;
    for (u64 i = 0; i < 10; ++i) {
      const bool ok = put_one(*store, data_block(1), 0, i + 1).ok();
      CHECK_FALSE((failed && ok));
      failed = failed || !ok;
    }
    CHECK(failed);
    CHECK(store->health().code() == Errc::kIo);
    CHECK(store->checkpoint().code() == Errc::kIo);
    CHECK(store->sync(store->last_lsn()).code() == (store->durable_lsn() == store->last_lsn() ? Errc::kOk : Errc::kIo));
    CHECK(get(*store, data_block(0), 0) == 7);
  }
}
