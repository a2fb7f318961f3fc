// SPDX-License-Identifier: BSD-3-Clause
//
// What lies at each page of a mapping: one word a page, in sparse memory of its own, and the number of kernel mappings (VMAs)
// that this makes. The kernel merges neighbours that continue each other, and so does the count.
//
// The service thread writes; it allocates nothing (F3): the array is reserved when the mapping is made. Counts may be read
// by anyone. `mapped` says which pages are translated now as far as the client knows: a revocation that the daemon carries out by
// itself leaves bits set, and the next touch shows.
#pragma once

#include <atomic>
#include <memory>

#include "base/types.h"

namespace pindax::client {

// 0 is a placeholder.
struct Place {
  enum Kind : u64 { kPlaceholder = 0, kZeros = 1, kBeyond = 2, kBlocks = 3 };
  u64 word = 0;

  static Place blocks(u64 block, bool writable) { return {block << 3 | (writable ? 4u : 0u) | kBlocks}; }
  static Place zeros() { return {kZeros}; }
  static Place beyond() { return {kBeyond}; }
  u64 block() const { return word >> 3; }
  Kind kind() const { return static_cast<Kind>(word & 3); }
  // What the next page must hold to lie in the same kernel mapping; 0: nothing does.
  u64 continued() const {
    if (kind() == kBlocks) return word + 8;
    return kind() == kZeros ? word : 0;
  }
  Place at(u64 page) const { return kind() == kBlocks ? Place{word + 8 * page} : *this; }
  bool operator==(const Place&) const = default;
};

class PageBook {
 public:
  PageBook() = default;
  ~PageBook() { release(); }
  PageBook(const PageBook&) = delete;
  PageBook& operator=(const PageBook&) = delete;

  // For `pages` pages; throws std::bad_alloc. All placeholders.
  void reserve(u64 pages);
  void release();

  u64 pages() const { return pages_; }
  Place at(u64 page) const { return {words_[page]}; }
  // Pages [from, to) now hold place, place.at(1), …: the change in the number of kernel mappings.
  i64 set(u64 from, u64 to, Place place);
  // The first page of [from, to) that does not hold what place, place.at(1), … says; `to` if all do.
  u64 first_other(u64 from, u64 to, Place place) const;
  bool any(u64 from, u64 to) const;  // something else than placeholders

  bool mapped(u64 page) const { return (mapped_[page / 64].load(std::memory_order_relaxed) >> (page % 64) & 1) != 0; }
  void set_mapped(u64 from, u64 to);
  void clear_mapped(u64 from, u64 to);

  u64 pieces() const { return static_cast<u64>(pieces_.load(std::memory_order_relaxed)); }
  u64 mapped_pages() const { return mapped_pages_.load(std::memory_order_relaxed); }

 private:
  i64 begins(u64 from, u64 to) const;

  u64* words_ = nullptr;
  u64 pages_ = 0;
  std::unique_ptr<std::atomic<u64>[]> mapped_;
  std::atomic<i64> pieces_{0};
  std::atomic<u64> mapped_pages_{0};
};

}  // namespace pindax::client
