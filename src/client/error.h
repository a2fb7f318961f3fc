// SPDX-License-Identifier: BSD-3-Clause
//
// The library's way to fail: a negative errno, and a sentence for pindax_last_error() in the thread that failed.
#pragma once

#include <string_view>

#include "base/result.h"

namespace pindax::client {

// Remembers `text` for this thread and returns -err. Cuts long texts; allocates nothing.
int fail(int err, std::string_view text);
int fail(const Status& status);
// -errno with "what: strerror".
int fail_errno(std::string_view what);

}  // namespace pindax::client
