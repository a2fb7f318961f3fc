// SPDX-License-Identifier: BSD-3-Clause
//
// pindax import and pindax export: copy a tree into and out of a file system that is served without a mount. Regular files (sparse ones
// stay sparse), directories and symbolic links, with modes, owners where the caller may, and modification times.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/command.h"
#include "common/remote_file.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

namespace stdfs = std::filesystem;

struct Options {
  std::string socket, from, to;
  bool json = false;
};

struct Totals {
  u64 files = 0, directories = 0, links = 0, bytes = 0, skipped = 0;
};

Status system_error(const std::string& what) {
  return Status(from_errno(errno), fmt::format("{}: {}", what, std::strerror(errno)));
}

std::string join(const std::string& dir, const std::string& name) { return dir == "/" ? "/" + name : dir + "/" + name; }

Json attributes_request(const std::string& to, const struct stat& st) {
  return {{"op", "set_attributes"}, {"path", to},
          {"mode", st.st_mode & 07777}, {"uid", st.st_uid},
          {"gid", st.st_gid}, {"mtime_s", st.st_mtim.tv_sec},
          {"mtime_ns", st.st_mtim.tv_nsec}};
}

Status import_file(Daemon& daemon, const std::string& from, const std::string& to, const struct stat& st, Totals& totals) {
  UniqueFd in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) return system_error(from);
  PINDAX_ASSIGN(auto out, RemoteFile::open(daemon, to, O_CREAT | O_TRUNC | O_WRONLY, 0600));
  std::vector<char> buffer(proto::kMaxDataBytes);
  off_t at = 0;
  while ((at = ::lseek(in.get(), at, SEEK_DATA)) >= 0) {
    const off_t end = ::lseek(in.get(), at, SEEK_HOLE);
    while (at < end) {
      const auto want = std::min<u64>(buffer.size(), static_cast<u64>(end - at));
      const ssize_t n = ::pread(in.get(), buffer.data(), want, at);
      if (n < 0) return system_error(from);
      if (n == 0) break;
      PINDAX_TRY(out.write(static_cast<u64>(at), {buffer.data(), static_cast<std::size_t>(n)}).with_context(to));
      at += n;
      totals.bytes += static_cast<u64>(n);
    }
  }
  PINDAX_TRY(out.truncate(static_cast<u64>(st.st_size)));
  ++totals.files;
  return {};
}

Status import_tree(Daemon& daemon, const std::string& from, const std::string& to, Totals& totals) {
  struct stat st{};
  if (::lstat(from.c_str(), &st) != 0) return system_error(from);
  if (S_ISREG(st.st_mode)) {
    PINDAX_TRY(import_file(daemon, from, to, st, totals));
  } else if (S_ISLNK(st.st_mode)) {
    std::error_code error;
    const auto target = stdfs::read_symlink(from, error);
    if (error) return Status(from_errno(error.value()), from + ": " + error.message());
    PINDAX_TRY(as_status(daemon.control({{"op", "symlink"}, {"path", to}, {"target", target.string()}})).with_context(to));
    ++totals.links;
    return {};
  } else if (S_ISDIR(st.st_mode)) {
    auto made = daemon.control({{"op", "mkdir"}, {"path", to}, {"mode", 0700}});
    if (!made.ok() && made.code() != Errc::kExists) return made.status().with_context(to);
    ++totals.directories;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(from, error))
      PINDAX_TRY(import_tree(daemon, entry.path().string(), join(to, entry.path().filename().string()), totals));
    if (error) return Status(from_errno(error.value()), from + ": " + error.message());
  } else {
    fmt::print(stderr, "pindax import: {}: left out, neither file, directory nor symbolic link\n", escape(from));
    ++totals.skipped;
    return {};
  }
  Json request = attributes_request(to, st);
  auto set = daemon.control(request);
  if (!set.ok() && set.code() == Errc::kPermission) {  // not ours to give away: keep mode and time
    request.erase("uid");
    request.erase("gid");
    set = daemon.control(request);
  }
  return as_status(set).with_context(to);
}

