// SPDX-License-Identifier: BSD-3-Clause
//
// The tree against std::map: random items of random length, aborted transactions, stores that are closed and opened again.
// PINDAX_SEED repeats a run.
#include "tree/tree.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "catch.h"
#include "pmem/pool_media.h"

using namespace pindax;
using format::TreeKind;

namespace {

u64 seed() {
  const char* text = std::getenv("PINDAX_SEED");
  const u64 value = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  UNSCOPED_INFO("PINDAX_SEED=" << value);
  return value;
}

// Hands out data blocks of AG 0 from the front; what a transaction frees comes back when it commits.
class TestNodes : public NodeAllocator {
 public:
  explicit TestNodes(const format::Geometry& g) : next_(g.first_data(0)), end_(BlockNo(g.ag_length(0))) {}
  Result<BlockNo> allocate_node(Transaction& tx) override {
    if (live_.size() >= limit) return Errc::kNoSpace;
    BlockNo b = next_;
    if (!free_.empty()) {
      b = *free_.begin();
      free_.erase(free_.begin());
    } else if (next_ < end_) {
      ++next_;
    } else {
      return Errc::kNoSpace;
    }
    live_.insert(b);
    tx.on_abort([this, b] { live_.erase(b), free_.insert(b); });
    return b;
  }
  void free_node(Transaction& tx, BlockNo b) override {
    REQUIRE(live_.erase(b) == 1);
    tx.on_commit([this, b](Lsn) { free_.insert(b); });
    tx.on_abort([this, b] { live_.insert(b); });
  }
  const std::set<BlockNo>& live() const { return live_; }
  std::size_t limit = ~std::size_t{0};

 private:
  BlockNo next_, end_;
  std::set<BlockNo> live_, free_;
};

struct Bench {
  std::unique_ptr<Media> media = make_memory_media(64u << 20);
  format::Geometry geometry = format::plan_geometry(64u << 20).value();
  std::unique_ptr<MetaStore> store;
  TestNodes nodes{geometry};
  TreeRef ref{BlockNo(0), TreeKind::kDirectory, 77};

