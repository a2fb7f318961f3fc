// SPDX-License-Identifier: BSD-3-Clause
//
// The handlers, one file per group of operations. Each group adds its own to libfuse's table.
#pragma once

#include <fuse_lowlevel.h>

#include "fuse/kernel_abi.h"

namespace pindax {

struct Context;

void add_name_operations(fuse_lowlevel_ops& ops);       // op_names.cc: lookup, forget, mknod … link
void add_attribute_operations(fuse_lowlevel_ops& ops);  // op_attributes.cc: getattr, setattr, statfs
void add_open_operations(fuse_lowlevel_ops& ops);       // op_open.cc: open, create, release
void add_data_operations(fuse_lowlevel_ops& ops);       // op_data.cc: read, write, fsync, copy_file_range
void add_layout_operations(fuse_lowlevel_ops& ops);     // op_layout.cc: fallocate, lseek
void add_directory_operations(fuse_lowlevel_ops& ops);  // op_directory.cc: opendir, readdir, readdirplus
void add_xattr_operations(fuse_lowlevel_ops& ops);      // op_xattr.cc
void add_ioctl_operations(fuse_lowlevel_ops& ops);      // op_ioctl.cc

// Requests that libfuse does not know, answered on the device at once.
void answer_tmpfile(Context& context, int fd, const fuse_in_header& request, const fuse_create_in& in);
void answer_statx(Context& context, int fd, const fuse_in_header& request, const abi::StatxIn& in);

}  // namespace pindax
