// SPDX-License-Identifier: BSD-3-Clause
//
// Names and attributes for tools that work without a mount. The rules that the kernel would have checked (search, write, sticky,
// owner) are checked here.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "fs/policy.h"
#include "server/control.h"
#include "server/path_walk.h"

namespace pindax::control {

namespace {

const char* type_name(u32 mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character device";
    case S_IFBLK: return "block device";
    default: return "unknown";
  }
}

Json attributes_row(const Attributes& a) {
  return Json{{"inode", a.ino.value},
              {"type", type_name(a.mode)},
              {"mode", a.mode},
              {"links", a.links},
              {"uid", a.uid},
              {"gid", a.gid},
              {"size_bytes", a.size_bytes},
              {"blocks_512", a.blocks_512},
              {"mtime_s", a.mtime.seconds},
              {"mtime_ns", a.mtime.nanoseconds}};
}

// Where a new name goes, with the right to put it there.
Result<WalkResult> walk_to_new_name(const Request& r) {
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(WalkResult at, walk_path(r.context.fs, r.caller, path, false));
  if (at.inode) return Status(Errc::kExists, "the file exists: " + path);
  if (at.name.empty()) return Status(Errc::kInvalid, "no name at the end of the path");
  PINDAX_TRY(r.context.fs.access(*at.parent, W_OK | X_OK, r.caller));
  return at;
}

bool is_privileged(const Request& r) { return r.caller.uid == 0; }

}  // namespace

Result<Json> list_directory(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(fs, r.caller, path, true));
  PINDAX_ASSIGN(const Attributes attributes, fs.attributes(*inode));
  if (!S_ISDIR(attributes.mode)) {
    Json row = attributes_row(attributes);
    row["name"] = path.substr(path.rfind('/') + 1);
    return Json::array({row});
  }
  PINDAX_TRY(fs.access(*inode, R_OK | X_OK, r.caller));
  std::vector<std::pair<std::string, InodeNo>> names;
  PINDAX_TRY(fs.read_directory(*inode, 0, [&](const FileSystem::DirectoryEntry& e) {
    if (e.name != "." && e.name != "..") names.emplace_back(e.name, e.ino);
    return true;
  }));
  std::sort(names.begin(), names.end());
  Json rows = Json::array();
  for (const auto& [name, ino] : names) {
    auto child = fs.get(ino);
    if (!child.ok()) continue;  // removed meanwhile
    auto a = fs.attributes(**child);
    if (!a.ok()) continue;
    Json row{{"name", name}};
    row.update(attributes_row(*a));
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<Json> show_stat(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(fs, r.caller, path, false));
  PINDAX_ASSIGN(const Attributes a, fs.attributes(*inode));
  Json row{{"path", path}};
  row.update(attributes_row(a));
  row["generation"] = a.generation;
  row["atime_s"] = a.atime.seconds;
  row["atime_ns"] = a.atime.nanoseconds;
  row["ctime_s"] = a.ctime.seconds;
  row["ctime_ns"] = a.ctime.nanoseconds;
  row["birth_s"] = a.crtime.seconds;
  row["birth_ns"] = a.crtime.nanoseconds;
  row["flags"] = a.flags;
  row["version"] = a.version;
  if (!S_ISREG(a.mode)) return row;
  if (auto policy = fs.get_xattr(*inode, kPolicyXattr); policy.ok()) row["on_busy"] = *policy;
  else row["on_busy"] = nullptr;
  // Just now.
  u64 mappings = 0, pins = 0, stuck = 0, waiting = 0;
  for (const MappingRow& m : r.context.clients().list_mappings()) mappings += m.ino == a.ino ? 1 : 0;
  for (const PinRow& pin : r.context.clients().list_pins()) {
    if (pin.ino != a.ino) continue;
    ++pins;
    stuck += pin.stuck ? 1 : 0;
  }
  for (const ChangeRow& c : r.context.clients().list_changes()) waiting += c.ino == a.ino ? 1 : 0;
  row["mappings"] = mappings;
  row["pins"] = pins;
  row["stuck_pins"] = stuck;
  row["waiting_operations"] = waiting;
  return row;
}

