// SPDX-License-Identifier: BSD-3-Clause
//
// The dump's trees, and blocks of any kind.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "fmt/format.h"
#include "fsck/dump_impl.h"
#include "tree/node.h"

namespace pindax {

using format::TreeKind;
using tree_node::ConstNode;
using tree_node::Expected;

namespace {

template <class T>
T copy_of(TreeBytes bytes) {
  T out{};
  std::memcpy(&out, bytes.data(), std::min(sizeof out, bytes.size()));
  return out;
}

const char* kind_name(TreeKind k) {
  switch (k) {
    case TreeKind::kExtents: return "extents";
    case TreeKind::kDirectory: return "directory";
    case TreeKind::kXattrs: return "xattrs";
    case TreeKind::kParents: return "parents";
    case TreeKind::kQuarantine: return "quarantine";
    case TreeKind::kRefcount: return "refcount";
    case TreeKind::kReverse: return "reverse";
    case TreeKind::kOrphans: return "orphans";
    case TreeKind::kBadBlocks: return "bad blocks";
  }
  return "unknown";
}

const char* reason_name(u32 reason) {
  switch (static_cast<format::QuarantineReason>(reason)) {
    case format::QuarantineReason::kPinned: return "pinned";
    case format::QuarantineReason::kFormerClient: return "former client";
    case format::QuarantineReason::kKernelIo: return "kernel I/O";
    case format::QuarantineReason::kUnacknowledged: return "unacknowledged";
  }
  return "unknown";
}

}  // namespace

Json dump_item(TreeKind kind, u64 key, TreeBytes value) {
  if (const Status s = format::check_value(kind, value); !s.ok()) return {{"key", key}, {"damage", std::string(s.message())}};
  const char* text = reinterpret_cast<const char*>(value.data());
  switch (kind) {
    case TreeKind::kExtents: return dump_extent(format::unpack_extent(FileBlock(key), copy_of<format::ExtentValue>(value)));
    case TreeKind::kDirectory: {
      const auto v = copy_of<format::DirectoryValue>(value);
      return {{"key", key}, {"name", dump_text(text + sizeof v, v.name_length)}, {"inode", v.inode.get()}, {"type", v.type}};
    }
    case TreeKind::kXattrs: {
      const auto v = copy_of<format::XattrValue>(value);
      Json j{{"key", key}, {"name", dump_text(text + sizeof v, v.name_length)}};
      const TreeBytes rest = value.subspan(sizeof v + v.name_length);
      if (v.external == 0) {
        j["value"] = dump_text(reinterpret_cast<const char*>(rest.data()), rest.size());
        return j;
      }
      const auto blob = copy_of<format::BlobRef>(rest);
      j["length_bytes"] = blob.length_bytes.get();
      j["blob_blocks"] = Json::array();
      for (u32 i = 0; i < blob.block_count && i < format::kMaxBlobBlocks; ++i) j["blob_blocks"].push_back(blob.blocks[i].get());
      return j;
    }
    case TreeKind::kParents: {
      const auto v = copy_of<format::ParentValue>(value);
      return {{"key", key}, {"parent_inode", v.parent.get()}, {"parent_key", v.key.get()}};
    }
    case TreeKind::kQuarantine: {
      const auto v = copy_of<format::QuarantineValue>(value);
      return {{"block", key}, {"length_blocks", v.length_blocks.get()}, {"since_ns", v.since_ns.get()}, {"reason", reason_name(v.reason)}};
    }
    case TreeKind::kRefcount: {
      const auto v = copy_of<format::RefcountValue>(value);
      return {{"block", key}, {"length_blocks", v.length_blocks.get()}, {"owners", v.owners.get()}};
    }
    case TreeKind::kReverse: {
      const auto v = copy_of<format::ReverseValue>(value);
      return {{"block", key}, {"inode", v.owner.get()}, {"file_block", v.file_block.get()}, {"length_blocks", v.length_blocks.get()}};
    }
    case TreeKind::kBadBlocks: {
      const auto v = copy_of<format::BadBlockValue>(value);
      return {{"block", key},
              {"state", v.state == static_cast<u32>(format::BadBlockState::kRetired) ? "retired" : "in use"},
              {"since_ns", v.since_ns.get()}};
    }
    case TreeKind::kOrphans: return {{"inode", key}, {"since_ns", copy_of<format::OrphanValue>(value).since_ns.get()}};
  }
  return {{"key", key}};
}

namespace {

void add_items(const tree_node::Source& source, BlockNo block, const Expected& expected, Json& out) {
  MetaView keep;
  const auto node = source.get(block, expected, keep);
  if (!node.ok()) {
    out.push_back({{"node_block", block.value}, {"damage", std::string(node.status().message())}});
    return;
  }
  for (u32 i = 0; i < node->count(); ++i) {
    if (node->leaf()) out.push_back(dump_item(source.ref.kind, node->key(i), node->value(i)));
    else add_items(source, node->child(i), Expected::child_of(*node, i, expected), out);
  }
}

}  // namespace

Json DumpImpl::tree(BlockNo root, TreeKind kind, u64 owner) {
  Json out = Json::array();
  if (root.value == 0) return out;
  if (!store_) {
    out.push_back({{"node_block", root.value}, {"damage", std::string(journal_damage_.message())}});
    return out;
  }
  add_items({store_.get(), nullptr, {root, kind, owner}}, root, Expected(), out);
  return out;
}

Result<Json> DumpImpl::extents(InodeNo ino) {
  PINDAX_ASSIGN(const MetaView v, slot(ino));
  const auto& i = v.as<format::Inode>();
  if (!S_ISREG(i.mode)) return Status(Errc::kInvalid, "only files have extents");
  if (i.data_kind == static_cast<u16>(format::DataKind::kTree)) return tree(BlockNo(i.body.root), TreeKind::kExtents, ino.value);
  Json out = Json::array();
  for (u32 k = 0; k < i.extent_count && k < format::kInlineExtentCount; ++k)
    out.push_back(dump_extent(format::unpack_extent(i.body.extents[k])));
  return out;
}

Result<Json> DumpImpl::directory(InodeNo ino) {
  PINDAX_ASSIGN(const MetaView v, slot(ino));
  const auto& i = v.as<format::Inode>();
  if (!S_ISDIR(i.mode)) return Status(Errc::kNotDirectory, "not a directory");
  return tree(BlockNo(i.body.root), TreeKind::kDirectory, ino.value);
}

Result<Json> DumpImpl::xattrs(InodeNo ino) {
  PINDAX_ASSIGN(const MetaView v, slot(ino));
  return tree(BlockNo(v.as<format::Inode>().xattr_root), TreeKind::kXattrs, ino.value);
}

Result<Json> DumpImpl::parents(InodeNo ino) {
  PINDAX_ASSIGN(const MetaView v, slot(ino));
  const auto& i = v.as<format::Inode>();
  Json out = Json::array();
  if (i.parent != 0) out.push_back({{"parent_inode", i.parent.get()}, {"parent_key", i.parent_key.get()}});
  for (auto& more : tree(BlockNo(i.parents_root), TreeKind::kParents, ino.value)) out.push_back(more);
  return out;
}

Json DumpImpl::global_tree(TreeKind kind) {
  const auto v = view(block_offset(BlockNo(geometry_.state_block)), sizeof(format::StateRecord));
  if (!v.ok()) return Json::array();
  const auto& s = v->as<format::StateRecord>();
  const u64 root = kind == TreeKind::kOrphans ? s.orphan_root : kind == TreeKind::kQuarantine ? s.quarantine_root : s.bad_root;
  return tree(BlockNo(root), kind, 0);
}

Json DumpImpl::orphans() { return global_tree(TreeKind::kOrphans); }
Json DumpImpl::quarantine() { return global_tree(TreeKind::kQuarantine); }
Json DumpImpl::bad_blocks() { return global_tree(TreeKind::kBadBlocks); }

Json DumpImpl::shares() {
  Json out = Json::array();
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    const BlockNo self = geometry_.ag_header(ag);
    const auto v = view(block_offset(self), sizeof(format::AgHeader));
    const Status s = v.ok() ? format::check_ag(v->as<format::AgHeader>(), ag, self) : v.status();
    if (!s.ok()) {
      out.push_back({{"group", ag}, {"damage", std::string(s.message())}});
      continue;
    }
    for (auto& item : tree(BlockNo(v->as<format::AgHeader>().refcount_root), TreeKind::kRefcount, ag)) out.push_back(std::move(item));
  }
  return out;
}

