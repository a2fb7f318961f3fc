// SPDX-License-Identifier: BSD-3-Clause
//
// Random operations on a few files against models, with daemons that die and hosts that crash, and from
// several threads.
#include <fcntl.h>
#include <linux/falloc.h>

#include <thread>

#include "data_helpers.h"

using namespace pindax;
using namespace pindax::test;

namespace {

const ChangeGrant kNothingHeldBack;

constexpr unsigned kFiles = 3;
constexpr u64 kMaxSize = 400000;

// Bytes of file i are in [1 + 60 i, 60 + 60 i]: a byte of another file's shows.
bool belongs(char c, unsigned file) {
  const auto b = static_cast<unsigned char>(c);
  return b == 0 || (b >= 1 + 60 * file && b <= 60 + 60 * file);
}

struct Fuzz {
  World& w;
  std::mt19937_64 random;
  InodeRef files[kFiles];
  Model models[kFiles];
  std::string synced[kFiles];  // what fsync promised, if nothing was stored since
  bool stable[kFiles] = {};
  bool clones = false;  // files share blocks as well

  Fuzz(World& world, u64 seed) : w(world), random(seed) {
    for (unsigned i = 0; i < kFiles; ++i) files[i] = w.create("file" + std::to_string(i));
  }
  u64 below(u64 n) { return random() % n; }
  // Often near a block's edge.
  u64 place() {
    const u64 at = below(kMaxSize);
    return below(3) == 0 ? round_down(at, kBlockSize) + below(3) : at;
  }
  u64 length() {
    return below(3) == 0 ? below(10 * kBlockSize) : below(2) == 0 ? 1 + below(100) : kBlockSize * below(20);
  }
  std::string data(unsigned file, u64 n) {
    return std::string(n, static_cast<char>(1 + 60 * file + below(60)));
  }

  void step() {
    if (clones && below(6) == 0) return clone();
    const unsigned i = static_cast<unsigned>(below(kFiles));
    InodeRef& f = files[i];
    Model& m = models[i];
    const u64 at = place(), n = length();
    const unsigned what = static_cast<unsigned>(below(22));
    if (what < 14 || what >= 20) stable[i] = false;
    switch (what) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: {
        const std::string d = data(i, n);
        REQUIRE(w.write(f, at, d).value() == n);
        m.write(at, d);
        break;
      }
      case 5:
      case 6: {
        const std::string d = data(i, below(9000));
        if (m.bytes.size() > kMaxSize) break;
        REQUIRE(w.append(f, d).value() == d.size());
        m.write(m.bytes.size(), d);
        break;
      }
      case 7: {
        const u64 size = below(4) == 0 ? at : std::min<u64>(at, m.bytes.size());
        REQUIRE(w.truncate(f, size).ok());
        m.bytes.resize(size);
        break;
      }
      case 8:
      case 9:
        if (n == 0) break;
        REQUIRE(w.fallocate(f, kPunch, at, n).ok());
        m.zero(at, at + n);
        break;
      case 10:
      case 11: {
        if (n == 0) break;
        const bool keep = below(2) == 0;
        REQUIRE(w.fallocate(f, FALLOC_FL_ZERO_RANGE | (keep ? FALLOC_FL_KEEP_SIZE : 0), at, n).ok());
        if (!keep && m.bytes.size() < at + n) m.bytes.resize(at + n);
        m.zero(at, at + n);
        break;
      }
      case 12:
      case 13: {
        if (n == 0) break;
        const bool keep = below(2) == 0;
        REQUIRE(w.fallocate(f, keep ? FALLOC_FL_KEEP_SIZE : 0, at, n).ok());
        if (!keep && m.bytes.size() < at + n) m.bytes.resize(at + n);
        break;
      }
      case 14: {
        REQUIRE(w.fs().fsync(*f, below(2) == 0).ok());
        synced[i] = m.bytes;
        stable[i] = true;
        break;
      }
      case 15:
        check_seek(i, at);
        break;
      case 16:
        check_translation(i, at, n);
        break;
      case 20:
      case 21:
        shift(i, round_down(at, kBlockSize), kBlockSize * (1 + below(20)), what == 20);
        break;
      default: {
        const std::string expected = at < m.bytes.size() ? m.bytes.substr(at, n) : "";
        REQUIRE(w.read(f, at, n).value() == expected);
      }
    }
  }

