// SPDX-License-Identifier: BSD-3-Clause
//
// What every fuzz target reads its input with, and how it says that a promise was broken. An input is a program of small
// steps: bytes that are missing read as zero, so that every input means something.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/types.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size);

namespace pindax::fuzz {

class Input {
 public:
  Input(const unsigned char* data, std::size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }
  std::size_t left() const { return left_; }

  template <class T>
  T take() {
    T value{};
    const std::size_t n = std::min(sizeof value, left_);
    if (n != 0) std::memcpy(&value, data_, n);
    skip(n);
    return value;
  }
  u8 byte() { return take<u8>(); }
  u16 half() { return take<u16>(); }
  u64 word() { return take<u64>(); }
  // [0, n); n > 0
  u64 below(u64 n) { return n <= 256 ? byte() % n : half() % n; }

  std::string_view bytes(std::size_t n) {
    n = std::min(n, left_);
    const std::string_view out(reinterpret_cast<const char*>(data_), n);
    skip(n);
    return out;
  }
  // A length byte, then that many.
  std::string_view text() { return bytes(byte()); }

  // A number of the kind that breaks things: near zero, near a power of two, or anything.
  u64 odd_number() {
    const u8 how = byte();
    switch (how % 8) {
      case 0: return how / 8;
      case 1: return u64{1} << (byte() % 64);
      case 2: return (u64{1} << (byte() % 64)) - 1;
      case 3: return ~u64{0} - how / 8;
      case 4: return half();
      case 5: return u64{half()} << kBlockShift;
      case 6: return (u64{1} << 63) + how / 8;
      default: return word();
    }
  }

 private:
  void skip(std::size_t n) {
    if (n != 0) data_ += n;
    left_ -= n;
  }

  const unsigned char* data_;
  std::size_t left_;
};

[[noreturn]] inline void broken(const char* promise, std::string_view detail, const char* file, int line) {
  std::fprintf(stderr, "fuzz: broken promise: %s (%s:%d): %.*s\n", promise, file, line, static_cast<int>(detail.size()),
               detail.data());
  std::abort();
}

}  // namespace pindax::fuzz

// A promise that holds for every input.
#define FUZZ_REQUIRE(condition, detail)                                                 \
  do {                                                                                  \
    if (!(condition)) ::pindax::fuzz::broken(#condition, detail, __FILE__, __LINE__);    \
  } while (0)