// ---- Any block ----------------------------------------------------------------------------------------------------------

Json DumpImpl::node(const std::byte* bytes, BlockNo block) {
  const ConstNode n(bytes);
  const auto& h = n.header();
  const auto kind = static_cast<TreeKind>(h.kind.get());
  Json j{{"block", block.value}, {"kind", "tree node"}, {"tree", kind_name(kind)}, {"owner", h.owner.get()},
         {"level", h.level.get()}, {"items", h.count.get()}};
  const Status checked = format::check_node(bytes, block, kind, h.owner);
  if (!checked.ok()) {
    j["damage"] = std::string(checked.message());
    return j;
  }
  j["content"] = Json::array();
  for (u32 i = 0; i < n.count(); ++i) {
    if (n.leaf()) j["content"].push_back(dump_item(kind, n.key(i), n.value(i)));
    else j["content"].push_back({{"key", n.key(i)}, {"child_block", n.child(i).value}});
  }
  return j;
}

Result<Json> DumpImpl::block(BlockNo block) {
  PINDAX_ASSIGN(const MetaView v, view(block_offset(block), kBlockSize));
  for (const u64 at : format::kSuperblockOffsets)
    if (at == block_offset(block).value) return dump_superblock(v.as<format::Superblock>(), at);
  u32 magic = 0;
  std::memcpy(&magic, v.data(), sizeof magic);
  Json j{{"block", block.value}};
  const u32 ag = geometry_.ag_of(block);
  switch (magic) {
    case format::kStateMagic: return state();
    case format::kAgMagic: return group(ag);
    case format::kNodeMagic: return node(v.data(), block);
    case format::kBitmapMagic: {
      const auto& b = v.as<format::BitmapBlock>();
      u64 set = 0;
      for (const u8 byte : b.bits) set += static_cast<u64>(__builtin_popcount(byte));
      j["kind"] = b.kind == 2 ? "inode bitmap" : "bitmap";
      j["ag"] = b.ag.get();
      j["index"] = b.index.get();
      j["bits_set"] = set;
      if (const Status s = format::check_bitmap(b, ag, b.index, b.kind, block); !s.ok()) j["damage"] = std::string(s.message());
      return j;
    }
    case format::kInodeMagic: {
      j["kind"] = "inodes";
      j["inodes"] = Json::array();
      for (u32 i = 0; i < format::kInodesPerBlock; ++i)
        j["inodes"].push_back(dump_inode(*reinterpret_cast<const format::Inode*>(v.data() + i * format::kInodeSize),
                                         InodeNo(block.value * format::kInodesPerBlock + i)));
      return j;
    }
    case format::kBlobMagic: {
      const auto& h = v.as<format::BlobHeader>();
      j["kind"] = "blob";
      j["owner"] = h.owner.get();
      j["length_bytes"] = h.length_bytes.get();
      if (const Status s = format::check_blob(v.data(), block, h.owner); !s.ok()) j["damage"] = std::string(s.message());
      j["content"] = dump_text(reinterpret_cast<const char*>(v.data()) + sizeof h, std::min<u32>(h.length_bytes, format::kBlobPayload));
      return j;
    }
    default: break;
  }
  j["kind"] = "data";
  j["content"] = Json::array();
  constexpr std::size_t kLine = 32;
  const auto* bytes = reinterpret_cast<const u8*>(v.data());
  for (std::size_t at = 0; at < kBlockSize; at += kLine) {
    bool zero = true;
    for (std::size_t i = 0; i < kLine; ++i) zero = zero && bytes[at + i] == 0;
    if (!zero) j["content"].push_back({{"offset_bytes", at}, {"hex", dump_hex(bytes + at, kLine)}});
  }
  return j;
}

