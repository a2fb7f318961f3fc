// SPDX-License-Identifier: BSD-3-Clause
#include "stress/gardener.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "stress/process.h"

namespace pindax::stress {
namespace {

constexpr std::size_t kFilesMax = 40, kFoldersMax = 12;
constexpr u64 kSharedNames = 24;

// What processes that collide on names may see; everything else is a failure.
bool collision(int error) {
  return error == ENOENT || error == EEXIST || error == ENOTEMPTY || error == EISDIR || error == ENOTDIR || error == EINVAL || error == EPERM;
}

// A file that proves itself: seed, length and their mix in front, then the pattern.
struct Proof {
  u64 seed, length, check;
};
std::string proven(u64 seed, u64 length) {
  const Proof proof{seed, length, mix(seed ^ mix(length))};
  std::string bytes(sizeof(proof) + length, '\0');
  std::memcpy(bytes.data(), &proof, sizeof(proof));
  fill_pattern(bytes.data() + sizeof(proof), seed, 0, length);
  return bytes;
}

bool read_all(const std::string& path, std::string& bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  bytes.clear();
  std::array<char, 65536> buffer;
  ssize_t n = 0;
  while ((n = ::read(fd, buffer.data(), buffer.size())) > 0) bytes.append(buffer.data(), static_cast<std::size_t>(n));
  const int error = errno;
  ::close(fd);
  errno = error;
  return n == 0;
}

}  // namespace

Gardener::Gardener(const Place& place)
    : place_(place), root_(fmt::format("{}/garden{}", place.folder, place.number)), shared_root_(place.folder + "/shared"), random_(place.seed) {}

Gardener::~Gardener() {
  if (client_ != nullptr) (void)pindax_detach(client_);
}

bool Gardener::failed(const std::string& what, int error) {
  why_ = fmt::format("{}: {}", what, std::strerror(error));
  return false;
}
bool Gardener::failed(const std::string& what) { return failed(what, errno); }

std::string Gardener::any_folder() {
  if (folders_.empty() || random_.chance(40)) return root_;
  auto it = folders_.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(random_.below(folders_.size())));
  return *it;
}
std::string Gardener::new_path() { return fmt::format("{}/n{}", any_folder(), serial_++); }

const std::string* Gardener::any_file() {
  if (files_.empty()) return nullptr;
  auto it = files_.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(random_.below(files_.size())));
  return &it->first;
}

void Gardener::doubt_file(const File& file) {
  for (const auto& [path, other] : files_)
    if (other.get() == &file) doubt(path);
}

