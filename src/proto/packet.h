// SPDX-License-Identifier: BSD-3-Clause
//
// The client's end of the socket: connecting, and receiving a packet with what descriptors came along. For the library and
// the command-line tools; the daemon's end never blocks and lives in the server room. Reentrant; nothing here allocates.
#pragma once

#include <cstddef>
#include <string_view>

#include "base/unique_fd.h"
#include "proto/messages.h"

namespace pindax::proto {

// Connects to the daemon's socket. 0 or an errno: ENAMETOOLONG, ENOENT or ECONNREFUSED where nobody listens.
int connect_socket(std::string_view path, UniqueFd& out);

inline constexpr unsigned kMaxDescriptors = 4;  // that a packet of the daemon brings

// Blocks for the next packet. Returns its length, 0 at the end of the connection, or a negative errno. Descriptors go to
// `passed` (kMaxDescriptors places, or null: they are closed), in their order; what was there before is closed.
long receive_packet(int socket, void* buffer, std::size_t capacity, UniqueFd* passed);

}  // namespace pindax::proto
