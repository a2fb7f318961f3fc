// SPDX-License-Identifier: BSD-3-Clause
#include "client/page_book.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

namespace pindax::client {
namespace {

// f(word index, mask of the bits of [from, to) in it).
template <class F>
void each_word(u64 from, u64 to, F f) {
  for (u64 page = from; page < to;) {
    const u64 n = std::min<u64>(64 - page % 64, to - page);
    f(page / 64, (n == 64 ? ~u64{0} : (u64{1} << n) - 1) << (page % 64));
    page += n;
  }
}

}  // namespace

void PageBook::reserve(u64 pages) {
  mapped_ = std::make_unique<std::atomic<u64>[]>(pages / 64 + 1);
  void* p = ::mmap(nullptr, pages * sizeof(u64), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  words_ = static_cast<u64*>(p);
  pages_ = pages;
}

void PageBook::release() {
  if (words_ != nullptr) ::munmap(words_, pages_ * sizeof(u64));
  words_ = nullptr;
  pages_ = 0;
  mapped_.reset();
  pieces_.store(0);
  mapped_pages_.store(0);
}

// Kernel mappings that begin in [from, to).
i64 PageBook::begins(u64 from, u64 to) const {
  i64 count = 0;
  u64 expected = from == 0 ? 0 : Place{words_[from - 1]}.continued();
  for (u64 page = from; page < to; ++page) {
    const u64 word = words_[page];
    if (word != 0 && word != expected) ++count;
    expected = Place{word}.continued();
  }
  return count;
}

i64 PageBook::set(u64 from, u64 to, Place place) {
  const u64 behind = std::min(to + 1, pages_);
  if (place.word == 0 && !any(from, to)) return 0;
  const i64 before = begins(from, behind);
  for (u64 page = from; page < to; ++page) words_[page] = place.at(page - from).word;
  const i64 change = begins(from, behind) - before;
  pieces_.fetch_add(change, std::memory_order_relaxed);
  return change;
}

u64 PageBook::first_other(u64 from, u64 to, Place place) const {
  for (u64 page = from; page < to; ++page)
    if (words_[page] != place.at(page - from).word) return page;
  return to;
}

bool PageBook::any(u64 from, u64 to) const {
  for (u64 page = from; page < to; ++page)
    if (words_[page] != 0) return true;
  return false;
}

void PageBook::set_mapped(u64 from, u64 to) {
  u64 count = 0;
  each_word(from, to, [&](u64 word, u64 mask) {
    count += static_cast<u64>(std::popcount(mask & ~mapped_[word].fetch_or(mask, std::memory_order_relaxed)));
  });
  mapped_pages_.fetch_add(count, std::memory_order_relaxed);
}

void PageBook::clear_mapped(u64 from, u64 to) {
  u64 count = 0;
  each_word(from, to, [&](u64 word, u64 mask) {
    count += static_cast<u64>(std::popcount(mask & mapped_[word].fetch_and(~mask, std::memory_order_relaxed)));
  });
  mapped_pages_.fetch_sub(count, std::memory_order_relaxed);
}

}  // namespace pindax::client
