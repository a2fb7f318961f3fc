// SPDX-License-Identifier: BSD-3-Clause
//
// pindax info POOL|MNT: what the pool is, what survives what, how full it is. A mounted pool is asked through its daemon.
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>

#include "common/listing.h"
#include "common/text.h"
#include "daemon/mount_client.h"
#include "format/decode.h"
#include "pmem/pool_media.h"

namespace pindax::tools {
namespace {

std::string uuid_text(const u8* u) {
  std::string text;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", u[i]);
  }
  return text;
}

// What can be said without mounting: superblock and state record.
Result<Json> read_pool(const std::string& path) {
  PINDAX_ASSIGN(auto media, PoolMedia::open(path, {.read_only = true, .exclusive = false}));
  format::Superblock best{};
  Status why(Errc::kCorrupt, "no valid superblock: 'pindax fsck --repair' may find one, 'pindax mkfs' makes a new file system");
  bool found = false;
  for (const u64 offset : format::kSuperblockOffsets) {
    format::Superblock sb;
    if (!media->read(PoolOffset(offset), &sb, sizeof(sb)).ok()) continue;
    if (auto checked = format::check_superblock(sb, offset); !checked.ok()) {
      if (checked.code() == Errc::kIncompatible) why = checked;
      continue;
    }
    if (!found || sb.sequence.get() > best.sequence.get()) best = sb;
    found = true;
  }
  if (!found) return why.with_context(path);
  const auto* label = reinterpret_cast<const char*>(best.label);
  Json info = {{"pool", path},
               {"kind", pool_kind_name(media->kind())},
               {"granularity", granularity_name(media->granularity())},
               {"promise", granularity_promise(media->granularity())},
               {"mounted", false},
               {"clean", best.state == static_cast<u32>(format::PoolState::kClean)},
               {"uuid", uuid_text(best.uuid)},
               {"label", std::string(label, ::strnlen(label, sizeof(best.label)))},
               {"format_version", best.version.get()},
               {"size_bytes", best.pool_blocks.get() * kBlockSize},
               {"allocation_group_bytes", best.ag_blocks.get() * kBlockSize},
               {"allocation_groups", best.ag_count.get()},
               {"journal_bytes", best.journal_blocks.get() * kBlockSize},
               {"features_compat", best.features_compat.get()},
               {"features_ro_compat", best.features_ro_compat.get()},
               {"features_incompat", best.features_incompat.get()},
               {"mount_count", best.mount_count.get()},
               {"created_ns", best.created_ns.get()}};
  format::StateRecord state;
  const BlockNo self(best.state_block);
  if (media->read(block_offset(self), &state, sizeof(state)).ok() && format::check_state(state, self).ok()) {
    info["free_bytes"] = state.free_blocks.get() * kBlockSize;
    info["quarantine_bytes"] = state.quarantine_blocks.get() * kBlockSize;
    info["bad_bytes"] = state.bad_blocks.get() * kBlockSize;
    info["retired_bytes"] = state.retired_blocks.get() * kBlockSize;
    info["orphans"] = state.orphan_count.get();
    info["inodes_used"] = state.inodes_used.get();
  }
  return info;
}

// What bad blocks have destroyed, below the rest.
std::string print_damage(const Json& info) {
  std::string text;
  Table files({{"DAMAGED FILE", false, true}, {"LOST RANGE"}, {"POOL BLOCK", true}, {"SHARED"}});
  for (const Json& d : info.value("damaged", Json::array())) {
    const std::string path = d.value("path", std::string());
    files.add({path.empty() ? fmt::format("(inode {})", number_field(d, "inode")) : escape(path),
               range_text(number_field(d, "offset_bytes"), number_field(d, "length_bytes")), text_field(d, "block"),
               d.value("shared", false) ? "maybe" : "no"});
  }
  if (!files.empty()) text += "\n" + files.text(terminal_width()) + "Writing a whole block again repairs it; so does a copy from elsewhere.\n";
  for (const Json& block : info.value("damaged_metadata_blocks", Json::array()))
    text += fmt::format("block {} of the pool is bad and holds no bytes of a file: run pindax fsck when it is unmounted\n", block.dump());
  return text;
}

std::string print(const Json& info) {
  std::string text;
  for (const auto& [key, value] : info.items()) {
    if (value.is_array()) continue;
    std::string shown = value.is_string() ? escape(value.get<std::string>()) : value.dump();
    if (value.is_number_unsigned() && key.ends_with("_bytes")) shown = fmt::format("{} ({})", size_text(value.get<u64>()), value.get<u64>());
    text += fmt::format("{:>24}  {}\n", key, shown);
  }
  return text + print_damage(info);
}

int run(const ListingOptions& o) {
  struct stat st{};
  if (::stat(o.where.c_str(), &st) != 0) return fail("info", Status(from_errno(errno), fmt::format("{}: {}", o.where, std::strerror(errno))));
  if (S_ISDIR(st.st_mode) || S_ISSOCK(st.st_mode)) return run_listing("info", o, {{"op", "info"}, {"damage", true}}, print);
  for (const MountedPool& mounted : mounted_pools()) {
    struct stat pool{};
    if (::stat(mounted.pool.c_str(), &pool) != 0 || pool.st_dev != st.st_dev || pool.st_ino != st.st_ino) continue;
    ListingOptions listing = o;
    listing.where = mounted.mount_point;
    return run_listing("info", listing, {{"op", "info"}, {"damage", true}}, print);
  }
  auto info = read_pool(o.where);
  if (!info.ok()) return fail("info", info.status());
  fmt::print("{}", o.json ? info->dump(2) + "\n" : print(*info));
  return kDone;
}

}  // namespace

void add_info(Commands& commands) {
  auto o = std::make_shared<ListingOptions>();
  auto* sub = commands.add("info", "Show what a pool is, what it promises, and how full it is");
  sub->add_option("POOL|MNT", o->where, "a pool, a mount point, or a daemon's socket")->required();
  add_watch_options(sub, *o);
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
