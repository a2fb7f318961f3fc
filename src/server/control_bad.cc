// SPDX-License-Identifier: BSD-3-Clause
//
// Bad blocks in the tools: {"op":"damage"} says what they have destroyed, by name; {"op":"scrub"} looks for more, a piece at a time;
// "info" shows the same list. The list is found by a look through every inode, in steps through the executor's queue.

#include <set>

#include "server/control_rows.h"

namespace pindax::control {

namespace {

constexpr u64 kScrubBlocks = (u64{32} << 20) >> kBlockShift;  // of one request

Json file_rows(ServerContext& context, const FileSystem::DamageScan& scan) {
  Json rows = Json::array();
  for (const auto& owner : scan.owners) {
    if (!owner.lost) continue;
    rows.push_back({{"path", path_of(context, owner.ino)},
                    {"inode", owner.ino.value},
                    {"offset_bytes", owner.file_offset},
                    {"length_bytes", owner.run.length * kBlockSize},
                    {"block", owner.run.start.value},
                    {"shared", owner.shared}});
  }
  return rows;
}

// Bad blocks that are in use, but by no file: inodes, trees, bitmaps, the journal.
Json metadata_rows(ServerContext& context, const FileSystem::DamageScan& scan) {
  std::set<u64> of_files;
  for (const auto& owner : scan.owners)
    for (u64 b = 0; b < owner.run.length; ++b) of_files.insert(owner.run.start.value + b);
  Json rows = Json::array();
  for (const auto& bad : context.fs.allocator().bad_blocks())
    if (!bad.retired && !of_files.contains(bad.block.value)) rows.push_back(bad.block.value);
  return rows;
}

void add_damage(Json& to, ServerContext& context, const FileSystem::DamageScan& scan) {
  to["damaged"] = file_rows(context, scan);
  to["damaged_metadata_blocks"] = metadata_rows(context, scan);
}

}  // namespace

void show_damage(const Request& r, Json row, std::function<void(Result<Json>)> done) {
  const SpaceSummary space = r.context.fs.allocator().summary();
  row["bad_bytes"] = space.bad_blocks * kBlockSize;
  row["retired_bytes"] = space.retired_blocks * kBlockSize;
  if (!r.sees_all) return done(std::move(row));  // names are the owner's
  auto scan = std::make_shared<FileSystem::DamageScan>();
  auto answer = std::make_shared<Json>(std::move(row));
  in_steps(
      r.context.fs.executor(), [&context = r.context, scan] { return context.fs.find_damaged(*scan); },
      [scan, answer, &context = r.context, done = std::move(done)](const Status& found) {
        if (!found.ok()) return done(found);
        add_damage(*answer, context, *scan);
        done(std::move(*answer));
      });
}

Result<Json> scrub_some(const Request& r) {
  if (!r.sees_all) return Status(Errc::kPermission, "only root and the mount's owner may scrub");
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const u64 from, number_argument(r, "from_block"));
  Json row = Json::object();
  if (from == 0) {
    const auto listed = fs.read_bad_list();
    row["listed_blocks"] = listed.ok() ? *listed : 0;
    if (!listed.ok()) row["list_error"] = std::string(listed.status().message());
  }
  PINDAX_ASSIGN(const FileSystem::ScrubStep step, fs.scrub(BlockNo(from), kScrubBlocks));
  if (step.done) PINDAX_TRY(fs.tend_bad_blocks());
  row["next_block"] = step.next.value;
  row["pool_blocks"] = fs.superblock().pool_blocks.get();
  row["done"] = step.done;
  row["read_bytes"] = step.read_blocks * kBlockSize;
  row["found_blocks"] = step.found_blocks;
  return row;
}

}  // namespace pindax::control
