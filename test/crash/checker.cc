// SPDX-License-Identifier: BSD-3-Clause
#include "checker.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <set>

#include "fmt/format.h"
#include "fs/file_system_impl.h"

namespace pindax::crash {

namespace {

Status read_all(FileSystem& fs, const InodeRef& inode, u64 size, std::string* out) {
  Status status;
  while (status.ok() && out->size() < size) {
    const u64 at = out->size();
    status = Status(Errc::kTryAgain, "a read did not complete at once");
    fs.read(inode, at, size - at, [&](Result<const FileSystem::ReadPieces*> r) {
      status = r.status();
      if (!r.ok()) return;
      for (const auto& piece : **r) out->append(reinterpret_cast<const char*>(piece.data()), piece.size());
    });
    if (status.ok() && out->size() == at) return Status(Errc::kIo, "a read was short");
    if (status.code() != Errc::kPoisoned) continue;
    out->resize(std::min(size, round_down(at, kBlockSize) + kBlockSize), static_cast<char>(kLost));
    status = Status();
  }
  return status;
}

class Scan {
 public:
  explicit Scan(FileSystem& fs) : fs_(fs) {}

  Result<Model> run() {
    Model model;
    PINDAX_ASSIGN(InodeRef root, fs_.root());
    ids_[root->ino.value] = Model::kRoot;
    PINDAX_TRY(inode(model, Model::kRoot, root));
    return model;
  }

 private:
  Status inode(Model& m, u32 id, const InodeRef& ref) {
    PINDAX_ASSIGN(const Attributes a, fs_.attributes(*ref));
    ModelInode n;
    n.mode = a.mode;
    n.uid = a.uid;
    n.gid = a.gid;
    n.links = a.links;
    n.flags = a.flags;
    n.rdev = a.rdev;
    n.mtime = a.mtime.seconds;
    PINDAX_ASSIGN(const auto names, fs_.list_xattrs(*ref));
    for (const std::string& name : names) {
      PINDAX_ASSIGN(n.xattrs[name], fs_.get_xattr(*ref, name));
    }
    if (S_ISREG(a.mode)) {
      if (a.size_bytes > (1u << 20)) return Status(Errc::kCorrupt, fmt::format("a file of {} bytes", a.size_bytes));
      PINDAX_TRY(read_all(fs_, ref, a.size_bytes, &n.data));
    }
    if (S_ISLNK(a.mode)) {
      PINDAX_ASSIGN(n.data, fs_.read_link(*ref));
    }
    m.inodes[id] = std::move(n);
    return S_ISDIR(a.mode) ? directory(m, id, ref) : Status();
  }

  Status directory(Model& m, u32 id, const InodeRef& ref) {
    struct Entry {
      std::string name;
      InodeNo ino;
      u8 type;
    };
    std::vector<Entry> entries;
    PINDAX_TRY(fs_.read_directory(*ref, 0, [&](const FileSystem::DirectoryEntry& e) {
      if (e.name != "." && e.name != "..") entries.push_back({std::string(e.name), e.ino, e.type});
      return true;
    }));
    for (const Entry& e : entries) {
      PINDAX_ASSIGN(InodeRef child, fs_.lookup(*ref, e.name));
      if (child->ino != e.ino) return Status(Errc::kCorrupt, e.name + ": lookup and readdir disagree");
      const auto [it, fresh] = ids_.emplace(e.ino.value, m.next);
      if (!m.inodes.at(id).entries.emplace(e.name, it->second).second) return Status(Errc::kCorrupt, e.name + " is there twice");
      if (fresh) {
        ++m.next;
        PINDAX_TRY(inode(m, it->second, child).with_context(e.name));
      }
      if (e.type != IFTODT(m.inodes.at(it->second).mode)) return Status(Errc::kCorrupt, e.name + ": wrong type in its entry");
    }
    PINDAX_ASSIGN(InodeRef parent, fs_.lookup(*ref, ".."));
    if (auto it = ids_.find(parent->ino.value); it == ids_.end()) return Status(Errc::kCorrupt, "'..' leads nowhere");
    return {};
  }

  FileSystem& fs_;
  std::map<u64, u32> ids_;
};

class Compare {
 public:
  Compare(const Model& found, const Expectation& e, u64 moment)
      : found_(found), e_(e), moment_(moment), model_((*e.history)[moment].model) {}

  std::string run() { return inode(Model::kRoot, Model::kRoot, "/"); }

