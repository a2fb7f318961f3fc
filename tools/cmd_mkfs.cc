// SPDX-License-Identifier: BSD-3-Clause
//
// pindax mkfs [POOL]: makes an empty file system in a file or on a device.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "common/command.h"
#include "common/text.h"
#include "fs/file_system.h"
#include "pmem/pool_media.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string pool;
  u64 size = 0;
  bool force = false;
  bool sparse = false;
  bool quiet = false;
  bool json = false;
  std::string label;
};

constexpr u64 kDefaultPoolBytes = u64{256} << 20;

int run(Options& o) {
  if (o.pool.empty()) o.pool = fmt::format("/dev/shm/pindax-{}.pool", ::getuid());
  struct stat st{};
  const bool exists = ::stat(o.pool.c_str(), &st) == 0;
  if (exists && S_ISDIR(st.st_mode)) return fail("mkfs", Status(Errc::kIsDirectory, o.pool + " is a directory: name a file in it, or a device"));
  const bool device = exists && !S_ISREG(st.st_mode);
  if (o.size == 0 && !device && (!exists || st.st_size == 0)) o.size = kDefaultPoolBytes;
  if (device && o.size != 0) return usage("mkfs", "--size is for files; a device is used whole");
  if (o.label.size() > sizeof(format::Superblock::label) - 1)
    return usage("mkfs", fmt::format("a label may have {} bytes", sizeof(format::Superblock::label) - 1));
  auto media = PoolMedia::create(o.pool, o.size, o.sparse, o.force);
  if (!media.ok()) return fail("mkfs", media.status());
  MkfsOptions options{.label = o.label, .zeroed = !device && !exists, .root_uid = ::getuid(), .root_gid = ::getgid()};
  if (auto made = make_file_system(**media, options); !made.ok()) return fail("mkfs", made);
  if (o.json) {
    fmt::print("{{\"pool\": \"{}\", \"size_bytes\": {}, \"kind\": \"{}\"}}\n", escape(o.pool), (*media)->size(),
               pool_kind_name((*media)->kind()));
  } else if (!o.quiet) {
    fmt::print("{}: {} pool, {}\n{}\n", escape(o.pool), size_text((*media)->size()), pool_kind_name((*media)->kind()),
               granularity_promise((*media)->granularity()));
  }
  return kDone;
}

}  // namespace

void add_mkfs(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("mkfs", "Make a pool in a file, on tmpfs, fsdax, or on a devdax device");
  sub->add_option("POOL", o->pool, "file or device; default /dev/shm/pindax-UID.pool");
  add_size(sub, "--size", o->size, "size of the pool file (default: what the file has, else 256M)");
  sub->add_option("--label", o->label, "name of the file system, shown by 'pindax info'")->type_name("TEXT");
  sub->add_flag("--force", o->force, "overwrite what is there");
  sub->add_flag("--sparse", o->sparse, "reserve space on the host only as files need it");
  sub->add_flag("--quiet", o->quiet, "print nothing but errors");
  sub->add_flag("--json", o->json, "print an object");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
