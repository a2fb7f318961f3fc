// SPDX-License-Identifier: BSD-3-Clause
//
// What the journal's tests share: small pools, blocks of test data, seeds.
#pragma once

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>

#include "journal/transaction.h"
#include "pmem/pool_media.h"

namespace pindax::test {

inline u64 seed() {
  static const u64 value = [] {
    const char* text = std::getenv("PINDAX_SEED");
    const u64 v = text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device{}();
    std::cout << "PINDAX_SEED=" << v << "\n";
    return v;
  }();
  return value;
}

// The smallest pool there is: 8 MiB, a ring of 512 KiB.
inline format::Geometry small_geometry() { return *format::plan_geometry(format::kMinPoolBytes); }

// A pool with an empty journal.
inline std::unique_ptr<Media> new_pool(Granularity granularity = Granularity::kCacheLine) {
  auto media = make_memory_media(format::kMinPoolBytes, granularity);
  if (!MetaStore::format_journal(*media, small_geometry()).ok()) std::abort();
  return media;
}

inline std::unique_ptr<MetaStore> open_store(Media& media, SyncMode mode, bool read_only = false) {
  auto store = MetaStore::open(media, small_geometry(), mode, read_only);
  if (!store.ok()) {
    std::cerr << store.status().message() << "\n";
    std::abort();
  }
  return std::move(store).value();
}

// The n-th data block of the second group.
inline PoolOffset data_block(u64 n) { return block_offset(small_geometry().first_data(1) + n); }

// Sets the u64 at `at` + 8 * index in the 512-byte object at `at`.
inline Status put(Transaction& tx, PoolOffset at, u32 index, u64 value) {
  PINDAX_ASSIGN(std::byte* bytes, tx.modify(at, 512, nullptr));
  std::memcpy(bytes + 8 * index, &value, sizeof value);
  return {};
}

inline u64 get(MetaStore& store, PoolOffset at, u32 index) {
  auto view = store.view(at, 512);
  u64 value = 0;
  if (!view.ok()) std::abort();
  std::memcpy(&value, view->data() + 8 * index, sizeof value);
  return value;
}

inline Result<Lsn> put_one(MetaStore& store, PoolOffset at, u32 index, u64 value) {
  Transaction tx(store);
  PINDAX_TRY(put(tx, at, index, value));
  return tx.commit();
}

}  // namespace pindax::test