// ---- For people -----------------------------------------------------------------------------------------------------------

namespace {

std::string scalar(const Json& v) {
  if (v.is_string()) return v.get<std::string>();
  return v.dump();
}

bool flat(const Json& v) {
  for (const auto& field : v)
    if (field.is_structured()) return false;
  return true;
}

// Objects of plain fields, one a line, under the union of their keys.
void render_table(const Json& rows, unsigned indent, std::string& out) {
  std::vector<std::string> keys;
  std::vector<std::size_t> widths;
  for (const auto& row : rows)
    for (const auto& [key, value] : row.items()) {
      auto it = std::find(keys.begin(), keys.end(), key);
      if (it == keys.end()) {
        keys.push_back(key);
        widths.push_back(key.size());
        it = keys.end() - 1;
      }
      std::size_t& width = widths[static_cast<std::size_t>(it - keys.begin())];
      width = std::max(width, scalar(value).size());
    }
  const auto line = [&](const std::function<std::string(const std::string&)>& cell) {
    std::string text(indent, ' ');
    for (std::size_t k = 0; k < keys.size(); ++k) text += fmt::format("{:<{}}  ", cell(keys[k]), widths[k]);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  line([](const std::string& key) { return key; });
  for (const auto& row : rows) line([&](const std::string& key) { return row.contains(key) ? scalar(row[key]) : std::string("-"); });
}

void render(const Json& v, unsigned indent, std::string& out) {
  const std::string pad(indent, ' ');
  if (v.is_array()) {
    const bool table = !v.empty() && std::all_of(v.begin(), v.end(), [](const Json& r) { return r.is_object() && r.size() <= 12 && flat(r); });
    if (v.empty()) out += pad + "none\n";
    else if (table) return render_table(v, indent, out);
    for (const auto& item : v) {
      if (item.is_structured()) {
        render(item, indent, out);
        if (&item != &v.back()) out += "\n";
      } else {
        out += pad + scalar(item) + "\n";
      }
    }
    return;
  }
  if (!v.is_object()) {
    out += pad + scalar(v) + "\n";
    return;
  }
  for (const auto& [key, value] : v.items()) {
    if (value.is_structured()) {
      out += pad + key + ":\n";
      render(value, indent + 2, out);
    } else {
      out += fmt::format("{}{}: {}\n", pad, key, scalar(value));
    }
  }
}

}  // namespace

std::string render_dump(const Json& value) {
  std::string out;
  render(value, 0, out);
  return out;
}

}  // namespace pindax