 private:
  static std::string brief(const std::map<std::string, std::string>& xattrs) {
    std::string out;
    for (const auto& [name, value] : xattrs) out += fmt::format(" {}={}*{}", name, value.substr(0, 1), value.size());
    return out.empty() ? " none" : out;
  }

  // `f` numbers what was found, `m` what the model has.
  std::string inode(u32 f, u32 m, const std::string& path) {
    if (auto [it, fresh] = pairs_.emplace(m, f); !fresh)
      return it->second == f ? "" : path + " is another inode than its other name";
    const ModelInode& a = found_.inodes.at(f);
    const ModelInode& b = model_.inodes.at(m);
    if (a.mode != b.mode) return fmt::format("{}: mode {:o}, not {:o}", path, a.mode, b.mode);
    if (a.uid != b.uid || a.gid != b.gid) return fmt::format("{}: owner {}, not {}", path, a.uid, b.uid);
    if (a.links != b.links) return fmt::format("{}: {} links, not {}", path, a.links, b.links);
    if (a.flags != b.flags) return fmt::format("{}: flags {}, not {}", path, a.flags, b.flags);
    if (a.rdev != b.rdev) return path + ": wrong device";
    if (b.mtime && *a.mtime != *b.mtime) return fmt::format("{}: mtime {}, not {}", path, *a.mtime, *b.mtime);
    if (a.xattrs != b.xattrs) return path + ": extended attributes" + brief(a.xattrs) + ", not" + brief(b.xattrs);
    if (a.data.size() != b.data.size()) return fmt::format("{}: {} bytes, not {}", path, a.data.size(), b.data.size());
    if (!b.is_regular() && a.data != b.data) return path + ": another target";
    if (b.is_regular())
      if (std::string s = bytes(a, m, path); !s.empty()) return s;
    for (const auto& [name, child] : a.entries)
      if (!b.entries.contains(name)) return path + ": has " + name;
    for (const auto& [name, child] : b.entries) {
      auto it = a.entries.find(name);
      if (it == a.entries.end()) return path + ": lacks " + name;
      if (std::string s = inode(it->second, child, path + (path == "/" ? "" : "/") + name); !s.empty()) return s;
    }
    return {};
  }

  bool repaired_after(u32 m) const {
    for (u64 i = moment_ + 1; i <= e_.hi; ++i) {
      const auto& inodes = (*e_.history)[i].model.inodes;
      if (auto it = inodes.find(m); it != inodes.end() && it->second.repaired > moment_) return true;
    }
    return false;
  }

  static int byte_at(const ModelInode* inode, u64 offset) {
    return inode != nullptr && offset < inode->data.size() ? static_cast<u8>(inode->data[offset]) : 0;
  }

  using Shifts = std::vector<ModelInode::Shift>;
  static constexpr u64 kCutOut = kMaxOffset, kInserted = kMaxOffset - 1;

  // Where the byte that has offset `i` at moment `from` is at moment `to`: collapses and inserts in between have moved it.
  static u64 moved(u64 i, u64 from, u64 to, const Shifts& shifts) {
    if (to < from) {
      for (auto s = shifts.rbegin(); s != shifts.rend(); ++s) {
        if (s->moment <= to || s->moment > from || i < s->offset) continue;
        if (!s->collapse && i < s->offset + s->length) return kInserted;
        i = s->collapse ? i + s->length : i - s->length;
      }
    } else {
      for (const auto& s : shifts) {
        if (s.moment <= from || s.moment > to || i < s.offset) continue;
        if (s.collapse && i < s.offset + s.length) return kCutOut;
        i = s.collapse ? i - s.length : i + s.length;
      }
    }
    return i;
  }

  // Bytes that may be found: those of the file at a moment, or of a file that it was cloned from, since a clone that did not last may
  // show what its source had before.
  struct Version {
    const ModelInode* inode;
    u64 moment;
    u64 cloned = 0;  // the clone's moment; 0: the file itself
    bool lost = false;  // a crash cannot bring it back: later ones are durable
    Shifts shifts;   // the source's
  };
  std::optional<int> byte_of_version(const Version& v, u64 i, const Shifts& shifts) const {
    if (v.cloned == 0) {
      i = moved(i, moment_, v.moment, shifts);
    } else if (moment_ >= v.cloned) {
      i = moved(i, moment_, v.cloned, shifts);
      if (i < kInserted) i = moved(i, v.cloned, v.moment, v.shifts);
    }
    if (i == kCutOut) return std::nullopt;
    return i == kInserted ? 0 : byte_at(v.inode, i);
  }

