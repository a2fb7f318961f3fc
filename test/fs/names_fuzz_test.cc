// SPDX-License-Identifier: BSD-3-Clause
//
// Random namespace operations against a model in plain maps, with deaths of the daemon in between: everything acknowledged
// is there, nothing else is, and fsck finds nothing.
#include <stdio.h>

#include <set>

#include "fsck/fsck.h"
#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

struct Node {
  u32 type = 0;
  u32 mode = 0;
  int links = 0;
  std::map<std::string, int> entries;  // of a directory: name -> node
  int parent = 0;                      // of a directory
  std::map<std::string, std::string> xattrs;
  std::string target;
};

class Model {
 public:
  Model() { nodes_[0].type = S_IFDIR; }

  Node& operator[](int n) { return nodes_[n]; }
  std::vector<int> directories() {
    std::vector<int> out;
    for (auto& [n, node] : nodes_) {
      if (node.type == S_IFDIR && (n == 0 || node.links > 0)) out.push_back(n);
    }
    return out;
  }
  std::string path(int dir) {
    std::string p;
    while (dir != 0) {
      const int up = nodes_[dir].parent;
      for (auto& [name, n] : nodes_[up].entries) {
        if (n == dir) p = "/" + name + p;
      }
      dir = up;
    }
    return p.empty() ? "/" : p;
  }
  int add(u32 type) {
    nodes_[next_].type = type;
    return next_++;
  }
  bool inside(int dir, int ancestor) {
    for (;; dir = nodes_[dir].parent) {
      if (dir == ancestor) return true;
      if (dir == 0) return false;
    }
  }
  int subdirectories(int dir) {
    int count = 0;
    for (auto& [name, n] : nodes_[dir].entries) count += nodes_[n].type == S_IFDIR;
    return count;
  }
  void unlink(int n) {
    if (--nodes_[n].links == 0) nodes_.erase(n);
  }

 private:
  std::map<int, Node> nodes_;
  int next_ = 1;
};