  Bench() {
    REQUIRE(MetaStore::format_journal(*media, geometry).ok());
    reopen();
  }
  void reopen() {
    store.reset();
    auto opened = MetaStore::open(*media, geometry, SyncMode::kStrict);
    REQUIRE(opened.ok());
    store = std::move(*opened);
  }
  template <class F>
  Status change(F f) {
    Transaction tx(*store);
    TreeRef changed = ref;
    TreeWriter writer(tx, changed, nodes);
    PINDAX_TRY(f(writer));
    PINDAX_TRY(tx.commit());
    ref = changed;
    return {};
  }
};

using Model = std::map<u64, std::vector<std::byte>>;

std::vector<std::byte> random_value(std::mt19937_64& rng) {
  const u64 most = rng() % 8 == 0 ? format::kMaxTreeValue : 60;
  std::vector<std::byte> v(rng() % (most + 1));
  for (auto& b : v) b = static_cast<std::byte>(rng());
  return v;
}

bool same(TreeBytes a, const std::vector<std::byte>& b) {
  return a.size() == b.size() && (b.empty() || std::memcmp(a.data(), b.data(), b.size()) == 0);
}

void require_equal(TreeReader reader, const Model& model) {
  auto expected = model.begin();
  REQUIRE(reader
              .scan(0,
                    [&](u64 key, TreeBytes value) {
                      REQUIRE(expected != model.end());
                      REQUIRE(key == expected->first);
                      REQUIRE(same(value, expected->second));
                      ++expected;
                      return true;
                    })
              .ok());
  REQUIRE(expected == model.end());
}

void require_lookups(TreeReader reader, const Model& model, u64 key) {
  const auto found = reader.find(key);
  const auto exact = model.find(key);
  REQUIRE(found.ok() == (exact != model.end()));
  if (found.ok()) REQUIRE(same(*found, exact->second));
  else REQUIRE(found.code() == Errc::kNotFound);
  const auto after = reader.lower_bound(key);
  REQUIRE(after.ok());
  auto it = model.lower_bound(key);
  REQUIRE(after->has_value() == (it != model.end()));
  if (*after) REQUIRE((*after)->key == it->first);
  const auto before = reader.at_or_before(key);
  REQUIRE(before.ok());
  it = model.upper_bound(key);
  REQUIRE(before->has_value() == (it != model.begin()));
  if (*before) REQUIRE(((*before)->key == std::prev(it)->first && same((*before)->value, std::prev(it)->second)));
}

// One transaction of random changes to both; true if it was kept.
bool random_transaction(Bench& bench, Model& model, std::mt19937_64& rng, u64 key_range, unsigned erase_share) {
  Transaction tx(*bench.store);
  TreeRef ref = bench.ref;
  TreeWriter writer(tx, ref, bench.nodes);
  Model changed = model;
  const unsigned steps = 1 + static_cast<unsigned>(rng() % 20);
  for (unsigned i = 0; i < steps; ++i) {
    const u64 key = rng() % key_range;
    const bool there = changed.contains(key);
    const u64 dice = rng() % 100;
    if (dice < erase_share) {
      REQUIRE(writer.erase(key).code() == (there ? Errc::kOk : Errc::kNotFound));
      changed.erase(key);
    } else if (dice < erase_share + 15) {
      const auto v = random_value(rng);
      REQUIRE(writer.replace(key, v).code() == (there ? Errc::kOk : Errc::kNotFound));
      if (there) changed[key] = v;
    } else {
      const auto v = random_value(rng);
      REQUIRE(writer.insert(key, v).code() == (there ? Errc::kExists : Errc::kOk));
      if (!there) changed[key] = v;
    }
    if (i % 5 == 0) require_lookups(TreeReader(tx, ref), changed, rng() % key_range);
  }
  if (rng() % 5 == 0) return false;
  REQUIRE(tx.commit().ok());
  bench.ref = ref;
  model = std::move(changed);
  return true;
}

}  // namespace

TEST_CASE("tree: random changes, aborts and reopening match a map") {
  std::mt19937_64 rng(seed());
  Bench bench;
  Model model;
  for (const unsigned erase_share : {10u, 30u, 75u, 20u, 85u}) {
    const u64 key_range = rng() % 2 == 0 ? 400 : 3000;
    for (int round = 0; round < 120; ++round) {
      random_transaction(bench, model, rng, key_range, erase_share);
      require_lookups(TreeReader(*bench.store, bench.ref), model, rng() % key_range);
      if (round % 40 == 39) {
        bench.reopen();
        require_equal(TreeReader(*bench.store, bench.ref), model);
      }
    }
    std::set<BlockNo> seen;
    REQUIRE(TreeReader(*bench.store, bench.ref)
                .scan_nodes([&](BlockNo b, unsigned) {
                  REQUIRE(seen.insert(b).second);
                  return Status();
                })
                .ok());
    REQUIRE(seen == bench.nodes.live());
  }
  REQUIRE(bench.change([](TreeWriter& w) { return w.clear(); }).ok());
  REQUIRE(bench.ref.root == BlockNo(0));
  REQUIRE(bench.nodes.live().empty());
}