  void shift(unsigned i, u64 at, u64 n, bool collapse) {
    Model& m = models[i];
    const Status status = w.fallocate(files[i], collapse ? FALLOC_FL_COLLAPSE_RANGE : FALLOC_FL_INSERT_RANGE, at, n);
    const bool possible = collapse ? at + n < m.bytes.size() : at < m.bytes.size();
    REQUIRE(status.code() == (possible ? Errc::kOk : Errc::kInvalid));
    if (!possible) return;
    if (collapse) m.bytes.erase(at, n);
    else m.bytes.insert(at, n, '\0');
    if (m.bytes.size() <= 2 * kMaxSize) return;
    REQUIRE(w.truncate(files[i], kMaxSize).ok());
    m.bytes.resize(kMaxSize);
  }

  // Whole blocks, or up to the end of both.
  void clone() {
    const unsigned from = static_cast<unsigned>(below(kFiles)), to = static_cast<unsigned>(below(kFiles));
    Model &a = models[from], &b = models[to];
    const u64 in = round_down(place(), kBlockSize), out = round_down(place(), kBlockSize);
    if (in >= a.bytes.size()) return;
    u64 n = std::min((1 + below(30)) * kBlockSize, a.bytes.size() - in);
    if (n % kBlockSize != 0 && out + n < b.bytes.size()) n = round_down(n, kBlockSize);
    if (n == 0 || (from == to && in < out + round_up(n, kBlockSize) && out < in + round_up(n, kBlockSize))) return;
    stable[to] = false;
    REQUIRE(w.clone(files[from], in, files[to], out, n).value() == n);
    b.write(out, a.bytes.substr(in, n));
  }

  void check_seek(unsigned i, u64 at) {
    const Model& m = models[i];
    const auto found = w.fs().seek(*files[i], at, true);
    const u64 first = m.bytes.find_first_not_of('\0', at);
    if (first != std::string::npos) {
      REQUIRE(found.ok());
      REQUIRE(*found <= first);
    }
    const auto hole = w.fs().seek(*files[i], at, false);
    REQUIRE(hole.ok() == (at < m.bytes.size()));
    if (hole.ok() && *hole < m.bytes.size()) REQUIRE(m.bytes[*hole] == 0);
  }

  void check_translation(unsigned i, u64 at, u64 n) {
    const Model& m = models[i];
    const bool for_write = below(2) == 0;
    if (for_write) stable[i] = false;
    const auto pieces = w.fs().translate(*files[i], {at, at + n}, for_write, &kNothingHeldBack);
    REQUIRE(pieces.ok());
    u64 next = round_down(at, kBlockSize);
    for (const Translation& t : *pieces) {
      REQUIRE(t.file_offset == next);
      next += t.length;
      if (t.kind == Translation::Kind::kBeyondEnd) {
        REQUIRE(t.file_offset >= m.bytes.size());
        continue;
      }
      REQUIRE((!for_write || t.kind == Translation::Kind::kBlocks));
      for (u64 b = 0; b < t.length; b += kBlockSize) {
        const u64 size = std::min(kBlockSize, m.bytes.size() - (t.file_offset + b));
        const std::string expected = m.bytes.substr(t.file_offset + b, size);
        if (t.kind == Translation::Kind::kBlocks) {
          const std::byte* p = w.media().view(t.pool_offset + b, size);
          REQUIRE(std::memcmp(p, expected.data(), size) == 0);
        } else {
          REQUIRE(expected.find_first_not_of('\0') == std::string::npos);
        }
      }
    }
  }

