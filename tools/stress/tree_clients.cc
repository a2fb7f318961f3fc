// SPDX-License-Identifier: BSD-3-Clause
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <pindax/pindax.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "stress/process.h"
#include "stress/random.h"
#include "stress/tree.h"

namespace pindax::stress {
namespace {

// A file as a client has it: mapped whole.
struct Mapped {
  int fd = -1;
  pindax_mapping* mapping = nullptr;
  std::atomic<u64>* words = nullptr;
};

int map_file(pindax_client* client, const std::string& path, Mapped& m) {
  m.fd = pindax_open(client, path.c_str(), O_RDWR, 0);
  if (m.fd < 0) return m.fd;
  const int code = pindax_map(client, m.fd, 0, kClientFileBytes, PROT_READ | PROT_WRITE, 0, &m.mapping);
  if (code == 0) m.words = static_cast<std::atomic<u64>*>(pindax_mapping_address(m.mapping));
  return code;
}

// Pins some blocks, stores into them, sometimes persists, unpins.
class Client {
 public:
  Client(const Place& place, Random random) : place_(place), random_(random) {}

  int attach() {
    if (const int code = pindax_attach(place_.folder.c_str(), nullptr, &client_); code != 0) return code;
    for (const bool broken : {false, true})
      if (const int code = map_file(client_, client_file(place_, place_.number, broken), files_[broken ? 1 : 0]); code != 0) return code;
    return 0;
  }

  int round() {
    const bool broken = random_.chance(50);
    Mapped& m = files_[broken ? 1 : 0];
    const u64 first = random_.below(kClientFileBytes / kBlockSize);
    const u64 blocks = std::min(random_.between(1, 8), kClientFileBytes / kBlockSize - first);
    struct pindax_pin pin{};
    const bool pinned = random_.chance(70);
    if (pinned) {
      const int code = pindax_pin(m.mapping, first * kBlockSize, blocks * kBlockSize, random_.chance(50) ? PINDAX_PIN_WRITE : 0, &pin);
      if (code != 0) return broken ? 0 : code;  // beyond the end, perhaps
      place_.shared->pins.fetch_add(1, std::memory_order_relaxed);
    }
    for (u64 n = random_.between(1, 40); n > 0; --n) {
      const u64 index = first * (kBlockSize / 8) + random_.below(blocks * (kBlockSize / 8));
      const u32 count = place_.shared->client_files[place_.number].stored[index].load() + 1;
      const int signal = guarded_access([&] { m.words[index].store(client_word(place_.number, broken, index, count)); });
      if (signal != 0 && !broken) return -EFAULT;
      if (!broken) place_.shared->client_files[place_.number].stored[index].store(count);
    }
    if (random_.chance(5)) (void)pindax_persist(m.mapping, first * kBlockSize, blocks * kBlockSize);
    if (pinned && random_.chance(20)) sleep_ms(random_.below(20));
    return pinned ? pindax_unpin(m.mapping, &pin) : 0;
  }

 private:
  const Place& place_;
  Random random_;
  pindax_client* client_ = nullptr;
  std::array<Mapped, 2> files_{};
};

}  // namespace

std::string client_file(const Place& place, u32 client, bool broken) {
  return fmt::format("{}/client{}.{}", place.folder, client, broken ? "broken" : "kept");
}

void run_client(const Place& place) {
  Shared& shared = *place.shared;
  shared.client_lives.fetch_add(1);
  const u32 life = shared.life.load();
  Client client(place, Random(place.seed));
  int code = client.attach();
  while (code == 0) {
    code = client.round();
    shared.operations.fetch_add(1, std::memory_order_relaxed);
  }
  if (shared.phase.load() == Phase::kRun && shared.life.load() == life)
    shared.fail(fmt::format("client {}: {} ({})", place.number, pindax_strerror(code), pindax_last_error()));
  for (;;) ::pause();
}

void run_breaker(const Place& place, u32 clients) {
  Random random(place.seed);
  Shared& shared = *place.shared;
  while (shared.phase.load() <= Phase::kCrashing) {
    const std::string path = client_file(place, static_cast<u32>(random.below(clients)), true);
    const u32 life = shared.life.load();
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    const auto offset = static_cast<off_t>(round_down(random.below(kClientFileBytes), 8));  // whole words
    const auto length = static_cast<off_t>(8 * random.between(1, 5000));
    int result = fd < 0 ? -1 : 0;
    if (fd >= 0) {
      switch (random.below(4)) {
        case 0: result = ::ftruncate(fd, offset); break;
        case 1: result = ::ftruncate(fd, kClientFileBytes); break;
        case 2: result = ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length); break;
        default: result = ::fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
      }
    }
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (result == 0) shared.changes.fetch_add(1, std::memory_order_relaxed);
    else if (shared.phase.load() == Phase::kRun && shared.life.load() == life)
      return shared.fail(fmt::format("breaker: {}: {}", path, std::strerror(error)));
    else sleep_ms(20);
  }
}

void verify_client(const Place& place, u32 client) {
  std::vector<u64> words(kWords);
  for (const bool broken : {false, true}) {
    const std::string path = client_file(place, client, broken);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd < 0 ? -1 : ::pread(fd, words.data(), kClientFileBytes, 0);
    if (fd >= 0) ::close(fd);
    if (got < 0 || (!broken && static_cast<u64>(got) != kClientFileBytes)) return place.shared->fail(fmt::format("{}: cannot be read whole", path));
    place.shared->verified_bytes.fetch_add(static_cast<u64>(got));
    for (u64 i = 0; i < static_cast<u64>(got) / 8; ++i) {
      const u64 word = words[i];
      if (word != 0 && (word >> 32) != (client_word(client, broken, i, 0) >> 32))
        return place.shared->fail(fmt::format("{}: word {} holds {:016x}, which is not of this file and place", path, i, word));
      if (broken) continue;
      const u32 stored = place.shared->client_files[client].stored[i].load();
      if (static_cast<u32>(word) < stored) {
        place.shared->lost_updates.fetch_add(1);
        place.shared->fail(fmt::format("{}: word {} has count {}, {} was stored: a lost update", path, i, static_cast<u32>(word), stored));
      }
    }
  }
}

}  // namespace pindax::stress