TEST_CASE("tree: ascending and descending inserts, then erasing from either end, leave no node behind") {
  Bench bench;
  const std::vector<std::byte> value(16, std::byte{7});
  const bool ascending = GENERATE(true, false);
  const bool front = GENERATE(true, false);
  const u64 count = 20000;
  for (u64 i = 0; i < count;) {
    REQUIRE(bench
                .change([&](TreeWriter& w) {
                  for (u64 n = 0; n < 200; ++n, ++i) PINDAX_TRY(w.insert(ascending ? i : count - 1 - i, value));
                  return Status();
                })
                .ok());
  }
  if (ascending) REQUIRE(bench.nodes.live().size() < count / 126 + 8);  // appends fill their leaves
  u64 seen = 0;
  REQUIRE(TreeReader(*bench.store, bench.ref).scan(5, [&](u64 key, TreeBytes) { return key == 5 + seen++; }).ok());
  REQUIRE(seen == count - 5);
  for (u64 i = 0; i < count;) {
    REQUIRE(bench
                .change([&](TreeWriter& w) {
                  for (u64 n = 0; n < 200; ++n, ++i) PINDAX_TRY(w.erase(front ? i : count - 1 - i));
                  return Status();
                })
                .ok());
  }
  REQUIRE(bench.ref.root == BlockNo(0));
  REQUIRE(bench.nodes.live().empty());
}

TEST_CASE("tree: an insert that finds no room for its nodes changes nothing") {
  Bench bench;
  std::mt19937_64 rng(seed());
  Model model;
  bench.nodes.limit = 40;
  const std::vector<std::byte> value(1000, std::byte{1});
  for (int refused = 0; refused < 20;) {
    const u64 key = rng() % 100000;
    const Status s = bench.change([&](TreeWriter& w) {
      const Status inserted = w.insert(key, value);
      return inserted.code() == Errc::kNoSpace ? (++refused, Status()) : inserted;
    });
    if (s.ok() && TreeReader(*bench.store, bench.ref).find(key).ok()) model[key] = value;
  }
  REQUIRE(bench.nodes.live().size() <= 40);
  require_equal(TreeReader(*bench.store, bench.ref), model);
}

TEST_CASE("tree: a damaged node is corrupt and changes nothing") {
  Bench bench;
  const std::vector<std::byte> value(100, std::byte{1});
  REQUIRE(bench
              .change([&](TreeWriter& w) {
                for (u64 i = 0; i < 500; ++i) PINDAX_TRY(w.insert(i, value));
                return Status();
              })
              .ok());
  REQUIRE(bench.store->checkpoint().ok());
  std::vector<BlockNo> leaves;
  REQUIRE(TreeReader(*bench.store, bench.ref)
              .scan_nodes([&](BlockNo b, unsigned level) {
                if (level == 0) leaves.push_back(b);
                return Status();
              })
              .ok());
  const BlockNo bad = leaves.at(1);
  const u8 junk = 0xa5;
  REQUIRE(bench.media->write(block_offset(bad) + 2000, &junk, 1).ok());
  bench.reopen();
  REQUIRE(TreeReader(*bench.store, bench.ref).find(0).ok());
  unsigned corrupt = 0;
  for (u64 i = 0; i < 500; ++i) corrupt += TreeReader(*bench.store, bench.ref).find(i).code() == Errc::kCorrupt;
  REQUIRE(corrupt > 10);
  REQUIRE(TreeReader(*bench.store, bench.ref).scan(0, [](u64, TreeBytes) { return true; }).code() == Errc::kCorrupt);
  REQUIRE(bench.change([&](TreeWriter& w) { return w.erase(0); }).ok());
  REQUIRE(bench.change([&](TreeWriter& w) { return w.clear(); }).code() == Errc::kCorrupt);
}

TEST_CASE("tree: a node that is its own child, or a neighbour's, does not trap a walk") {
  Bench bench;
  const std::vector<std::byte> value(100, std::byte{1});
  REQUIRE(bench
              .change([&](TreeWriter& w) {
                for (u64 i = 0; i < 500; ++i) PINDAX_TRY(w.insert(i, value));
                return Status();
              })
              .ok());
  const bool own = GENERATE(true, false);
  Transaction tx(*bench.store);
  auto bytes = tx.modify(block_offset(bench.ref.root), kBlockSize, format::seal_node);
  REQUIRE(bytes.ok());
  auto* pairs = reinterpret_cast<format::InnerPair*>(*bytes + sizeof(format::NodeHeader));
  pairs[1].child = own ? bench.ref.root.value : pairs[0].child.get();
  REQUIRE(tx.commit().ok());
  REQUIRE(TreeReader(*bench.store, bench.ref).scan(0, [](u64, TreeBytes) { return true; }).code() == Errc::kCorrupt);
  REQUIRE(TreeReader(*bench.store, bench.ref).scan_nodes([](BlockNo, unsigned) { return Status(); }).code() ==
          Errc::kCorrupt);
}