  void check_all() {
    for (unsigned i = 0; i < kFiles; ++i) {
      REQUIRE(w.fs().size(*files[i]).value() == models[i].bytes.size());
      REQUIRE(w.contents(files[i]) == models[i].bytes);
      check_map(i);
    }
  }

  void check_map(unsigned i) {
    u64 blocks = 0;
    const auto extents = w.extents(files[i]);
    for (std::size_t k = 0; k < extents.size(); ++k) {
      blocks += extents[k].length;
      if (k == 0) continue;
      const auto &a = extents[k - 1], &b = extents[k];
      REQUIRE(a.file_end() <= b.file_block);
      const bool contiguous =
          a.file_end() == b.file_block && a.block + a.length == b.block && a.state == b.state &&
          a.epoch == b.epoch && a.shared == b.shared &&
          w.fs().store().geometry().ag_of(a.block) == w.fs().store().geometry().ag_of(b.block);
      REQUIRE_FALSE(contiguous);
    }
    const auto slot = w.slot(files[i]);
    if (slot.data_kind == static_cast<u16>(format::DataKind::kTree)) {
      REQUIRE(slot.blocks > blocks);
    } else {
      REQUIRE(slot.blocks == blocks);
    }
  }

  void close() {
    for (auto& f : files) f.reset();
  }
  void open() {
    for (unsigned i = 0; i < kFiles; ++i) files[i] = w.open("file" + std::to_string(i));
  }

  // Truncates all, and finds every block free again.
  void check_nothing_leaked(u64 free_at_start) {
    for (unsigned i = 0; i < kFiles; ++i) {
      REQUIRE(w.truncate(files[i], 0).ok());
      REQUIRE(w.slot(files[i]).blocks == 0);
    }
    CHECK(w.free_blocks() == free_at_start);
  }
};

void run_with_kills(Granularity granularity, SyncMode mode, bool clones = false) {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  World w(32u << 20, granularity, mode);
  Fuzz fuzz(w, seed);
  fuzz.clones = clones;
  const u64 free_at_start = w.free_blocks();
  for (unsigned round = 0; round < 12; ++round) {
    for (unsigned i = 0; i < 150; ++i) fuzz.step();
    fuzz.check_all();
    fuzz.close();
    if (round % 4 == 3) {
      w.check_pool();
    } else {
      w.remount();
    }
    fuzz.open();
    fuzz.check_all();
  }
  fuzz.check_nothing_leaked(free_at_start);
}

}  // namespace

TEST_CASE("fs: random operations agree with a model across daemons that die, strict mode") {
  run_with_kills(Granularity::kCacheLine, SyncMode::kStrict);
}

TEST_CASE("fs: random operations agree with a model across daemons that die, posix mode") {
  run_with_kills(Granularity::kPage, SyncMode::kPosix);
}

TEST_CASE("fs: random operations agree with a model on a page-granular pool in strict mode") {
  run_with_kills(Granularity::kPage, SyncMode::kStrict);
}

TEST_CASE("fs: files that share blocks agree with a model across daemons that die, and no block leaks [R29]") {
  run_with_kills(Granularity::kCacheLine, SyncMode::kStrict, true);
  run_with_kills(Granularity::kPage, SyncMode::kPosix, true);
  run_with_kills(Granularity::kVolatile, SyncMode::kStrict, true);
}

namespace {

void run_with_crashes(bool clones) {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  auto owned = std::make_unique<LossyMedia>(32u << 20, seed);
  LossyMedia& media = *owned;
  World w(std::move(owned), SyncMode::kPosix);
  REQUIRE(media.sync_all().ok());
  Fuzz fuzz(w, seed);
  fuzz.clones = clones;
  REQUIRE(w.fs().sync_all().ok());
  for (unsigned round = 0; round < 25; ++round) {
    const u64 steps = 1 + fuzz.below(120);
    for (u64 i = 0; i < steps; ++i) {
      fuzz.step();
      if (fuzz.below(60) == 0) REQUIRE(w.fs().sync_all().ok());
    }
    fuzz.check_all();
    fuzz.close();
    w.reboot();
    media.crash();
    w.mount();
    fuzz.open();
    for (unsigned i = 0; i < kFiles; ++i) {
      const std::string now_there = w.contents(fuzz.files[i]);
      if (fuzz.stable[i]) REQUIRE(now_there == fuzz.synced[i]);
      std::size_t foreign = 0;
      for (const char c : now_there) foreign += belongs(c, i) || (clones && (belongs(c, 0) || belongs(c, 1) || belongs(c, 2))) ? 0u : 1u;
      REQUIRE(foreign == 0);
      fuzz.models[i].bytes = now_there;
      fuzz.stable[i] = false;
      fuzz.check_map(i);
    }
  }
}

}  // namespace

