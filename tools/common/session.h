// SPDX-License-Identifier: BSD-3-Clause
//
// A command's use of the client library: one file, opened on a mount or through a socket.
#pragma once

#include <pindax/pindax.h>

#include <string>
#include <utility>

#include "base/result.h"
#include "base/types.h"

namespace pindax::tools {

// The library's negative errno with its explanation.
Status library_status(int error);

class Session {
 public:
  // `socket` empty: `file` is a path on a mount.
  static Result<Session> open(const std::string& file, const std::string& socket, int flags,
                              const struct pindax_attach_options* options = nullptr);
  Session(Session&& o) noexcept
      : client_(std::exchange(o.client_, nullptr)), fd_(std::exchange(o.fd_, -1)), size_bytes_(o.size_bytes_) {}
  Session& operator=(Session&&) = delete;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  pindax_client* client() const { return client_; }
  int fd() const { return fd_; }
  u64 size_bytes() const { return size_bytes_; }
  Result<pindax_mapping*> map(u64 offset, u64 length, int prot, int flags);  // owned by the session

 private:
  Session() = default;
  Status learn_size(const std::string& file, const std::string& socket);

  pindax_client* client_ = nullptr;
  int fd_ = -1;
  u64 size_bytes_ = 0;
};

}  // namespace pindax::tools
