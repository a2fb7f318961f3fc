// SPDX-License-Identifier: BSD-3-Clause
//
// Where bytes lie: a file's extents with who maps and pins it, and a block's owners.
#include <algorithm>

#include "server/control_rows.h"
#include "server/path_walk.h"

namespace pindax::control {

Result<Json> show_layout(const Request& r) {
  FileSystem& fs = r.context.fs;
  PINDAX_ASSIGN(const std::string path, text_argument(r, "path"));
  PINDAX_ASSIGN(InodeRef inode, walk_existing(fs, r.caller, path, true));
  PINDAX_TRY(fs.access(*inode, R_OK, r.caller));
  PINDAX_ASSIGN(const Attributes a, fs.attributes(*inode));
  Json row{{"path", path}, {"inode", a.ino.value}, {"size_bytes", a.size_bytes}};
  PINDAX_ASSIGN(const auto extents, fs.extents(*inode, {0, u64{1} << 60}));
  Json list = Json::array();
  for (const auto& e : extents) {
    const char* state = e.state == format::ExtentState::kUnwritten ? "unwritten" : e.state == format::ExtentState::kProvisional
                                                                                      ? "provisional"
                                                                                      : "written";
    const u64 offset = e.file_block.value << kBlockShift;
    list.push_back({{"offset_bytes", offset},
                    {"length_bytes", u64{e.length} << kBlockShift},
                    {"block", e.block.value},
                    {"length_blocks", e.length},
                    {"state", state},
                    {"shared", e.shared},
                    {"huge_aligned", offset % kHugePageSize == block_offset(e.block).value % kHugePageSize}});
  }
  row["extents"] = std::move(list);
  Json mappings = Json::array();
  MappingRows(r.context).each_of(a.ino, [&](const MappingRow& m, const ClientIdentity& who) {
    if (!may_see(r, who.uid)) return;
    Json one = client_row(who);
    one["offset_bytes"] = m.range.begin;
    one["length_bytes"] = m.range.length();
    one["writable"] = m.writable;
    one["direct"] = !m.indirect;
    one["granted_bytes"] = m.granted_bytes;
    one["recalls_pending"] = m.recalls_pending;
    mappings.push_back(std::move(one));
  });
  row["mappings"] = std::move(mappings);
  Json pins = Json::array();
  for (const PinRow& pin : r.context.clients().list_pins())
    if (pin.ino == a.ino && may_see(r, pin.client.uid)) pins.push_back(pin_row(pin));
  row["pins"] = std::move(pins);
  return row;
}

// The owners that were found, with the clients that map or pin the bytes there.
Json describe_block(ServerContext& context, const FileSystem::OwnerScan& scan) {
  const MappingRows mappings(context);
  const auto pins = context.clients().list_pins();
  Json files = Json::array();
  for (const auto& owner : scan.owners) {
    const ByteRange there{owner.file_offset, owner.file_offset + (owner.run.length << kBlockShift)};
    Json clients = Json::array();
    mappings.each_of(owner.ino, [&](const MappingRow& m, const ClientIdentity& who) {
      if (!m.range.overlaps(there)) return;
      Json one = client_row(who);
      one["writable"] = m.writable;
      one["pinned"] = std::any_of(pins.begin(), pins.end(), [&](const PinRow& p) {
        return p.ino == owner.ino && p.client.session == m.session && p.range.overlaps(there);
      });
      clients.push_back(std::move(one));
    });
    files.push_back({{"path", path_of(context, owner.ino)},
                     {"inode", owner.ino.value},
                     {"offset_bytes", owner.file_offset},
                     {"length_bytes", there.length()},
                     {"shared", owner.shared},
                     {"clients", std::move(clients)}});
  }
  return Json{{"block", scan.run.start.value}, {"length_blocks", scan.run.length}, {"bad", context.fs.allocator().first_bad(scan.run).has_value()}, {"owners", scan.owners.size()}, {"files", std::move(files)}};
}

}  // namespace pindax::control