  // Every byte is one that the file had at this place since it was last made durable.
  std::string bytes(const ModelInode& a, u32 m, const std::string& path) {
    const auto durable_until = [&](u32 id) {
      const auto& durable = (*e_.history)[e_.data_lo_at].data_durable;
      const auto it = durable.find(id);
      return it == durable.end() ? 0 : it->second;
    };
    const u64 first = e_.exact ? e_.lo : durable_until(m);
    const auto at = [&](u64 moment, u32 id) {
      const auto& inodes = (*e_.history)[moment].model.inodes;
      const auto it = inodes.find(id);
      return it == inodes.end() ? nullptr : &it->second;
    };
    const auto shifts_of = [&](u32 id) {
      Shifts shifts;
      for (u64 i = 0; i <= e_.hi; ++i)
        if (const ModelInode* v = at(i, id)) shifts = v->shifts;
      return shifts;
    };
    const Shifts shifts = shifts_of(m);
    std::vector<Version> versions;
    if (const ModelInode* self = at(e_.hi, m); !e_.exact && self != nullptr)
      for (const auto& [source, when] : self->shares_of)
        for (u64 i = 0; when > first && i <= e_.hi; ++i)
          if (const ModelInode* v = at(i, source)) versions.push_back({v, i, when, i < durable_until(source), shifts_of(source)});
    const std::size_t own = versions.size();
    for (u64 i = first; i <= e_.hi; ++i) versions.push_back({at(i, m), i, 0, false, {}});
    u64 filled_from = kMaxOffset;
    const bool shifted = !shifts.empty() && shifts.back().moment == e_.hi;
    if (!shifted && e_.fresh_is_filled && moment_ == e_.hi && e_.hi > e_.lo && versions.size() >= own + 2) {
      const ModelInode* before = versions[versions.size() - 2].inode;
      const u64 old_size = before == nullptr ? 0 : before->data.size();
      if (a.data.size() > old_size) filled_from = old_size;
    }
    for (u64 i = 0; i < a.data.size(); ++i) {
      const int got = static_cast<u8>(a.data[i]);
      const ModelInode* const last = versions.back().inode;
      // New bytes are filled; with those of a clone's source, which may not have lasted there.
      const auto fills = [&](const Version& v) { return v.cloned == 0 ? v.inode == last : v.cloned == e_.hi && !v.lost; };
      const bool good = std::any_of(versions.begin(), versions.end(), [&](const Version& v) {
        if (i >= filled_from && !fills(v)) return false;
        const auto byte = byte_of_version(v, i, shifts);
        return byte && *byte == got;
      });
      // While a bad block is being repaired it may be known as bad, and its bytes not be written yet.
      if (!good && got == kLost && repaired_after(m)) continue;
      if (!good)
        return fmt::format("{}: byte {} is {:#x}{}, not {:#x}", path, i, got,
                           got == kPoison ? " (from a block that nobody wrote)" : "", byte_at(last, i));
    }
    return {};
  }

