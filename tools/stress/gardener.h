// SPDX-License-Identifier: BSD-3-Clause
//
// A process of pindax-stress that owns a folder and knows everything in it. Not thread-safe.
//
// An operation that fails because the daemon was killed under it leaves its paths in doubt: after the next mount they are removed
// and forgotten. Everything that was acknowledged must be there.
#pragma once

#include <pindax/pindax.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "stress/random.h"
#include "stress/tree.h"

namespace pindax::stress {

class Gardener {
 public:
  explicit Gardener(const Place& place);
  ~Gardener();
  Gardener(const Gardener&) = delete;

  void run();

 private:
  struct File {
    std::string bytes;
    std::map<std::string, std::string> attributes;
  };
  using FilePtr = std::shared_ptr<File>;

  // Operations: true if done (or nothing to do); false leaves `why_`. gardener.cc: names; gardener_data.cc: bytes
  bool step();
  bool create();
  bool remove();
  bool rename();
  bool link();
  bool make_folder();
  bool remove_folder();
  bool symlink();
  bool attribute();
  bool check_one();
  bool collide();  // in the folder that all share
  bool collide_rename(const std::string& folder);
  bool check_shared(const std::string& path);

  bool data();
  bool write(const std::string& path, File& file);
  bool change(const std::string& path, File& file);
  bool copy(const std::string& path, File& file);
  bool store(const std::string& path, File& file);         // through the library
  bool store_mounted(const std::string& path, File& file);  // through an ordinary mapping

  bool failed(const std::string& what);  // notes errno
  bool failed(const std::string& what, int error);
  std::string new_path();
  const std::string* any_file();
  std::string any_folder();
  void doubt(const std::string& path) { doubtful_.push_back(path); }
  void doubt_file(const File& file);

  bool attach();
  bool recover(u32 life);
  bool verify();
  bool verify_file(const std::string& path, const File& file);
  bool verify_folder(const std::string& path, std::set<std::string>& seen);
  bool down(u32 life) const { return place_.shared->phase.load() == Phase::kCrashing || place_.shared->life.load() != life; }

  const Place place_;
  const std::string root_, shared_root_;
  Random random_;
  pindax_client* client_ = nullptr;
  std::map<std::string, FilePtr> files_;
  std::map<std::string, std::string> links_;  // symbolic
  std::set<std::string> folders_;
  std::vector<std::string> doubtful_;
  std::string why_;
  u64 serial_ = 0;
};

}  // namespace pindax::stress