Status export_file(Daemon& daemon, const std::string& from, const std::string& to, u32 mode, Totals& totals) {
  PINDAX_ASSIGN(auto in, RemoteFile::open(daemon, from, O_RDONLY, 0));
  UniqueFd out(::open(to.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, mode & 0777));
  if (!out) return system_error(to);
  static const std::vector<char> kZeros(proto::kMaxDataBytes);
  for (u64 at = 0; at < in.size_bytes();) {
    PINDAX_ASSIGN(auto bytes, in.read(at, in.size_bytes() - at));
    if (bytes.empty()) break;
    const bool zeros = std::memcmp(bytes.data(), kZeros.data(), bytes.size()) == 0;
    for (std::size_t done = 0; !zeros && done < bytes.size();) {
      const ssize_t n = ::pwrite(out.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(at + done));
      if (n < 0) return system_error(to);
      done += static_cast<std::size_t>(n);
    }
    at += bytes.size();
    totals.bytes += bytes.size();
  }
  if (::ftruncate(out.get(), static_cast<off_t>(in.size_bytes())) != 0) return system_error(to);
  ++totals.files;
  return {};
}

Status export_tree(Daemon& daemon, const std::string& from, const std::string& to, Totals& totals) {
  PINDAX_ASSIGN(const Json row, daemon.control({{"op", "stat"}, {"path", from}}));
  const u32 mode = row.value("mode", 0u);
  if (S_ISREG(mode)) {
    PINDAX_TRY(export_file(daemon, from, to, mode, totals));
  } else if (S_ISLNK(mode)) {
    PINDAX_ASSIGN(const Json link, daemon.control({{"op", "readlink"}, {"path", from}}));
    if (::symlink(link.value("target", std::string()).c_str(), to.c_str()) != 0) return system_error(to);
    ++totals.links;
    return {};
  } else if (S_ISDIR(mode)) {
    if (::mkdir(to.c_str(), 0700) != 0 && errno != EEXIST) return system_error(to);
    ++totals.directories;
    PINDAX_ASSIGN(const Json rows, daemon.control({{"op", "ls"}, {"path", from}}));
    for (const Json& child : rows) {
      const auto name = child.value("name", std::string());
      if (name == "." || name == ".." || name.empty()) continue;
      PINDAX_TRY(export_tree(daemon, join(from, name), join(to, name), totals));
    }
  } else {
    fmt::print(stderr, "pindax export: {}: left out, neither file, directory nor symbolic link\n", escape(from));
    ++totals.skipped;
    return {};
  }
  if (::chmod(to.c_str(), mode & 07777) != 0) return system_error(to);
  if (::geteuid() == 0 && ::chown(to.c_str(), row.value("uid", 0u), row.value("gid", 0u)) != 0) return system_error(to);
  const timespec times[2] = {{0, UTIME_OMIT}, {row.value("mtime_s", i64{0}), row.value("mtime_ns", i64{0})}};
  if (::utimensat(AT_FDCWD, to.c_str(), times, 0) != 0) return system_error(to);
  return {};
}

int run(const char* command, const Options& o, Status (*copy)(Daemon&, const std::string&, const std::string&, Totals&)) {
  auto daemon = Daemon::connect(o.socket);
  if (!daemon.ok()) return fail(command, daemon.status());
  Totals totals;
  if (auto status = copy(*daemon, o.from, o.to, totals); !status.ok()) return fail(command, status);
  if (o.json)
    fmt::print("{}\n", Json{{"files", totals.files}, {"directories", totals.directories}, {"links", totals.links},
                            {"data_bytes", totals.bytes}, {"left_out", totals.skipped}}.dump());
  else
    fmt::print("{} files, {} directories, {} links, {}\n", totals.files, totals.directories, totals.links, size_text(totals.bytes));
  return totals.skipped == 0 ? kDone : kFoundSomething;
}

void add(Commands& commands, const char* name, const char* about, const char* from, const char* to,
         Status (*copy)(Daemon&, const std::string&, const std::string&, Totals&)) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add(name, about);
  sub->add_option("--socket", o->socket, "the daemon's socket, or any path on its mount")->required()->type_name("SOCKET");
  sub->add_option("FROM", o->from, from)->required();
  sub->add_option("TO", o->to, to)->required();
  sub->add_flag("--json", o->json, "print an object");
  commands.run(sub, [=] { return run(name, *o, copy); });
}

}  // namespace

void add_import(Commands& commands) {
  add(commands, "import", "Copy a file or tree into a file system, without a mount", "file or directory of the host",
      "path inside the file system", import_tree);
}

void add_export(Commands& commands) {
  add(commands, "export", "Copy a file or tree out of a file system, without a mount", "path inside the file system",
      "file or directory to make on the host", export_tree);
}

}  // namespace pindax::tools
