// SPDX-License-Identifier: BSD-3-Clause
#include "base/crc32c.h"

#include <cstring>
#include <random>
#include <string>

#include "base/little_endian.h"
#include "base/result.h"
#include "catch.h"

using namespace pindax;

TEST_CASE("crc32c: the check value of RFC 3720 and of the empty string") {
  CHECK(crc32c("123456789", 9) == 0xe3069283u);
  CHECK(crc32c("", 0) == 0);
  std::string zeros(32, '\0');
  CHECK(crc32c(zeros.data(), zeros.size()) == 0x8a9136aau);
}

TEST_CASE("crc32c: a sum continued over a cut equals the sum of the whole") {
  const std::string text = "a store is not durable until it is flushed and fenced";
  for (std::size_t cut = 0; cut <= text.size(); ++cut)
    CHECK(crc32c(text.data() + cut, text.size() - cut, crc32c(text.data(), cut)) == crc32c(text.data(), text.size()));
}

TEST_CASE("crc32c: every length and place gives what the definition gives") {
  std::string bytes(3 * 4096 + 64, '\0');
  std::minstd_rand random(7);
  for (char& c : bytes) c = static_cast<char>(random());
  const auto by_definition = [](const char* p, std::size_t n, u32 crc) {
    crc = ~crc;
    for (; n > 0; --n) {
      crc ^= static_cast<unsigned char>(*p++);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    }
    return ~crc;
  };
  for (std::size_t length = 0; length <= 3 * 4096; length += length < 1200 ? 1 : 1 + random() % 61) {
    const char* at = bytes.data() + random() % 64;
    const u32 seed = static_cast<u32>(random());
    if (crc32c(at, length, seed) != by_definition(at, length, seed)) FAIL("length " << length);
  }
}

TEST_CASE("endian: bytes lie little end first") {
  le32 v = 0x01020304;
  unsigned char bytes[4];
  std::memcpy(bytes, &v, 4);
  CHECK(bytes[0] == 4);
  CHECK(bytes[3] == 1);
  CHECK(v == 0x01020304u);
}

TEST_CASE("result: every code has an errno but ok, and a name") {
  for (int c = 0; c <= static_cast<int>(Errc::kIncompatible); ++c) {
    const auto code = static_cast<Errc>(c);
    CHECK((to_errno(code) == 0) == (code == Errc::kOk));
    CHECK(std::string(errc_name(code)) != "unknown error");
  }
}