class Fuzz {
 public:
  Fuzz(u64 seed, TestOptions options) : fs_(std::move(options)), random_(seed) {}

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      INFO("step " << i);
      step();
      if (below(400) == 0) {
        if (below(3) == 0) REQUIRE_OK(fs_->unmount());
        fs_.drop();
        check_media();
        fs_.mount();
        compare();
      }
      if (below(150) == 0) REQUIRE_OK(fs_->clean_orphans());
    }
    compare();
    REQUIRE_OK(fs_->clean_orphans());
    CHECK(fs_->orphan_count() == 0);
    const auto space = TestFs::ok(fs_->statfs());
    std::set<int> all;
    count(0, &all);
    CHECK(space.f_files - space.f_ffree == all.size());
    fs_.drop();
    check_media();
  }

 private:
  void check_media() {
    const FsckReport report = TestFs::ok(fsck(fs_.media(), {}));
    for (const FsckFinding& f : report.findings) {
      if (f.severity != FsckSeverity::kNote) UNSCOPED_INFO(f.structure << ", " << f.where << ": " << f.message);
    }
    REQUIRE(report.findings_total == 0);
  }
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::string name() { return "n" + std::to_string(below(12)); }
  int directory() {
    const auto dirs = model_.directories();
    return dirs[below(static_cast<unsigned>(dirs.size()))];
  }
  int* find(int dir, const std::string& n) {
    auto& e = model_[dir].entries;
    auto it = e.find(n);
    return it == e.end() ? nullptr : &it->second;
  }

  void step() {
    switch (below(10)) {
      case 0:
      case 1:
      case 2: return create();
      case 3: return link();
      case 4: return remove(false);
      case 5: return remove(true);
      case 6:
      case 7: return rename();
      case 8: return xattr();
      default: return chmod();
    }
  }

  void create() {
    const int dir = directory();
    const std::string n = name();
    static constexpr u32 kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO};
    FileSystem::NewInode what;
    const u32 type = kTypes[below(4)];
    const u32 mode = type == S_IFLNK ? 0777 : below(01000);
    const std::string target(1 + below(600), 't');
    what.mode = type | mode;
    if (type == S_IFLNK) what.symlink_target = target;
    const auto r = fs_->create(*fs_.at(model_.path(dir)), n, what, root_caller());
    if (find(dir, n) != nullptr) {
      REQUIRE_ERROR(r, kExists);
      return;
    }
    REQUIRE_OK(r);
    const int node = model_.add(type);
    model_[node].mode = mode;
    model_[node].links = 1;
    model_[node].parent = dir;
    if (type == S_IFLNK) model_[node].target = target;
    model_[dir].entries[n] = node;
  }

  void link() {
    const int from = directory(), to = directory();
    const std::string a = name(), b = name();
    const int* source = find(from, a);
    if (source == nullptr) return;
    const int node = *source;
    const auto target = TestFs::ok(fs_->lookup(*fs_.at(model_.path(from)), a));
    const Status s = fs_->link(*target, *fs_.at(model_.path(to)), b);
    if (find(to, b) != nullptr) {
      REQUIRE_ERROR(s, kExists);
    } else if (model_[node].type == S_IFDIR) {
      REQUIRE_ERROR(s, kPermission);
    } else {
      REQUIRE_OK(s);
      model_[to].entries[b] = node;
      ++model_[node].links;
    }
  }

  void remove(bool directory_wanted) {
    const int dir = directory();
    const std::string n = name();
    const auto d = fs_.at(model_.path(dir));
    const Status s = directory_wanted ? fs_->rmdir(*d, n) : fs_->unlink(*d, n);
    const int* found = find(dir, n);
    if (found == nullptr) {
      REQUIRE_ERROR(s, kNotFound);
      return;
    }
    const int node = *found;
    const bool is_directory = model_[node].type == S_IFDIR;
    if (directory_wanted != is_directory) {
      REQUIRE(s.code() == (is_directory ? Errc::kIsDirectory : Errc::kNotDirectory));
    } else if (is_directory && !model_[node].entries.empty()) {
      REQUIRE_ERROR(s, kNotEmpty);
    } else {
      REQUIRE_OK(s);
      model_[dir].entries.erase(n);
      model_.unlink(node);
    }
  }

  Errc expected_rename(int from, const std::string& a, int to, const std::string& b, unsigned flags) {
    const int *source = find(from, a), *target = find(to, b);
    if (source == nullptr) return Errc::kNotFound;
    const bool exchange = flags == RENAME_EXCHANGE;
    const bool source_dir = model_[*source].type == S_IFDIR;
    const bool target_dir = target != nullptr && model_[*target].type == S_IFDIR;
    if (from != to && source_dir && model_.inside(to, *source)) return Errc::kInvalid;
    if (from != to && target_dir && (source_dir || exchange) && model_.inside(from, *target)) {
      return exchange ? Errc::kInvalid : Errc::kNotEmpty;
    }
    if (target == nullptr) return exchange ? Errc::kNotFound : Errc::kOk;
    if (flags == RENAME_NOREPLACE) return Errc::kExists;
    if (*source == *target || exchange) return Errc::kOk;
    if (source_dir && !target_dir) return Errc::kNotDirectory;
    if (!source_dir && target_dir) return Errc::kIsDirectory;
    if (target_dir && !model_[*target].entries.empty()) return Errc::kNotEmpty;
    return Errc::kOk;
  }

  void rename() {
    const int from = directory(), to = directory();
    const std::string a = name(), b = name();
    static constexpr unsigned kFlags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    const unsigned flags = kFlags[below(4)];
    const Errc expected = expected_rename(from, a, to, b, flags);
    const Status s = fs_->rename(*fs_.at(model_.path(from)), a, *fs_.at(model_.path(to)), b, flags, root_caller());
    INFO(a << " -> " << b << " flags " << flags << ": " << s.message());
    REQUIRE(s.code() == expected);
    if (!s.ok()) return;
    const int source = *find(from, a);
    const int* target = find(to, b);
    if (target != nullptr && *target == source) return;
    if (flags == RENAME_EXCHANGE) {
      const int other = *target;
      model_[from].entries[a] = other;
      model_[to].entries[b] = source;
      if (model_[other].type == S_IFDIR) model_[other].parent = from;
    } else {
      const int victim = target != nullptr ? *target : -1;
      model_[from].entries.erase(a);
      model_[to].entries[b] = source;
      if (victim >= 0) model_.unlink(victim);
    }
    if (model_[source].type == S_IFDIR) model_[source].parent = to;
  }

  void xattr() {
    const int dir = directory();
    const std::string n = name();
    const int* node = find(dir, n);
    if (node == nullptr || (model_[*node].type != S_IFREG && model_[*node].type != S_IFDIR)) return;
    const auto inode = TestFs::ok(fs_->lookup(*fs_.at(model_.path(dir)), n));
    const std::string key = "user." + std::to_string(below(5));
    auto& xattrs = model_[*node].xattrs;
    if (below(3) == 0) {
      const Status s = fs_->remove_xattr(*inode, key);
      REQUIRE(s.code() == (xattrs.erase(key) != 0 ? Errc::kOk : Errc::kNoData));
    } else {
      const std::string value(below(4) == 0 ? below(20'000) : below(200), static_cast<char>('a' + below(26)));
      REQUIRE_OK(fs_->set_xattr(*inode, key, value, 0, root_caller()));
      xattrs[key] = value;
    }
  }

  void chmod() {
    const int dir = directory();
    const std::string n = name();
    const int* node = find(dir, n);
    if (node == nullptr || model_[*node].type == S_IFLNK) return;
    SetAttributes set;
    set.valid = SetAttributes::kMode;
    set.mode = below(010000) & ~u32{S_ISGID};  // directories would hand it on
    REQUIRE_OK(fs_->set_attributes(*TestFs::ok(fs_->lookup(*fs_.at(model_.path(dir)), n)), set, root_caller()));
    model_[*node].mode = set.mode;
  }

  void count(int dir, std::set<int>* all) {
    all->insert(dir);
    for (auto& [n, node] : model_[dir].entries) {
      if (model_[node].type == S_IFDIR) count(node, all);
      else all->insert(node);
    }
  }

  void compare() { compare(0, *fs_.root()); }

  void compare(int dir, Inode& inode) {
    std::vector<std::string> expected;
    for (auto& [n, node] : model_[dir].entries) expected.push_back(n);
    std::sort(expected.begin(), expected.end());
    REQUIRE(fs_.list(inode) == expected);
    REQUIRE(fs_.stat(inode).links == 2u + static_cast<u32>(model_.subdirectories(dir)));
    for (auto& [n, node] : model_[dir].entries) {
      const auto child = TestFs::ok(fs_->lookup(inode, n));
      const Attributes a = fs_.stat(*child);
      const Node& m = model_[node];
      REQUIRE((a.mode & S_IFMT) == m.type);
      REQUIRE((a.mode & 07777) == m.mode);
      if (m.type == S_IFLNK) REQUIRE(TestFs::ok(fs_->read_link(*child)) == m.target);
      REQUIRE(TestFs::ok(fs_->list_xattrs(*child)).size() == m.xattrs.size());
      for (auto& [key, value] : m.xattrs) REQUIRE(TestFs::ok(fs_->get_xattr(*child, key)) == value);
      const auto paths = fs_->paths(child->ino, 1000);
      if (m.type == S_IFDIR) {
        REQUIRE(paths == std::vector<std::string>{model_.path(node)});
        compare(node, *child);
      } else {
        REQUIRE(a.links == static_cast<u32>(m.links));
        REQUIRE(paths.size() == a.links);
        const std::string p = model_.path(dir);
        REQUIRE(std::count(paths.begin(), paths.end(), (p == "/" ? "" : p) + "/" + n) == 1);
      }
    }
  }

  TestFs fs_;
  Model model_;
  std::mt19937_64 random_;
};

TEST_CASE("fs: random namespace operations agree with a model over deaths of the daemon") {
  const u64 s = seed();
  TestOptions strict;
  strict.pool_bytes = 32u << 20;
  Fuzz(s, strict).run(4000);
  TestOptions posix = strict;
  posix.granularity = Granularity::kPage;
  Fuzz(s + 1, posix).run(4000);
}

}  // namespace
}  // namespace pindax
