// SPDX-License-Identifier: BSD-3-Clause
//
// Ordinary system calls on several file systems, interleaved. Usage: mount_bench NAME=DIR NAME=DIR …
// The first is what the others are compared with.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "measure.h"

namespace {

using pindax::bench::Subject;

constexpr std::size_t kFileBytes = 16u << 20;

[[noreturn]] void die(const std::string& what) {
  std::perror(what.c_str());
  std::exit(4);
}

struct Place {
  std::string name, dir;
  int fd = -1;
};

// One subject a place, doing `operation(place, i)` for i in [0, count).
template <class Operation>
std::vector<Subject> subjects(std::vector<Place>& places, Operation operation) {
  std::vector<Subject> out;
  for (Place& place : places)
    out.push_back({place.name, [&place, operation](unsigned long count) {
                     for (unsigned long i = 0; i < count; ++i) operation(place, i);
                   }});
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Place> places;
  for (int i = 1; i < argc; ++i) {
    const char* eq = std::strchr(argv[i], '=');
    if (eq == nullptr) return std::fprintf(stderr, "usage: mount_bench NAME=DIR…\n"), 2;
    places.push_back({std::string(argv[i], static_cast<std::size_t>(eq - argv[i])), eq + 1, -1});
  }
  if (places.empty()) return std::fprintf(stderr, "usage: mount_bench NAME=DIR…\n"), 2;
  std::vector<char> buffer(1 << 20, 'b');
  for (Place& p : places) {
    p.fd = ::open((p.dir + "/bench.data").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (p.fd < 0) die(p.dir);
    for (std::size_t at = 0; at < kFileBytes; at += buffer.size())
      if (::pwrite(p.fd, buffer.data(), buffer.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(buffer.size())) die(p.dir);
  }
  char* data = buffer.data();
  const auto offset = [](unsigned long i, std::size_t size) { return static_cast<off_t>(i * 7919 * size % kFileBytes / size * size); };
  const auto must = [](ssize_t n, std::size_t want, const Place& p) {
    if (n != static_cast<ssize_t>(want)) die(p.dir);
  };
  for (const std::size_t size : {std::size_t{4096}, std::size_t{1} << 20}) {
    const std::string label = size == 4096 ? "4 KiB" : "1 MiB";
    const unsigned long count = size == 4096 ? 3000 : 60;
    pindax::bench::compare("read " + label, subjects(places, [=](Place& p, unsigned long i) { must(::pread(p.fd, data, size, offset(i, size)), size, p); }), count);
    pindax::bench::compare("write " + label, subjects(places, [=](Place& p, unsigned long i) { must(::pwrite(p.fd, data, size, offset(i, size)), size, p); }), count);
  }
  pindax::bench::compare("stat", subjects(places, [](Place& p, unsigned long) {
    struct stat st;
    if (::stat((p.dir + "/bench.data").c_str(), &st) != 0) die(p.dir);
  }), 2000);
  pindax::bench::compare("create+close+unlink", subjects(places, [](Place& p, unsigned long i) {
    const std::string path = p.dir + "/bench." + std::to_string(i);
    const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_EXCL, 0600);
    if (fd < 0 || ::close(fd) != 0 || ::unlink(path.c_str()) != 0) die(path);
  }), 500);
  for (Place& p : places) ::unlink((p.dir + "/bench.data").c_str());
  return 0;
}