  const Model& found_;
  const Expectation& e_;
  const u64 moment_;
  const Model& model_;
  std::map<u32, u32> pairs_;
};

Status remove_children(FileSystem& fs, const InodeRef& dir) {
  std::vector<std::pair<std::string, bool>> names;
  PINDAX_TRY(fs.read_directory(*dir, 0, [&](const FileSystem::DirectoryEntry& e) {
    if (e.name != "." && e.name != "..") names.emplace_back(e.name, e.type == DT_DIR);
    return true;
  }));
  for (const auto& [name, directory] : names) {
    if (directory) {
      PINDAX_ASSIGN(InodeRef child, fs.lookup(*dir, name));
      PINDAX_TRY(remove_children(fs, child));
    }
    PINDAX_TRY(directory ? fs.rmdir(*dir, name) : fs.unlink(*dir, name));
  }
  return {};
}

struct OwnedExtent {
  BlockRun run;
  bool shared = false;
};

Status add_extents(FileSystem& fs, const InodeRef& dir, std::map<u64, u64>& seen, std::vector<OwnedExtent>& runs) {
  std::vector<std::string> names;
  PINDAX_TRY(fs.read_directory(*dir, 0, [&](const FileSystem::DirectoryEntry& e) {
    if (e.name != "." && e.name != ".." && (e.type == DT_DIR || e.type == DT_REG)) names.emplace_back(e.name);
    return true;
  }));
  for (const std::string& name : names) {
    PINDAX_ASSIGN(InodeRef inode, fs.lookup(*dir, name));
    PINDAX_ASSIGN(const Attributes a, fs.attributes(*inode));
    if (S_ISDIR(a.mode)) {
      PINDAX_TRY(add_extents(fs, inode, seen, runs));
    } else if (seen.emplace(inode->ino.value, 1).second) {
      PINDAX_ASSIGN(const auto extents, fs.extents(*inode, {0, kMaxOffset}));
      for (const auto& e : extents) runs.push_back({{e.block, e.length}, e.shared});
    }
  }
  return {};
}

}  // namespace

Result<Model> read_model(FileSystem& fs) { return Scan(fs).run(); }

std::string check_tree(FileSystem& fs, const Expectation& expected) {
  const auto found = read_model(fs);
  if (!found.ok()) return fmt::format("cannot read the tree: {}", found.status().message());
  std::string first;
  for (u64 moment = expected.hi + 1; moment-- > expected.lo;) {
    const std::string problem = Compare(*found, expected, moment).run();
    if (problem.empty()) return {};
    first += fmt::format("{}as after {} operations but {}", first.empty() ? "" : "; ", moment, problem);
  }
  return first;
}

std::string check_blocks(FileSystem& fs) {
  auto root = fs.root();
  if (!root.ok()) return "no root";
  std::map<u64, u64> seen;
  std::vector<OwnedExtent> runs;
  if (Status s = add_extents(fs, *root, seen, runs); !s.ok()) return fmt::format("cannot list extents: {}", s.message());
  std::map<u64, u64> owners;
  std::set<u64> alone;
  for (const OwnedExtent& r : runs)
    for (u64 b = r.run.start.value; b < r.run.end().value; ++b) {
      ++owners[b];
      if (!r.shared) alone.insert(b);
    }
  for (const auto& [block, count] : owners) {
    if (count > 1 && alone.contains(block)) return fmt::format("block {} has two owners", block);
    const auto counted = fs.allocator().owners({BlockNo(block), 1}, nullptr);
    if (!counted.ok()) return fmt::format("the share count of block {} cannot be read", block);
    // Files without a name are not among those that were seen.
    if (counted->front().owners < count) return fmt::format("block {} has {} owners, counted are {}", block, count, counted->front().owners);
  }
  for (u32 ag = 0; ag < fs.store().geometry().ag_count; ++ag) {
    auto free = fs.allocator().free_runs(ag);
    if (!free.ok()) return fmt::format("free space cannot be read: {}", free.status().message());
    for (const BlockRun& f : *free)
      for (const auto& [r, shared] : runs)
        if (f.start < r.end() && r.start < f.end()) return fmt::format("block {} is owned and free", r.start.value);
  }
  return {};
}

u64 free_and_inode_blocks(FileSystem& fs) {
  const SpaceSummary s = fs.allocator().summary();
  return s.free_blocks + s.inodes_allocated / format::kInodesPerBlock;
}

std::string check_leaks(FileSystem& fs, Executor& executor, u64 data_blocks) {
  {
    auto root = fs.root();
    if (!root.ok()) return "no root";
    if (Status s = remove_children(fs, *root); !s.ok()) return fmt::format("cannot remove everything: {}", s.message());
  }
  if (Status s = static_cast<FileSystemImpl&>(fs).clean_orphans(); !s.ok()) return fmt::format("orphans: {}", s.message());
  executor.drain();
  // What was given up must be retired before it is counted: not free, but no leak.
  if (Status s = fs.allocator().reclaim(); !s.ok()) return fmt::format("reclaiming: {}", s.message());
  if (Status s = fs.tend_bad_blocks(); !s.ok()) return fmt::format("bad blocks: {}", s.message());
  const SpaceSummary bad = fs.allocator().summary();
  if (bad.retired_blocks != bad.bad_blocks) return fmt::format("{} bad blocks, {} of them retired", bad.bad_blocks, bad.retired_blocks);
  const u64 listed = bad.bad_blocks != 0 ? bad.bad_blocks + 1 : 0;  // and the list's only node
  const u64 now = free_and_inode_blocks(fs) + listed;
  if (now != data_blocks) return fmt::format("{} blocks {}", now < data_blocks ? data_blocks - now : now - data_blocks,
                                             now < data_blocks ? "leaked" : "too many are free");
  const SpaceSummary s = fs.allocator().summary();
  if (s.inodes_used != 1) return fmt::format("{} inodes are used in an empty pool", s.inodes_used);
  if (s.quarantine_blocks != 0) return fmt::format("{} blocks stayed in quarantine", s.quarantine_blocks);
  return {};
}

}  // namespace pindax::crash
