// SPDX-License-Identifier: BSD-3-Clause
//
// The dump's structs: superblocks, journal, state, groups, inodes.
#include "fsck/dump.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "alloc/media_counts.h"
#include "fmt/format.h"
#include "fsck/dump_impl.h"
#include "pmem/pool_media.h"

namespace pindax {

Json dump_hex(const u8* bytes, std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

namespace {

void note_damage(Json& j, const Status& s) {
  if (!s.ok()) j["damage"] = std::string(s.message());
}

Json time_json(u64 seconds, u32 nanoseconds) {
  return fmt::format("{}.{:09}", static_cast<i64>(seconds), nanoseconds);
}

const char* kind_name(format::DataKind k) {
  switch (k) {
    case format::DataKind::kNone: return "none";
    case format::DataKind::kInlineExtents: return "inline extents";
    case format::DataKind::kTree: return "tree";
    case format::DataKind::kInlineSymlink: return "inline symlink";
    case format::DataKind::kBlobSymlink: return "blob symlink";
  }
  return "unknown";
}

const char* type_name(u32 mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFCHR: return "character device";
    case S_IFBLK: return "block device";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    default: return mode == 0 ? "free" : "unknown";
  }
}

}  // namespace

Json dump_superblock(const format::Superblock& sb, u64 at) {
  Json j;
  j["offset_bytes"] = at;
  note_damage(j, format::check_superblock(sb, at));
  j["version"] = sb.version.get();
  j["sequence"] = sb.sequence.get();
  j["uuid"] = dump_hex(sb.uuid, sizeof sb.uuid);
  j["label"] = dump_text(reinterpret_cast<const char*>(sb.label), strnlen(reinterpret_cast<const char*>(sb.label), sizeof sb.label));
  j["features_compat"] = sb.features_compat.get();
  j["features_ro_compat"] = sb.features_ro_compat.get();
  j["features_incompat"] = sb.features_incompat.get();
  j["pool_blocks"] = sb.pool_blocks.get();
  j["ag_blocks"] = sb.ag_blocks.get();
  j["ags"] = sb.ag_count.get();
  j["journal_block"] = sb.journal_block.get();
  j["journal_blocks"] = sb.journal_blocks.get();
  j["state_block"] = sb.state_block.get();
  j["root_inode"] = sb.root_inode.get();
  j["created_ns"] = sb.created_ns.get();
  j["state"] = sb.state == static_cast<u32>(format::PoolState::kClean) ? "clean" : "mounted";
  j["mount_epoch"] = sb.mount_epoch.get();
  j["confirmed_epoch"] = sb.confirmed_epoch.get();
  j["mounts"] = sb.mount_count.get();
  j["mounted_ns"] = sb.mounted_ns.get();
  j["boot_id"] = dump_hex(sb.boot_id, sizeof sb.boot_id);
  j["lost_epochs"] = Json::array();
  for (u32 i = 0; i < sb.lost_count && i < format::kMaxLostEpochs; ++i)
    j["lost_epochs"].push_back({{"first", sb.lost[i].first.get()}, {"last", sb.lost[i].last.get()}});
  return j;
}

Json dump_group(const format::AgHeader& h, u32 ag, const Status& checked) {
  Json j;
  j["ag"] = ag;
  note_damage(j, checked);
  j["header_block"] = h.self_block.get();
  j["blocks"] = h.blocks.get();
  j["bitmap_block"] = h.bitmap_block.get();
  j["inode_bitmap_block"] = h.inode_bitmap_block.get();
  j["bitmap_blocks"] = h.bitmap_blocks.get();
  j["first_data_block"] = h.first_data_block.get();
  j["free_blocks"] = h.free_blocks.get();
  j["inode_blocks"] = h.inode_blocks.get();
  j["free_inodes"] = h.free_inodes.get();
  if (h.refcount_root != 0) j["refcount_root"] = h.refcount_root.get();
  if (h.reverse_map_root != 0) j["reverse_map_root"] = h.reverse_map_root.get();
  return j;
}

Json dump_extent(const format::ExtentInfo& e) {
  const char* state = e.state == format::ExtentState::kWritten     ? "written"
                      : e.state == format::ExtentState::kUnwritten ? "unwritten"
                                                                   : "provisional";
  Json j{{"file_block", e.file_block.value}, {"block", e.block.value}, {"length_blocks", e.length}, {"state", state}};
  if (e.epoch != 0) j["epoch"] = e.epoch;
  if (e.shared) j["shared"] = true;
  return j;
}

Json dump_inode(const format::Inode& i, InodeNo ino) {
  Json j;
  j["inode"] = ino.value;
  note_damage(j, format::check_inode(i, ino));
  j["type"] = type_name(i.mode);
  j["mode"] = fmt::format("{:06o}", i.mode.get());
  j["generation"] = i.generation.get();
  if (i.mode == 0) return j;
  j["links"] = i.links.get();
  j["uid"] = i.uid.get();
  j["gid"] = i.gid.get();
  j["size_bytes"] = i.size_bytes.get();
  j["blocks"] = i.blocks.get();
  j["flags"] = fmt::format("{:#x}", i.flags.get());
  if (i.rdev != 0) j["rdev"] = i.rdev.get();
  j["atime"] = time_json(i.atime_s, i.atime_ns);
  j["mtime"] = time_json(i.mtime_s, i.mtime_ns);
  j["ctime"] = time_json(i.ctime_s, i.ctime_ns);
  j["crtime"] = time_json(i.crtime_s, i.crtime_ns);
  j["version"] = i.version_counter.get();
  j["parent_inode"] = i.parent.get();
  j["parent_key"] = i.parent_key.get();
  if (i.parents_root != 0) j["parents_root"] = i.parents_root.get();
  if (i.xattr_root != 0) j["xattr_root"] = i.xattr_root.get();
  if (i.pending_end > i.pending_begin) j["pending"] = {{"begin_bytes", i.pending_begin.get()}, {"end_bytes", i.pending_end.get()}, {"shift", i.pending_shift.get()}};
  if (S_ISDIR(i.mode)) {
    j["entries"] = i.entries.get();
    j["subdirs"] = i.subdirs.get();
  }
  if (i.busy_policy != 0) {
    j["busy_policy"] = i.busy_policy.get();
    j["busy_deadline_ms"] = i.busy_deadline_ms.get();
  }
  const auto kind = static_cast<format::DataKind>(i.data_kind.get());
  j["data_kind"] = kind_name(kind);
  if (kind == format::DataKind::kTree) j["root"] = i.body.root.get();
  if (kind == format::DataKind::kInlineExtents) {
    j["extents"] = Json::array();
    for (u32 k = 0; k < i.extent_count && k < format::kInlineExtentCount; ++k)
      j["extents"].push_back(dump_extent(format::unpack_extent(i.body.extents[k])));
  }
  if (kind == format::DataKind::kInlineSymlink)
    j["target"] = dump_text(reinterpret_cast<const char*>(i.body.symlink), std::min<u64>(i.size_bytes, format::kInlineSymlinkBytes));
  if (kind == format::DataKind::kBlobSymlink) {
    j["blob_blocks"] = Json::array();
    for (u32 k = 0; k < i.body.blob.block_count && k < format::kMaxBlobBlocks; ++k) j["blob_blocks"].push_back(i.body.blob.blocks[k].get());
  }
  return j;
}

// JSON wants UTF-8, terminals no control characters: other bytes stand as \xNN.
std::string dump_text(const char* text, std::size_t length) {
  std::string out;
  for (std::size_t i = 0; i < length; ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c < 0x7f && c != '\\') out.push_back(static_cast<char>(c));
    else out += fmt::format("\\x{:02x}", c);
  }
  return out;
}