TEST_CASE("tree: moving keys up or down, a leaf at a time, matches a map at every step") {
  std::mt19937_64 rng(seed());
  Bench bench;
  Model model;
  for (u64 i = 0; i < 3000; ++i) {
    const u64 key = 10'000 + i * 7 + rng() % 7;
    model[key] = random_value(rng);
    REQUIRE(bench.change([&](TreeWriter& w) { return w.insert(key, model[key]); }).ok());
  }
  for (int round = 0; round < 12; ++round) {
    const u64 from = 9'000 + rng() % 25'000;
    const u64 by = 1 + rng() % 3'000;
    const bool up = round % 2 == 0;
    if (!up) {  // room first
      std::vector<u64> gone;
      for (auto it = model.lower_bound(from); it != model.end() && it->first < from + by; ++it) gone.push_back(it->first);
      for (const u64 key : gone) {
        REQUIRE(bench.change([&](TreeWriter& w) { return w.erase(key); }).ok());
        model.erase(key);
      }
    }
    const std::size_t nodes = bench.nodes.live().size();
    u64 first = up ? from : from + by, last = ~u64{0} >> 1;
    const bool anything = model.lower_bound(first) != model.end();
    unsigned steps = 0;
    for (bool more = true; more; ++steps) {
      std::optional<TreeWriter::KeyRange> moved;
      REQUIRE(bench
                  .change([&](TreeWriter& w) -> Status {
                    PINDAX_ASSIGN(moved, w.shift_keys(first, last, up ? static_cast<i64>(by) : -static_cast<i64>(by)));
                    return {};
                  })
                  .ok());
      more = moved.has_value();
      if (!more) break;
      // What moved is what was said, and nothing else.
      Model changed;
      for (auto& [key, value] : model) {
        const bool moves = key >= moved->first && key <= moved->last;
        changed[moves ? (up ? key + by : key - by) : key] = std::move(value);
      }
      model = std::move(changed);
      if (steps % 7 == 0) require_equal(TreeReader(*bench.store, bench.ref), model);
      if (up) last = moved->first - 1;
      else first = moved->last + 1;
    }
    CHECK((steps > 0) == anything);
    CHECK(bench.nodes.live().size() == nodes);
    require_equal(TreeReader(*bench.store, bench.ref), model);
    for (int i = 0; i < 20; ++i) require_lookups(TreeReader(*bench.store, bench.ref), model, rng() % 40'000);
    for (int i = 0; i < 5; ++i) random_transaction(bench, model, rng, 40'000, 40);
    require_equal(TreeReader(*bench.store, bench.ref), model);
  }
}

TEST_CASE("tree: keys that would pass others are refused and nothing moves") {
  Bench bench;
  Model model;
  for (u64 key = 100; key < 2000; key += 2) {
    model[key] = std::vector<std::byte>(20);
    REQUIRE(bench.change([&](TreeWriter& w) { return w.insert(key, model[key]); }).ok());
  }
  for (const auto& [first, by] : {std::pair<u64, i64>{500, -2}, {101, -1000}, {102, -2}}) {
    REQUIRE(bench.change([&, f = first, b = by](TreeWriter& w) { return w.shift_keys(f, ~u64{0}, b).status(); }).code() ==
            Errc::kCorrupt);
    require_equal(TreeReader(*bench.store, bench.ref), model);
  }
  REQUIRE(bench.change([&](TreeWriter& w) { return w.shift_keys(0, 500, 2).status(); }).code() == Errc::kCorrupt);
  require_equal(TreeReader(*bench.store, bench.ref), model);
}