bool Gardener::create() {
  if (files_.size() >= kFilesMax) return true;
  const std::string path = new_path();
  doubt(path);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == ENOSPC) return true;  // after a crash of the daemon, freed blocks rest while its clients live
  if (fd < 0) return failed("create " + path);
  auto file = std::make_shared<File>();
  file->bytes.resize(random_.below(60'000));
  fill_pattern(file->bytes.data(), random_.next(), 0, file->bytes.size());
  const ssize_t n = ::write(fd, file->bytes.data(), file->bytes.size());
  const int error = errno;
  if (::close(fd) != 0 && n >= 0) return failed("close " + path);
  if (n != static_cast<ssize_t>(file->bytes.size())) return failed("write " + path, error);
  files_[path] = std::move(file);
  return true;
}

bool Gardener::remove() {
  const std::string* path = any_file();
  if (path == nullptr || files_.size() < 5) return true;
  doubt(*path);
  if (::unlink(path->c_str()) != 0) return failed("unlink " + *path);
  files_.erase(*path);
  return true;
}

bool Gardener::rename() {
  const std::string* chosen = any_file();
  if (chosen == nullptr) return true;
  const std::string from = *chosen;
  const std::string to = random_.chance(50) ? new_path() : *any_file();
  doubt(from);
  doubt(to);
  if (::rename(from.c_str(), to.c_str()) != 0) return failed(fmt::format("rename {} to {}", from, to));
  const FilePtr file = files_[from];
  if (auto there = files_.find(to); there != files_.end() && there->second == file) return true;  // two names of one file: nothing happens
  files_[to] = file;
  files_.erase(from);
  return true;
}

bool Gardener::link() {
  const std::string* from = any_file();
  if (from == nullptr || files_.size() >= kFilesMax) return true;
  const std::string to = new_path();
  doubt(to);
  if (::link(from->c_str(), to.c_str()) != 0) return failed(fmt::format("link {} to {}", *from, to));
  files_[to] = files_[*from];
  return true;
}

bool Gardener::make_folder() {
  if (folders_.size() >= kFoldersMax) return true;
  const std::string path = new_path();
  doubt(path);
  if (::mkdir(path.c_str(), 0755) != 0) return failed("mkdir " + path);
  folders_.insert(path);
  return true;
}

bool Gardener::remove_folder() {
  if (folders_.empty()) return true;
  const std::string path = any_folder();
  if (path == root_) return true;
  const std::string inside = path + "/";
  const auto within = [&](const std::string& p) { return p.starts_with(inside); };
  bool empty = true;
  for (const auto& [p, f] : files_) empty = empty && !within(p);
  for (const auto& [p, t] : links_) empty = empty && !within(p);
  for (const std::string& p : folders_) empty = empty && !within(p);
  if (!empty) return ::rmdir(path.c_str()) != 0 && (errno == ENOTEMPTY || errno == EEXIST) ? true : failed("rmdir of a full folder " + path);
  doubt(path);
  if (::rmdir(path.c_str()) != 0) return failed("rmdir " + path);
  folders_.erase(path);
  return true;
}

bool Gardener::symlink() {
  if (links_.size() >= 8) {
    const std::string path = links_.begin()->first;
    doubt(path);
    if (::unlink(path.c_str()) != 0) return failed("unlink " + path);
    links_.erase(path);
    return true;
  }
  const std::string path = new_path(), target(random_.between(1, 300), 'a');
  doubt(path);
  if (::symlink(target.c_str(), path.c_str()) != 0) return failed("symlink " + path);
  links_[path] = target;
  return true;
}

bool Gardener::attribute() {
  const std::string* path = any_file();
  if (path == nullptr) return true;
  File& file = *files_[*path];
  doubt_file(file);
  const std::string name = fmt::format("user.a{}", random_.below(4));
  if (random_.chance(30) && file.attributes.contains(name)) {
    if (::removexattr(path->c_str(), name.c_str()) != 0) return failed("removexattr " + *path);
    file.attributes.erase(name);
    return true;
  }
  std::string value(random_.below(600), '\0');
  fill_pattern(value.data(), random_.next(), 0, value.size());
  if (::setxattr(path->c_str(), name.c_str(), value.data(), value.size(), 0) != 0) return failed("setxattr " + *path);
  file.attributes[name] = value;
  return true;
}

bool Gardener::verify_file(const std::string& path, const File& file) {
  std::string got;
  if (!read_all(path, got)) return failed("read " + path);
  place_.shared->verified_bytes.fetch_add(got.size());
  if (got.size() != file.bytes.size()) {
    why_ = fmt::format("{}: {} bytes, must be {}", path, got.size(), file.bytes.size());
    return false;
  }
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != file.bytes[i]) {
      place_.shared->lost_updates.fetch_add(1);
      why_ = fmt::format("{}: byte {} is 0x{:02x}, must be 0x{:02x}", path, i, static_cast<u8>(got[i]), static_cast<u8>(file.bytes[i]));
      return false;
    }
  for (const auto& [name, value] : file.attributes) {
    std::string buffer(value.size() + 1, '\0');
    const ssize_t n = ::getxattr(path.c_str(), name.c_str(), buffer.data(), buffer.size());
    if (n != static_cast<ssize_t>(value.size()) || buffer.compare(0, value.size(), value) != 0) {
      why_ = fmt::format("{}: attribute {} is not what was set", path, name);
      return false;
    }
  }
  return true;
}

bool Gardener::check_one() {
  const std::string* path = any_file();
  return path == nullptr || verify_file(*path, *files_[*path]);
}

bool Gardener::check_shared(const std::string& path) {
  std::string bytes;
  if (!read_all(path, bytes)) return collision(errno) || errno == ELOOP ? true : failed("read " + path);
  Proof proof{};
  if (bytes.size() >= sizeof(proof)) std::memcpy(&proof, bytes.data(), sizeof(proof));
  if (bytes.size() < sizeof(proof) || bytes.size() > (1u << 20) || bytes != proven(proof.seed, bytes.size() - sizeof(proof))) {
    why_ = fmt::format("{}: contents that nobody wrote ({} bytes)", path, bytes.size());
    return false;
  }
  return true;
}

