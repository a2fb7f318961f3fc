// SPDX-License-Identifier: BSD-3-Clause
#include "model.h"

namespace pindax::crash {

Model::Model() {
  ModelInode root;
  root.mode = 0040755;
  root.links = 2;
  inodes.emplace(kRoot, root);
  next = kRoot + 1;
}

u32 Model::find(const std::string& path) const {
  std::string name;
  if (path == "/") return kRoot;
  const u32 dir = parent_of(path, &name);
  if (dir == 0) return 0;
  const auto& entries = inodes.at(dir).entries;
  auto it = entries.find(name);
  return it == entries.end() ? 0 : it->second;
}

u32 Model::parent_of(const std::string& path, std::string* name) const {
  u32 at = kRoot;
  for (std::size_t begin = 1;;) {
    const std::size_t end = path.find('/', begin);
    *name = path.substr(begin, end == std::string::npos ? end : end - begin);
    const ModelInode& dir = inodes.at(at);
    if (!dir.is_directory()) return 0;
    if (end == std::string::npos) return at;
    auto it = dir.entries.find(*name);
    if (it == dir.entries.end()) return 0;
    at = it->second;
    begin = end + 1;
  }
}

u32 Model::add(const std::string& path, u32 mode) {
  std::string name;
  const u32 dir = parent_of(path, &name);
  if (dir == 0 || inodes.at(dir).entries.contains(name)) return 0;
  ModelInode inode;
  inode.mode = mode;
  inode.links = inode.is_directory() ? 2 : 1;
  ModelInode& parent = inodes.at(dir);
  if (inode.is_directory()) parent.links += 1;
  parent.mtime.reset();
  const u32 id = next++;
  parent.entries.emplace(name, id);
  inodes.emplace(id, inode);
  return id;
}

void Model::drop(u32 id) {
  ModelInode& inode = inodes.at(id);
  if (inode.is_directory() || --inode.links == 0) inodes.erase(id);
}

bool Model::inside(u32 directory, u32 ancestor) const {
  if (directory == ancestor) return true;
  for (const auto& [name, id] : inodes.at(ancestor).entries)
    if (inodes.at(id).is_directory() && inside(directory, id)) return true;
  return false;
}

}  // namespace pindax::crash
