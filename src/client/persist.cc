// SPDX-License-Identifier: BSD-3-Clause
//
// pindax_persist: the bytes by the pool's granularity, then, if the daemon holds grants of the file that are not durable yet, the layout.
#include <libpmem2.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/steps.h"
#include "client/error.h"
#include "client/mapping.h"

using namespace pindax;
using namespace pindax::client;

namespace {

// Values of proto::WelcomeBody::granularity (pmem/media.h).
enum class Grain : u32 { kVolatile = 0, kPage = 1, kCacheLine = 2, kByte = 3 };

// libpmem2's flush and drain for this machine, from a throw-away mapping of the pool's beginning.
pmem2_persist_fn find_persist(int pool) {
  pmem2_persist_fn persist = nullptr;
  pmem2_source* source = nullptr;
  pmem2_config* config = nullptr;
  pmem2_map* map = nullptr;
  if (pmem2_source_from_fd(&source, pool) == 0 && pmem2_config_new(&config) == 0 &&
      pmem2_config_set_length(config, kHugePageSize) == 0 &&
      pmem2_config_set_required_store_granularity(config, PMEM2_GRANULARITY_CACHE_LINE) == 0 &&
      pmem2_config_set_sharing(config, PMEM2_SHARED) == 0 && pmem2_map_new(&map, config, source) == 0)
    persist = pmem2_get_persist_fn(map);
  if (map != nullptr) pmem2_map_delete(&map);
  if (config != nullptr) pmem2_config_delete(&config);
  if (source != nullptr) pmem2_source_delete(&source);
  return persist;
}

// One for each granularity: a process may use pools of both. Null if the host does not keep the promise (a granularity that was
// forced on the daemon): msync then.
pmem2_persist_fn persist_of(Grain grain, int pool) {
  if (grain == Grain::kByte) {
    static const pmem2_persist_fn at_bytes = find_persist(pool);
    return at_bytes;
  }
  static const pmem2_persist_fn at_lines = find_persist(pool);
  return at_lines;
}

int persist_bytes(pindax_mapping& m, u64 begin, u64 length) {
  const auto grain = static_cast<Grain>(m.client->welcome.granularity);
  if (m.direct && grain == Grain::kVolatile) return 0;
  if (m.direct && (grain == Grain::kCacheLine || grain == Grain::kByte)) {
    if (const auto persist = persist_of(grain, m.client->pool.get()); persist != nullptr) {
      persist(reinterpret_cast<void*>(begin), length);
      return 0;
    }
  }
  const u64 from = round_down(begin, kBlockSize);
  const u64 to = round_up(begin + length, kBlockSize);
  return ::msync(reinterpret_cast<void*>(from), to - from, MS_SYNC) == 0 ? 0 : fail_errno("persist");
}

}  // namespace

extern "C" PINDAX_API int pindax_persist(struct pindax_mapping* m, size_t offset, size_t length) {
  if (offset > m->span || length > m->span - offset) return fail(EINVAL, "the range reaches beyond its mapping");
  if (m->client->born != fork_generation.load()) return m->client->usable();
  if (length == 0) return 0;
  if (const int error = persist_bytes(*m, m->base + offset, length); error != 0) return error;
  // Looked at after the stores are durable: a grant made for one of them has set it before.
  if (m->direct && m->client->gate(m->id).uncommitted.load(std::memory_order_seq_cst) == 0) return 0;
  PINDAX_STEP("client.persist_bytes");
  const proto::PersistBody body{m->id, 0, m->file_offset + offset, m->file_offset + offset + length};
  Reply reply;
  return m->client->call(proto::Type::kPersist, body, reply);
}
