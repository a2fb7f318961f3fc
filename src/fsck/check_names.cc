// SPDX-License-Identifier: BSD-3-Clause
//
// Names: every entry of every directory, who is reachable from the root, link counts, parent records, orphans.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fmt/format.h"
#include "fs/keys.h"
#include "fsck/checker.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;

namespace {

// For messages: control characters and quotes would confuse whoever reads them.
std::string printable(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '"' && c != '\\') out.push_back(c);
    else out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

void Checker::check_directories() {
  for (u64 index = 0; index < facts_.size(); ++index) {
    progress("directories", index, facts_.size());
    if (!S_ISDIR(facts_[index].mode)) continue;
    const auto view = slot(number(index));
    if (view.ok()) check_directory(index, view->as<format::Inode>());
  }
}

void Checker::accept_name(u64 dir, u64 key, InodeFacts& target, u64 target_ino) {
  ++target.names;
  target.names_hash += name_term(dir, key);
  if (S_ISDIR(target.mode) && target_ino != sb_.root_inode) target.parent = dir;
}

// True if the entry stays and counts. `same_hash`: names with this hash so far.
bool Checker::check_entry(u64 dir, u64 key, TreeBytes value, std::vector<std::string>& same_hash, u64* subdirs) {
  const auto fix = [&](Plan::EntryFix::What what, std::string message) {
    find(kError, "directory", name_of(dir), std::move(message));
    plan_.entries.push_back({dir, key, what});
    if (what == Plan::EntryFix::kRekey) names_incomplete_ = true;
    return what == Plan::EntryFix::kType;
  };
  const Status s = format::check_value(TreeKind::kDirectory, value);
  if (!s.ok()) return fix(Plan::EntryFix::kErase, fmt::format("entry {:#x}: {}; it is removed", key, s.message()));
  format::DirectoryValue v;
  std::memcpy(&v, value.data(), sizeof v);
  const std::string name(reinterpret_cast<const char*>(value.data()) + sizeof v, v.name_length);
  const u64 hash = std::max(name_key(sb_.hash_key, name), format::kFirstCookie);
  InodeFacts* target = facts(v.inode);
  if (target == nullptr || target->mode == 0 || v.inode == sb_.root_inode)
    return fix(Plan::EntryFix::kErase,
               fmt::format("\"{}\" names inode {}, which {}; the name is removed", printable(name), v.inode.get(),
                           v.inode == sb_.root_inode ? "is the root" : "is none in use"));
  if (std::find(same_hash.begin(), same_hash.end(), name) != same_hash.end())
    return fix(Plan::EntryFix::kErase, fmt::format("\"{}\" is there twice; one is removed", printable(name)));
  same_hash.push_back(name);
  if (key >> format::kCollisionBits != hash >> format::kCollisionBits || key < format::kFirstCookie)
    return fix(Plan::EntryFix::kRekey, fmt::format("\"{}\" stands where look-ups do not find it; it is moved", printable(name)));
  if (S_ISDIR(target->mode)) {
    // A directory has one name: the one its own record tells, or else the first that is found.
    const auto child = slot(v.inode);
    const bool recorded = child.ok() && child->as<format::Inode>().parent == dir && child->as<format::Inode>().parent_key == key;
    if (!recorded || target->names != 0) {
      doubtful_parents_.push_back({dir, key, v.inode});
      return false;
    }
    ++*subdirs;
  }
  accept_name(dir, key, *target, v.inode);
  if (v.type != type_of_mode(target->mode))
    return fix(Plan::EntryFix::kType, fmt::format("\"{}\" has the wrong type; it is corrected", printable(name)));
  return true;
}

void Checker::check_directory(u64 index, const format::Inode& s) {
  const u64 dir = number(index);
  u64 entries = 0, subdirs = 0, group = kNoIndex;
  bool settled = !plan_.trees.contains({dir, TreeKind::kDirectory});
  std::vector<std::string> same_hash;
  TreeVisitor v;
  v.bad = [](BlockNo, const std::string&) {};
  v.item = [&](u64 key, TreeBytes value) {
    if (key >> format::kCollisionBits != group) same_hash.clear();
    group = key >> format::kCollisionBits;
    if (check_entry(dir, key, value, same_hash, &subdirs)) ++entries;
    else settled = false;
  };
  visit_tree({BlockNo(s.body.root), TreeKind::kDirectory, dir}, v);
  if (!settled) return;
  if (s.entries != entries) {
    find(kWarning, "directory", name_of(dir), fmt::format("says {} entries, has {}", s.entries.get(), entries));
    plan_.slots[dir].entries = entries;
  }
  if (s.subdirs != subdirs) {
    find(kWarning, "directory", name_of(dir), fmt::format("says {} subdirectories, has {}", s.subdirs.get(), subdirs));
    plan_.slots[dir].subdirs = static_cast<u32>(subdirs);
  }
  if (const u32 links = 2 + static_cast<u32>(subdirs); s.links != 0 && s.links != links) {
    find(kWarning, "directory", name_of(dir), fmt::format("says {} links, has {}", s.links.get(), links));
    plan_.slots[dir].links = links;
  }
}

// Directories whose record does not tell this name: without another name it is theirs and the record is wrong.
void Checker::settle_doubtful_parents() {
  for (const DoubtfulParent& d : doubtful_parents_) {
    InodeFacts& child = *facts(d.child);
    if (child.names == 0) {
      accept_name(d.dir, d.key, child, d.child);
      continue;  // its records are found wrong below
    }
    find(kError, "directory", name_of(d.dir), fmt::format("names directory {} a second time; the name is removed", d.child));
    plan_.entries.push_back({d.dir, d.key, Plan::EntryFix::kErase});
  }
}

// Climbs from every directory until it meets the root, a directory whose fate is known, an end, or its own path.
void Checker::check_reach() {
  std::vector<u64> path;
  const u64 root = index_of(sb_.root_inode);
  for (u64 index = 0; index < facts_.size(); ++index) {
    if (!S_ISDIR(facts_[index].mode) || facts_[index].reach != kUnknown) continue;
    path.clear();
    u64 at = index;
    u8 fate = kLost;
    for (;;) {
      InodeFacts& f = facts_[at];
      if (f.reach == kOnPath) {  // a cycle: it is cut at the directory where the climb met itself
        find(kError, "directory", name_of(number(at)), "is its own ancestor; it goes to lost+found");
        plan_.attach.push_back(number(at));
        break;
      }
      if (f.reach != kUnknown) {
        fate = f.reach;
        break;
      }
      f.reach = kOnPath;
      path.push_back(at);
      if (at == root) {
        fate = kReached;
        break;
      }
      if (f.parent == 0) break;
      at = index_of(f.parent);
      if (at == kNoIndex) break;
    }
    for (const u64 i : path) facts_[i].reach = fate;
  }
}

void Checker::check_links() {
  for (u64 index = 0; index < facts_.size(); ++index) {
    InodeFacts& f = facts_[index];
    const u64 ino = number(index);
    if (f.mode == 0 || ino == sb_.root_inode) continue;
    if (repairing_ && names_incomplete_) continue;  // the names that can be saved come back first
    if (f.names == 0 && f.links != 0) {
      find(kError, S_ISDIR(f.mode) ? "directory" : "inode", name_of(ino), "has no name; it goes to lost+found");
      plan_.attach.push_back(ino);
      continue;
    }
    if (!S_ISDIR(f.mode) && f.names != f.links) {
      find(kError, "inode", name_of(ino), fmt::format("says {} links, has {}", f.links, f.names));
      plan_.slots[ino].links = f.names;
    } else if (S_ISDIR(f.mode) && f.names != 0 && f.links == 0) {
      find(kError, "directory", name_of(ino), "says it was removed, but has a name");
      plan_.slots[ino].links = 2;  // the next walk counts subdirectories
    }
    if (f.names_hash != f.records_hash) {
      find(kError, "parents", name_of(ino), "does not record its names as they are");
      plan_.slots[ino].parents = true;
    }
  }
}

// The list holds exactly the inodes without links and those with a range to be freed.
void Checker::check_orphans() {
  u64 belonging = 0;
  for (u64 index = 0; index < facts_.size(); ++index) {
    const InodeFacts& f = facts_[index];
    if (f.mode == 0) continue;
    const bool belongs = (f.links == 0 && f.names == 0) || f.pending != 0;
    if (belongs) ++belonging;
    if (belongs == (f.listed != 0)) continue;
    find(kError, "orphans", name_of(number(index)),
         belongs ? "waits to be freed but is not on the orphan list" : "is on the orphan list though it lives");
    plan_.rebuild_orphans = true;
  }
  if (!plan_.rebuild_orphans && state_.orphan_count != orphans_listed_) {
    find(kWarning, "orphans", "state record", fmt::format("says {} orphans, has {}", state_.orphan_count.get(), orphans_listed_));
    plan_.rebuild_orphans = true;
  }
  if (belonging != 0)
    find(kNote, "orphans", "state record", fmt::format("{} inodes wait to be freed; the next mount frees them", belonging));
}

}  // namespace pindax::fsck_detail