bool Gardener::collide_rename(const std::string& folder) {
  const std::string to = fmt::format("{}/{}", folder, random_.below(kSharedNames));
  const std::string temporary = fmt::format("{}/t{}.{}", shared_root_, place_.number, serial_++);
  const std::string bytes = proven(random_.next(), random_.below(20'000));
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return failed("create " + temporary);
  doubt(temporary);
  const ssize_t n = ::write(fd, bytes.data(), bytes.size());
  ::close(fd);
  if (n != static_cast<ssize_t>(bytes.size())) return failed("write " + temporary);
  if (::rename(temporary.c_str(), to.c_str()) == 0) return true;
  if (!collision(errno)) return failed(fmt::format("rename {} to {}", temporary, to));
  return ::unlink(temporary.c_str()) == 0 || failed("unlink " + temporary);
}

// Names 0–23 in three folders, as files, folders, links: whoever comes first.
bool Gardener::collide() {
  const std::string folder = random_.chance(50) ? shared_root_ : fmt::format("{}/{}", shared_root_, random_.below(3));
  const std::string path = fmt::format("{}/{}", folder, random_.below(kSharedNames));
  const std::string other = fmt::format("{}/{}", random_.chance(50) ? shared_root_ : folder, random_.below(kSharedNames));
  int result = 0;
  const char* what = "";
  switch (random_.below(8)) {
    case 0: return collide_rename(folder);
    case 1: what = "unlink", result = ::unlink(path.c_str()); break;
    case 2: what = "rename", result = ::rename(path.c_str(), other.c_str()); break;
    case 3: what = "link", result = ::link(path.c_str(), other.c_str()); break;
    case 4: what = "mkdir", result = ::mkdir(path.c_str(), 0755); break;
    case 5: what = "rmdir", result = ::rmdir(path.c_str()); break;
    case 6: what = "exchange", result = ::renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE); break;
    default: return check_shared(path);
  }
  return result == 0 || collision(errno) || failed(fmt::format("{} {} ({})", what, path, other));
}

bool Gardener::step() {
  doubtful_.clear();
  switch (random_.below(24)) {
    case 0:
    case 1: return create();
    case 2: return remove();
    case 3: return rename();
    case 4: return link();
    case 5: return make_folder();
    case 6: return remove_folder();
    case 7: return symlink();
    case 8: return attribute();
    case 9: return check_one();
    case 10:
    case 11:
    case 12:
    case 13:
    case 14: return collide();
    default: return data();
  }
}

// Everything that is there, and nothing else.
bool Gardener::verify_folder(const std::string& path, std::set<std::string>& seen) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return failed("opendir " + path);
  std::vector<std::string> folders;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    const std::string full = path + "/" + name;
    if (!files_.contains(full) && !links_.contains(full) && !folders_.contains(full)) {
      ::closedir(dir);
      why_ = full + " is there, but was removed or never made";
      return false;
    }
    seen.insert(full);
    if (folders_.contains(full)) folders.push_back(full);
  }
  ::closedir(dir);
  for (const std::string& folder : folders)
    if (!verify_folder(folder, seen)) return false;
  return true;
}

bool Gardener::verify() {
  std::set<std::string> seen;
  if (!verify_folder(root_, seen)) return false;
  if (seen.size() != files_.size() + links_.size() + folders_.size()) {
    why_ = fmt::format("{}: {} names are listed, {} were made", root_, seen.size(), files_.size() + links_.size() + folders_.size());
    return false;
  }
  for (const auto& [path, file] : files_)
    if (!verify_file(path, *file)) return false;
  for (const auto& [path, target] : links_) {
    std::array<char, 512> buffer{};
    const ssize_t n = ::readlink(path.c_str(), buffer.data(), buffer.size());
    if (n < 0 || std::string(buffer.data(), static_cast<std::size_t>(n)) != target) return failed("readlink " + path);
  }
  for (u64 name = 0; name < kSharedNames; ++name)
    for (const std::string& folder : {shared_root_, shared_root_ + "/0", shared_root_ + "/1", shared_root_ + "/2"})
      if (!check_shared(fmt::format("{}/{}", folder, name))) return false;
  return true;
}

bool Gardener::attach() {
  if (client_ != nullptr) (void)pindax_detach(client_);
  client_ = nullptr;
  const int code = pindax_attach(place_.folder.c_str(), nullptr, &client_);
  if (code != 0) return failed(fmt::format("attach ({})", pindax_last_error()), -code);
  return true;
}

// After a crash of the daemon: what was under way is cleared away.
bool Gardener::recover(u32 life) {
  while (place_.shared->life.load() == life || place_.shared->phase.load() == Phase::kCrashing) sleep_ms(2);
  std::vector<std::string> paths;
  paths.swap(doubtful_);
  for (const std::string& path : paths) {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
    files_.erase(path);
    links_.erase(path);
    folders_.erase(path);
    std::erase_if(files_, [&](const auto& entry) { return entry.first.starts_with(path + "/"); });
  }
  return attach();
}

void Gardener::run() {
  Shared& shared = *place_.shared;
  u32 life = shared.life.load();
  bool good = (::mkdir(root_.c_str(), 0755) == 0 || failed("mkdir " + root_)) && attach();
  while (good && shared.phase.load() <= Phase::kCrashing) {
    life = shared.life.load();
    good = step();
    shared.operations.fetch_add(1, std::memory_order_relaxed);
    if (!good && down(life)) good = recover(life);
  }
  // Once before the unmount, once after it.
  good = good && verify();
  (void)pindax_detach(std::exchange(client_, nullptr));
  if (!good) return shared.fail(fmt::format("gardener {}: {}", place_.number, why_));
  shared.verified.fetch_add(1);
  while (shared.phase.load() != Phase::kEnd) sleep_ms(5);
  if (!verify()) shared.fail(fmt::format("gardener {}, after the unmount: {}", place_.number, why_));
}

void run_gardener(const Place& place) { Gardener(place).run(); }

}  // namespace pindax::stress
