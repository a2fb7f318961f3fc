// SPDX-License-Identifier: BSD-3-Clause
#include "client/error.h"

#include <pindax/pindax.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace pindax::client {
namespace {

constexpr std::size_t kMaxText = 400;
thread_local char last_error[kMaxText + 1];

}  // namespace

int fail(int err, std::string_view text) {
  const std::size_t n = std::min(text.size(), kMaxText);
  std::memcpy(last_error, text.data(), n);
  last_error[n] = '\0';
  return -err;
}

int fail(const Status& status) { return fail(to_errno(status.code()), status.message()); }

int fail_errno(std::string_view what) {
  const int err = errno;
  char text[kMaxText];
  std::snprintf(text, sizeof(text), "%.*s: %s", static_cast<int>(what.size()), what.data(), std::strerror(err));
  return fail(err, text);
}

}  // namespace pindax::client

extern "C" {

PINDAX_API const char* pindax_last_error(void) { return pindax::client::last_error; }

PINDAX_API const char* pindax_strerror(int code) {
  const char* text = strerrordesc_np(code < 0 ? -code : code);
  return text != nullptr ? text : "unknown error";
}

}  // extern "C"
