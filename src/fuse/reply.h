// SPDX-License-Identifier: BSD-3-Clause
//
// From the file system's words to FUSE's: attributes, entries, errors, callers.
#pragma once

#include <sys/stat.h>

#include "fuse/context.h"

namespace pindax {

// Corruption and host errors are logged here, once; everything else is the caller's business.
void reply_error(fuse_req_t req, Errc code);
void reply_status(fuse_req_t req, const Status& status);

struct stat to_stat(const Attributes& a);
fuse_entry_out to_entry_out(const Context& context, const Attributes& a);
double attr_timeout_of(const Context& context, const Attributes& a);
fuse_entry_param to_entry(const Context& context, const Attributes& a);

// Replies with the entry of `inode` and counts the lookup.
void reply_entry(fuse_req_t req, const InodeRef& inode);
void reply_attributes(fuse_req_t req, Inode& inode);
// For requests that libfuse does not know.
void send_reply(int fd, u64 unique, int error, const void* body = nullptr, std::size_t size = 0);

// The inode of a request, or null after an ESTALE reply.
InodeRef inode_or_stale(fuse_req_t req, fuse_ino_t node);
InodeRef inode_of(fuse_req_t req, fuse_ino_t node, const fuse_file_info* fi);

// The caller as FUSE knows it. The kernel has applied the rules about groups and capabilities where it can,
// so it counts as privileged unless the request says that set-id bits must go.
Caller caller_of(fuse_req_t req);
// For requests that do not say whether set-id bits must go: if the file has any, asks /proc for the caller's CAP_FSETID and groups.
void learn_rights(fuse_req_t req, Inode& inode, Caller& caller);
// As caller_of(), for operations that may wait for pins.
FileSystem::ChangeContext change_context(fuse_req_t req);

}  // namespace pindax
