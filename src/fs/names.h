// SPDX-License-Identifier: BSD-3-Clause
//
// What may be done with a name: checks that namespace.cc and rename.cc share.
#pragma once

#include <string_view>

#include "base/result.h"
#include "format/format.h"

namespace pindax {

// kNotFound if empty, kNameTooLong, kInvalid for a slash or a zero byte.
Status check_name(std::string_view name);
Status check_directory(const format::Inode& dir);
// kNotDirectory, kNotFound if the directory was removed, kPermission for immutable ones.
Status may_add_names(const format::Inode& dir);
// kPermission by the flags of either.
Status may_remove_name(const format::Inode& dir, const format::Inode& victim);

}  // namespace pindax
