// SPDX-License-Identifier: BSD-3-Clause
//
// The client driver's commands that move bytes by other ways than its mapping.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct pindax_client;

namespace driver {

using Bytes = std::vector<unsigned char>;

// A file read and written by messages to the daemon, though there is a mount.
class MessageFile {
 public:
  // Empty: done; else why not.
  std::string open(const std::string& mount_or_socket, const std::string& path);
  std::string read(std::uint64_t offset, std::size_t length, Bytes& out);
  std::string write(std::uint64_t offset, const Bytes& bytes);
  // Removes a name, likewise; of any file.
  static std::string remove(const std::string& mount_or_socket, const std::string& path);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Counts in words of its own, one in each of `pages` pages, at byte 8 * `word` of the page: looks whether the word is what this
// process left there, then stores the next number. For `ms` milliseconds; every page then holds its last number.
struct Counting {
  unsigned word = 0;
  unsigned pages = 1;
  long ms = 1000;
  unsigned seed = 1;
};
// By memory of any mapping, or, where that is null, by pread and pwrite on `fd`. Empty: how often is in `rounds` and the last
// numbers in `last`; else the update that was lost.
std::string count(const Counting& how, unsigned char* memory, int fd, unsigned long& rounds, std::vector<std::uint64_t>& last);

}  // namespace driver
