// SPDX-License-Identifier: BSD-3-Clause
#include "alloc/free_space.h"

namespace pindax {

void FreeSpace::add(Span s) {
  auto* e = new Extent;
  static_cast<Span&>(*e) = s;
  by_place_.insert(*e);
  by_size_.insert(*e);
}

// The new place keeps the order among the neighbours; the size is sorted again.
void FreeSpace::resize(Extent& e, Span s) {
  by_size_.erase(by_size_.iterator_to(e));
  static_cast<Span&>(e) = s;
  by_size_.insert(e);
}

void FreeSpace::remove(Extent& e) {
  by_size_.erase(by_size_.iterator_to(e));
  by_place_.erase(by_place_.iterator_to(e));
  delete &e;
}

FreeSpace::ByPlace::const_iterator FreeSpace::from_place(u64 at) const {
  Extent key;
  key.start = at;
  auto it = by_place_.upper_bound(key);
  if (it != by_place_.begin()) {
    const auto before = std::prev(it);
    if (before->end() > at) return before;
  }
  return it;
}

FreeSpace::BySize::const_iterator FreeSpace::from_size(u64 length) const {
  Extent key;
  key.start = 0;
  key.length = length;
  return by_size_.lower_bound(key);
}

std::optional<Span> FreeSpace::holding(u64 at) const {
  const auto it = from_place(at);
  if (it == by_place_.end() || it->start > at) return std::nullopt;
  return static_cast<Span>(*it);
}

bool FreeSpace::insert(Span s) {
  Extent key;
  key.start = s.start;
  auto next = by_place_.lower_bound(key);
  Extent* left = nullptr;
  Extent* right = nullptr;
  if (next != by_place_.end()) {
    if (next->start < s.end()) return false;
    if (next->start == s.end()) right = &*next;
  }
  if (next != by_place_.begin()) {
    auto before = std::prev(next);
    if (before->end() > s.start) return false;
    if (before->end() == s.start) left = &*before;
  }
  total_ += s.length;
  if (left != nullptr && right != nullptr) {
    const Span joined{left->start, left->length + s.length + right->length};
    remove(*right);
    resize(*left, joined);
  } else if (left != nullptr) {
    resize(*left, {left->start, left->length + s.length});
  } else if (right != nullptr) {
    resize(*right, {s.start, right->length + s.length});
  } else {
    add(s);
  }
  return true;
}

bool FreeSpace::take(Span s) {
  const auto found = from_place(s.start);
  if (s.length == 0 || found == by_place_.end() || found->start > s.start || found->end() < s.end()) return false;
  auto& e = const_cast<Extent&>(*found);
  const Span whole = e;
  total_ -= s.length;
  const Span front{whole.start, s.start - whole.start}, back{s.end(), whole.end() - s.end()};
  if (front.length != 0) {
    resize(e, front);
    if (back.length != 0) add(back);
  } else if (back.length != 0) {
    resize(e, back);
  } else {
    remove(e);
  }
  return true;
}

void FreeSpace::clear() {
  by_size_.clear();
  by_place_.clear_and_dispose([](Extent* e) { delete e; });
  total_ = 0;
}

}  // namespace pindax