// ---- The object -------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Dump>> Dump::open(Media& media) {
  auto dump = std::make_unique<DumpImpl>(media);
  PINDAX_TRY(dump->start());
  return std::unique_ptr<Dump>(std::move(dump));
}

Status DumpImpl::start() {
  Status checked[2];
  for (unsigned i = 0; i < 2; ++i) {
    const u64 at = format::kSuperblockOffsets[i];
    checked[i] = media_.read(PoolOffset(at), &copies_[i], sizeof copies_[i]);
    if (checked[i].ok()) checked[i] = format::check_superblock(copies_[i], at);
  }
  if (!checked[0].ok() && !checked[1].ok()) return checked[0];
  const unsigned best = !checked[0].ok() ? 1 : !checked[1].ok() ? 0 : copies_[1].sequence > copies_[0].sequence ? 1 : 0;
  geometry_ = format::geometry_of(copies_[best]);
  if (media_.size() < geometry_.pool_blocks * kBlockSize)
    return Status(Errc::kCorrupt, "the pool is shorter than its superblock says");
  if (auto* pool = dynamic_cast<PoolMedia*>(&media_)) pool->set_segment_size(geometry_.ag_blocks * kBlockSize);
  auto store = MetaStore::open(media_, geometry_, SyncMode::kPosix, true);
  if (store.ok()) store_ = std::move(*store);
  else journal_damage_ = store.status();
  return {};
}

Result<MetaView> DumpImpl::view(PoolOffset at, u32 length) {
  if (at.value >= geometry_.pool_blocks * kBlockSize) return Status(Errc::kInvalid, "outside the pool");
  if (store_) return store_->view(at, length);
  const std::byte* bytes = media_.view(at, length);
  if (bytes == nullptr) return Status(Errc::kIo, "cannot be read");
  return MetaView(bytes, nullptr);
}