Result<Json> make_directory(const Request& r) {
  PINDAX_ASSIGN(WalkResult at, walk_to_new_name(r));
  const u32 mode = static_cast<u32>(optional_number(r, "mode").value_or(0755)) & 07777;
  PINDAX_ASSIGN(InodeRef made, r.context.fs.create(*at.parent, at.name, {.mode = S_IFDIR | mode}, r.caller));
  r.news.names.emplace_back(at.parent->ino, at.name);
  return Json{{"inode", made->ino.value}};
}

Result<Json> make_symlink(const Request& r) {
  PINDAX_ASSIGN(const std::string target, text_argument(r, "target"));
  if (target.empty() || target.size() > kMaxSymlinkBytes) return Status(Errc::kNameTooLong, "the target of the link");
  PINDAX_ASSIGN(WalkResult at, walk_to_new_name(r));
  PINDAX_ASSIGN(InodeRef made, r.context.fs.create(*at.parent, at.name,
                                                   {.mode = S_IFLNK | 0777u, .symlink_target = target}, r.caller));
  r.news.names.emplace_back(at.parent->ino, at.name);
  return Json{{"inode", made->ino.value}};
}

Result<Json> read_symlink(const Request& r) {
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(r.context.fs, r.caller, path, false));
  PINDAX_ASSIGN(const Attributes a, r.context.fs.attributes(*inode));
  if (!S_ISLNK(a.mode)) return Status(Errc::kInvalid, "not a symbolic link: " + path);
  PINDAX_ASSIGN(std::string target, r.context.fs.read_link(*inode));
  return Json{{"target", std::move(target)}};
}

Result<Json> remove_name(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(WalkResult at, walk_path(fs, r.caller, path, false));
  if (!at.inode) return Status(Errc::kNotFound, "no such file: " + path);
  if (at.name.empty()) return Status(Errc::kInvalid, "no name at the end of the path");
  PINDAX_TRY(fs.access(*at.parent, W_OK | X_OK, r.caller));
  PINDAX_ASSIGN(const Attributes dir, fs.attributes(*at.parent));
  PINDAX_ASSIGN(const Attributes file, fs.attributes(*at.inode));
  if ((dir.mode & S_ISVTX) != 0 && !is_privileged(r) && r.caller.uid != dir.uid && r.caller.uid != file.uid)
    return Status(Errc::kPermission, "the directory is sticky and the file is another user's");
  PINDAX_TRY(S_ISDIR(file.mode) ? fs.rmdir(*at.parent, at.name) : fs.unlink(*at.parent, at.name));
  r.news.names.emplace_back(at.parent->ino, at.name);
  r.news.inodes.push_back(at.inode->ino);
  return Json::object();
}

Result<Json> change_attributes(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(fs, r.caller, path, false));
  PINDAX_ASSIGN(const Attributes now, fs.attributes(*inode));
  if (!is_privileged(r) && r.caller.uid != now.uid) return Status(Errc::kPermission, "the file is another user's");
  SetAttributes set;
  if (auto mode = optional_number(r, "mode")) {
    set.valid |= SetAttributes::kMode;
    set.mode = (now.mode & S_IFMT) | (static_cast<u32>(*mode) & 07777);
  }
  if (auto uid = optional_number(r, "uid")) {
    if (!is_privileged(r) && *uid != now.uid) return Status(Errc::kPermission, "only root gives files away");
    set.valid |= SetAttributes::kUid;
    set.uid = static_cast<u32>(*uid);
  }
  if (auto gid = optional_number(r, "gid")) {
    const u32 wanted = static_cast<u32>(*gid);
    const bool member = wanted == r.caller.gid || std::find(r.caller.groups.begin(), r.caller.groups.end(), wanted) !=
                                                      r.caller.groups.end();
    if (!is_privileged(r) && wanted != now.gid && !member) return Status(Errc::kPermission, "not a member of that group");
    set.valid |= SetAttributes::kGid;
    set.gid = wanted;
  }
  if (auto it = r.arguments.find("mtime_s"); it != r.arguments.end() && it->is_number_integer()) {
    set.valid |= SetAttributes::kMtime;
    set.mtime.seconds = it->get<i64>();
    set.mtime.nanoseconds = static_cast<u32>(optional_number(r, "mtime_ns").value_or(0) % 1'000'000'000);
  }
  PINDAX_ASSIGN(const Attributes after, fs.set_attributes(*inode, set, r.caller));
  r.news.inodes.push_back(inode->ino);
  return attributes_row(after);
}

}  // namespace pindax::control
