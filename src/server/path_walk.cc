// SPDX-License-Identifier: BSD-3-Clause
#include "server/path_walk.h"

#include <sys/stat.h>
#include <unistd.h>

namespace pindax {

namespace {

// Takes the first component off; empty when only slashes are left.
std::string take_component(std::string& rest) {
  std::size_t begin = rest.find_first_not_of('/');
  if (begin == std::string::npos) {
    rest.clear();
    return {};
  }
  std::size_t end = rest.find('/', begin);
  if (end == std::string::npos) end = rest.size();
  std::string component = rest.substr(begin, end - begin);
  rest.erase(0, end);
  return component;
}

bool only_slashes(const std::string& s) { return s.find_first_not_of('/') == std::string::npos; }

}  // namespace

Result<WalkResult> walk_path(FileSystem& fs, const Caller& caller, std::string_view path, bool follow_last) {
  if (path.size() > kMaxPathBytes) return Status(Errc::kNameTooLong, "the path is longer than 4096 bytes");
  if (path.find('\0') != std::string_view::npos) return Status(Errc::kInvalid, "a path with a zero byte");
  PINDAX_ASSIGN(InodeRef root, fs.root());
  WalkResult at{.parent = root, .name = {}, .inode = root, .must_be_directory = false};
  std::string rest(path);
  int links = 0;
  for (std::string name = take_component(rest); !name.empty(); name = take_component(rest)) {
    if (!at.inode) return Status(Errc::kNotFound, "no such directory: " + at.name);
    InodeRef dir = at.inode;
    PINDAX_ASSIGN(const Attributes dir_attributes, fs.attributes(*dir));
    if (!S_ISDIR(dir_attributes.mode)) return Status(Errc::kNotDirectory, "not a directory: " + at.name);
    PINDAX_TRY(fs.access(*dir, X_OK, caller));
    const bool last = only_slashes(rest);
    auto found = fs.lookup(*dir, name);
    if (!found.ok() && found.code() != Errc::kNotFound) return found.status();
    InodeRef inode = found.ok() ? *found : nullptr;
    if (inode && (!last || follow_last || !rest.empty())) {
      PINDAX_ASSIGN(const Attributes attributes, fs.attributes(*inode));
      if (S_ISLNK(attributes.mode)) {
        if (++links > kMaxSymlinks) return Status(Errc::kInvalid, "too many symbolic links in the path");
        PINDAX_ASSIGN(const std::string target, fs.read_link(*inode));
        const bool absolute = !target.empty() && target.front() == '/';
        rest = target + rest;
        at = {.parent = absolute ? root : dir, .name = {}, .inode = absolute ? root : dir, .must_be_directory = false};
        continue;
      }
    }
    const bool dots = name == "." || name == "..";
    at = {.parent = dir, .name = dots ? std::string() : name, .inode = inode, .must_be_directory = !rest.empty()};
  }
  return at;
}

Result<InodeRef> walk_existing(FileSystem& fs, const Caller& caller, std::string_view path, bool follow_last) {
  PINDAX_ASSIGN(WalkResult at, walk_path(fs, caller, path, follow_last));
  if (!at.inode) return Status(Errc::kNotFound, "no such file: " + std::string(path));
  if (at.must_be_directory) {
    PINDAX_ASSIGN(const Attributes attributes, fs.attributes(*at.inode));
    if (!S_ISDIR(attributes.mode)) return Status(Errc::kNotDirectory, "not a directory: " + std::string(path));
  }
  return at.inode;
}

}  // namespace pindax