Json DumpImpl::superblock() {
  Json all = Json::array();
  for (unsigned i = 0; i < 2; ++i) all.push_back(dump_superblock(copies_[i], format::kSuperblockOffsets[i]));
  return all;
}

Json DumpImpl::journal() {
  Json j;
  note_damage(j, journal_damage_);
  j["headers"] = Json::array();
  for (u64 i = 0; i < 2; ++i) {
    const BlockNo self(geometry_.journal_block + i);
    format::JournalHeader h;
    Json header{{"block", self.value}};
    const Status read = media_.read(block_offset(self), &h, sizeof h);
    note_damage(header, read.ok() ? format::check_journal_header(h, self) : read);
    if (read.ok()) {
      header["sequence"] = h.sequence.get();
      header["head_bytes"] = h.head.get();
      header["epoch"] = h.epoch.get();
    }
    j["headers"].push_back(header);
  }
  j["ring_bytes"] = (geometry_.journal_blocks - 2) * kBlockSize;
  if (store_) {
    const ReplayReport& r = store_->replay_report();
    j["records"] = r.records;
    j["record_bytes"] = r.bytes;
    j["end_bytes"] = store_->last_lsn().value;
  }
  return j;
}

Json DumpImpl::state() {
  const BlockNo self(geometry_.state_block);
  Json j{{"block", self.value}};
  const auto v = view(block_offset(self), sizeof(format::StateRecord));
  if (!v.ok()) {
    note_damage(j, v.status());
    return j;
  }
  const auto& s = v->as<format::StateRecord>();
  note_damage(j, format::check_state(s, self));
  j["free_blocks"] = s.free_blocks.get();
  j["inodes_used"] = s.inodes_used.get();
  j["inodes_allocated"] = s.inodes_allocated.get();
  j["next_generation"] = s.next_generation.get();
  j["orphan_root"] = s.orphan_root.get();
  j["orphans"] = s.orphan_count.get();
  j["quarantine_root"] = s.quarantine_root.get();
  j["quarantine_blocks"] = s.quarantine_blocks.get();
  j["bad_root"] = s.bad_root.get();
  j["bad_blocks"] = s.bad_blocks.get();
  j["retired_blocks"] = s.retired_blocks.get();
  return j;
}

Json DumpImpl::groups() {
  Json all = Json::array();
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    auto one = group(ag);
    if (one.ok()) all.push_back(std::move(*one));
  }
  return all;
}

Result<Json> DumpImpl::group(u32 ag) {
  if (ag >= geometry_.ag_count) return Status(Errc::kInvalid, fmt::format("the pool has {} allocation groups", geometry_.ag_count));
  const BlockNo self = geometry_.ag_header(ag);
  PINDAX_ASSIGN(const MetaView v, view(block_offset(self), sizeof(format::AgHeader)));
  const auto& h = v.as<format::AgHeader>();
  return dump_group(h, ag, format::check_ag(h, ag, self));
}

Result<Json> DumpImpl::free_runs(u32 ag) {
  if (ag >= geometry_.ag_count) return Status(Errc::kInvalid, fmt::format("the pool has {} allocation groups", geometry_.ag_count));
  Json runs = Json::array();
  u64 start = 0, length = 0;
  const auto end_run = [&] {
    if (length != 0) runs.push_back({{"block", start}, {"length_blocks", length}});
    length = 0;
  };
  for (u32 index = 0; index < geometry_.bitmap_blocks(ag); ++index) {
    const BlockNo self = geometry_.bitmap(ag, index);
    PINDAX_ASSIGN(const MetaView v, view(block_offset(self), kBlockSize));
    const auto& b = v.as<format::BitmapBlock>();
    PINDAX_TRY(format::check_bitmap(b, ag, index, media_counts::kBlockBitmap, self));
    for (u64 bit = 0; bit < format::kBitmapBits; ++bit) {
      const u64 in_group = u64{index} * format::kBitmapBits + bit;
      if (in_group >= geometry_.ag_length(ag) || (b.bits[bit / 8] >> (bit % 8) & 1) != 0) {
        end_run();
      } else {
        if (length == 0) start = geometry_.ag_start(ag) + in_group;
        ++length;
      }
    }
  }
  end_run();
  return runs;
}

Result<MetaView> DumpImpl::slot(InodeNo ino) {
  if (!geometry_.is_data(BlockNo(format::inode_block(ino)), 1))
    return Status(Errc::kInvalid, fmt::format("inode number {} is outside the pool's data", ino.value));
  return view(format::inode_offset(ino), format::kInodeSize);
}

Result<Json> DumpImpl::inode(InodeNo ino) {
  PINDAX_ASSIGN(const MetaView v, slot(ino));
  return dump_inode(v.as<format::Inode>(), ino);
}

}  // namespace pindax