TEST_CASE("fs: after a crash of the host, files hold what was synced, zeros, or bytes of their own") { run_with_crashes(false); }

TEST_CASE("fs: after a crash of the host, files that share blocks hold what was synced, zeros, or bytes of each other") {
  run_with_crashes(true);
}

TEST_CASE("fs: appends from several threads neither lose nor overwrite a byte [R45]") {
  World w(64u << 20);
  auto f = w.create("log");
  constexpr unsigned kThreads = 4, kAppends = 300;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < kAppends; ++i) {
        const std::string record(17 + 13 * t, static_cast<char>('a' + t));
        if (w.append(f, record).value() != record.size()) std::abort();
      }
    });
  }
  for (auto& t : threads) t.join();
  const std::string all = w.contents(f);
  std::size_t at = 0;
  unsigned counts[kThreads] = {};
  while (at < all.size()) {
    const unsigned t = static_cast<unsigned>(all[at] - 'a');
    REQUIRE(t < kThreads);
    const std::size_t n = 17 + 13 * t;
    REQUIRE(all.substr(at, n) == std::string(n, all[at]));
    ++counts[t];
    at += n;
  }
  for (const unsigned c : counts) CHECK(c == kAppends);
}

TEST_CASE("fs: readers, writers, truncaters, punchers and fsyncs of one file at once leave it sound") {
  const u64 seed = choose_seed();
  CAPTURE(seed);
  for (const Granularity g : {Granularity::kCacheLine, Granularity::kPage}) {
    World w(64u << 20, g, default_sync_mode(g));
    auto f = w.create("f");
    auto other = w.create("other");
    std::atomic<unsigned> foreign{0}, failed{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 5; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(seed + t);
        for (unsigned i = 0; i < 400; ++i) {
          const u64 at = random() % 500000, n = 1 + random() % 40000;
          bool ok = true;
          switch (random() % 8) {
            case 0:
              ok = w.truncate(f, at).ok();
              break;
            case 1:
              ok = w.fallocate(f, kPunch, at, n).ok();
              break;
            case 2:
              ok = w.fs().fsync(*f, false).ok();
              break;
            case 3:
              ok = w.write(other, at, std::string(n, 'o')).ok();
              break;
            case 4:
              ok = w.truncate(other, at).ok();
              break;
            case 5:
              ok = w.write(f, at, std::string(n, 'f')).ok();
              break;
            case 6:
              ok = w.append(f, std::string(n % 5000, 'f')).ok();
              break;
            default: {
              const auto r = w.read(f, at, n);
              ok = r.ok();
              if (ok)
                for (const char c : *r) foreign += c != 0 && c != 'f' ? 1u : 0u;
            }
          }
          if (!ok) ++failed;
        }
      });
    }
    for (auto& t : threads) t.join();
    CHECK(foreign == 0);
    CHECK(failed == 0);
    const u64 size = w.fs().size(*f).value();
    const std::string before = w.contents(f);
    CHECK(before.size() == size);
    f.reset();
    other.reset();
    w.remount();
    f = w.open("f");
    other = w.open("other");
    CHECK(w.contents(f) == before);
    REQUIRE(w.truncate(f, 0).ok());
    REQUIRE(w.truncate(other, 0).ok());
    CHECK(w.slot(f).blocks == 0);
    CHECK(w.slot(other).blocks == 0);
  }
}
