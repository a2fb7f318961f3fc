// SPDX-License-Identifier: BSD-3-Clause
//
// What each operation means, in the model.
#include <sys/stat.h>

#include <algorithm>

#include "operations.h"

namespace pindax::crash {

namespace {

class Step {
 public:
  Step(Moment& moment, const Operation& op, u64 index) : m_(moment.model), op_(op), index_(index) {}

  bool run() {
    switch (op_.kind) {
      case OpKind::kCreate: return m_.add(op_.path, S_IFREG | 0644) != 0;
      case OpKind::kMkdir: return m_.add(op_.path, S_IFDIR | 0755) != 0;
      case OpKind::kFifo: return m_.add(op_.path, S_IFIFO | 0640) != 0;
      case OpKind::kDevice: return device();
      case OpKind::kSymlink: return symlink();
      case OpKind::kTemporary: return temporary();
      case OpKind::kLink: return link();
      case OpKind::kUnlink:
      case OpKind::kUnlinkOpen: return remove(false);
      case OpKind::kRmdir: return remove(true);
      case OpKind::kRename:
      case OpKind::kWhiteout: return rename();
      case OpKind::kExchange: return exchange();
      case OpKind::kWrite:
      case OpKind::kRepair:
      case OpKind::kWriteSync: return write(op_.offset);
      case OpKind::kAppend: return write(kMaxOffset);
      case OpKind::kTruncate: return resize(op_.length);
      case OpKind::kAllocate: return allocate();
      case OpKind::kAllocateKeep: return touch_file() != nullptr;
      case OpKind::kPunch: return zero(true);
      case OpKind::kZeroKeep: return zero(true);
      case OpKind::kCollapse: return shift(true);
      case OpKind::kInsert: return shift(false);
      case OpKind::kUnshare: return allocate();
      case OpKind::kZero: return zero(false);
      case OpKind::kDirect:
      case OpKind::kDirectPersist: return direct();
      case OpKind::kClone: return clone();
      case OpKind::kSetXattr:
      case OpKind::kRemoveXattr:
      case OpKind::kChmod:
      case OpKind::kChown:
      case OpKind::kUtimes:
      case OpKind::kSetFlags: return attribute();
      case OpKind::kFsync: return m_.find(op_.path) != 0;
      case OpKind::kSyncAll:
      case OpKind::kCheckpoint:
      case OpKind::kRemount:
      case OpKind::kKill:
      case OpKind::kKillMapped: return true;
    }
    return false;
  }

 private:
  ModelInode* touch_file() {
    const u32 id = m_.find(op_.path);
    if (id == 0 || !m_.inodes.at(id).is_regular()) return nullptr;
    ModelInode& inode = m_.inodes.at(id);
    inode.mtime.reset();
    id_ = id;
    return &inode;
  }
  void fill(ModelInode& inode, u64 begin, u64 end) {
    for (u64 i = begin; i < end; ++i) inode.data[i] = static_cast<char>(data_byte(id_, index_, i));
  }
  bool device() {
    const u32 id = m_.add(op_.path, S_IFCHR | 0640);
    if (id != 0) m_.inodes.at(id).rdev = 0x103;
    return id != 0;
  }
  bool symlink() {
    const u32 id = m_.add(op_.path, S_IFLNK | 0777);
    if (id != 0) m_.inodes.at(id).data.assign(op_.length, 't');
    return id != 0;
  }
  bool temporary() {
    id_ = m_.add(op_.path, S_IFREG | 0644);
    if (id_ == 0) return false;
    m_.inodes.at(id_).data.resize(6000);
    fill(m_.inodes.at(id_), 0, 6000);
    return true;
  }
  bool link() {
    std::string name;
    const u32 id = m_.find(op_.path), dir = m_.parent_of(op_.other, &name);
    if (id == 0 || dir == 0 || m_.inodes.at(id).is_directory() || m_.inodes.at(dir).entries.contains(name)) return false;
    m_.inodes.at(dir).entries.emplace(name, id);
    m_.inodes.at(dir).mtime.reset();
    m_.inodes.at(id).links += 1;
    return true;
  }
  void take_name(u32 dir, const std::string& name) {
    ModelInode& parent = m_.inodes.at(dir);
    const u32 id = parent.entries.at(name);
    if (m_.inodes.at(id).is_directory()) parent.links -= 1;
    parent.entries.erase(name);
    parent.mtime.reset();
  }
  void put_name(u32 dir, const std::string& name, u32 id) {
    ModelInode& parent = m_.inodes.at(dir);
    if (m_.inodes.at(id).is_directory()) parent.links += 1;
    parent.entries.emplace(name, id);
    parent.mtime.reset();
  }
  bool remove(bool directory) {
    std::string name;
    const u32 id = m_.find(op_.path), dir = m_.parent_of(op_.path, &name);
    if (id == 0 || m_.inodes.at(id).is_directory() != directory || !m_.inodes.at(id).entries.empty()) return false;
    take_name(dir, name);
    m_.drop(id);
    return true;
  }
  bool rename() {
    std::string from_name, to_name;
    const u32 from = m_.parent_of(op_.path, &from_name), to = m_.parent_of(op_.other, &to_name);
    const u32 id = m_.find(op_.path), victim = m_.find(op_.other);
    if (id == 0 || to == 0) return false;
    const bool directory = m_.inodes.at(id).is_directory();
    if (directory && m_.inside(to, id)) return false;
    if (victim == id) return true;
    if (victim != 0) {
      const ModelInode& v = m_.inodes.at(victim);
      if (v.is_directory() != directory || !v.entries.empty()) return false;
      take_name(to, to_name);
      m_.drop(victim);
    }
    take_name(from, from_name);
    put_name(to, to_name, id);
    if (op_.kind == OpKind::kWhiteout) m_.add(op_.path, S_IFCHR);
    return true;
  }
  bool exchange() {
    std::string from_name, to_name;
    const u32 from = m_.parent_of(op_.path, &from_name), to = m_.parent_of(op_.other, &to_name);
    const u32 a = m_.find(op_.path), b = m_.find(op_.other);
    if (a == 0 || b == 0) return false;
    if ((m_.inodes.at(a).is_directory() && m_.inside(to, a)) || (m_.inodes.at(b).is_directory() && m_.inside(from, b))) return false;
    if (a == b) return true;
    take_name(from, from_name);
    take_name(to, to_name);
    put_name(from, from_name, b);
    put_name(to, to_name, a);
    return true;
  }
  bool write(u64 offset) {
    ModelInode* inode = touch_file();
    if (inode == nullptr) return false;
    if (offset == kMaxOffset) offset = inode->data.size();
    if (inode->data.size() < offset + op_.length) inode->data.resize(offset + op_.length);
    fill(*inode, offset, offset + op_.length);
    return true;
  }
  bool resize(u64 size) {
    ModelInode* inode = touch_file();
    if (inode == nullptr) return false;
    inode->data.resize(size);
    return true;
  }
  bool allocate() {
    ModelInode* inode = touch_file();
    if (inode == nullptr) return false;
    inode->data.resize(std::max<u64>(inode->data.size(), op_.offset + op_.length));
    return true;
  }
  bool zero(bool keep) {
    ModelInode* inode = touch_file();
    if (inode == nullptr) return false;
    if (!keep && inode->data.size() < op_.offset + op_.length) inode->data.resize(op_.offset + op_.length);
    for (u64 i = op_.offset; i < std::min<u64>(inode->data.size(), op_.offset + op_.length); ++i) inode->data[i] = 0;
    return true;
  }
  bool shift(bool collapse) {
    ModelInode* inode = touch_file();
    if (inode == nullptr) return false;
    if (collapse ? op_.offset + op_.length >= inode->data.size() : op_.offset >= inode->data.size()) return false;
    if (collapse) inode->data.erase(op_.offset, op_.length);
    else inode->data.insert(op_.offset, op_.length, '\0');
    inode->shifts.push_back({index_, collapse, op_.offset, op_.length});
    return true;
  }
  bool direct() {
    ModelInode* inode = touch_file();
    if (inode == nullptr || inode->data.size() <= op_.offset) return false;
    fill(*inode, op_.offset, std::min<u64>(inode->data.size(), op_.offset + op_.length));
    return true;
  }
  // As FICLONERANGE, both offsets the same.
  bool clone() {
    ModelInode* to = touch_file();
    const u32 source = m_.find(op_.other);
    if (to == nullptr || source == 0 || source == id_ || !m_.inodes.at(source).is_regular()) return false;
    const std::string& from = m_.inodes.at(source).data;
    if (op_.offset > from.size() || (op_.offset == from.size() && op_.length != 0)) return false;
    const u64 length = op_.length == 0 ? from.size() - op_.offset : op_.length, end = op_.offset + length;
    if (end > from.size()) return false;
    if (length % kBlockSize != 0 && (end != from.size() || end < to->data.size())) return false;
    if (to->data.size() < end) to->data.resize(end);
    to->data.replace(op_.offset, length, from, op_.offset, length);
    return true;
  }
  bool attribute() {
    const u32 id = m_.find(op_.path);
    if (id == 0) return false;
    ModelInode& inode = m_.inodes.at(id);
    switch (op_.kind) {
      case OpKind::kSetXattr: inode.xattrs[op_.other] = std::string(op_.length, static_cast<char>('a' + index_)); return true;
      case OpKind::kRemoveXattr: return inode.xattrs.erase(op_.other) == 1;
      case OpKind::kChmod: inode.mode = (inode.mode & ~07777u) | static_cast<u32>(op_.length); return true;
      case OpKind::kChown: inode.uid = inode.gid = static_cast<u32>(op_.length); return true;
      case OpKind::kUtimes: inode.mtime = static_cast<i64>(op_.length); return true;
      default: inode.flags = static_cast<u32>(op_.length); return true;
    }
  }

  Model& m_;
  const Operation& op_;
  const u64 index_;
  u32 id_ = 0;
};

void all_durable(Moment& moment, u64 now) {
  moment.names_durable = now;
  moment.data_durable.clear();
  for (const auto& [id, inode] : moment.model.inodes) moment.data_durable[id] = now;
}

}  // namespace

bool model_operation(History& history, const Operation& op, u64 index, const Setting& setting) {
  Moment moment = history.back();
  const Model before = moment.model;
  if (!Step(moment, op, index).run()) {
    moment.model = before;
    history.push_back(moment);
    return false;
  }
  const u64 now = history.size();
  const u32 id = moment.model.find(op.path);
  if (op.kind == OpKind::kClone) {
    const u32 source = moment.model.find(op.other);
    ModelInode& inode = moment.model.inodes.at(id);
    inode.shares_of[source] = now;
    for (const auto& [older, when] : moment.model.inodes.at(source).shares_of) inode.shares_of[older] = now;
  }
  if (op.kind == OpKind::kRepair) moment.model.inodes.at(id).repaired = now;
  const bool syncs_inode = op.kind == OpKind::kFsync || op.kind == OpKind::kWriteSync || op.kind == OpKind::kDirectPersist;
  if (setting.strict_names() || op.kind == OpKind::kCheckpoint || syncs_inode) moment.names_durable = now;
  if (setting.strict_data() && setting.strict_names()) {
    // Stores of direct mappers last once they were persisted; so do those that a clone has from its source.
    const auto source = op.kind == OpKind::kClone ? moment.data_durable.find(moment.model.find(op.other)) : moment.data_durable.end();
    const bool lasts = op.kind != OpKind::kClone || (source != moment.data_durable.end() && source->second + 1 >= now);
    for (const auto& [other, inode] : moment.model.inodes)
      if (moment.data_durable.count(other) == 0 || moment.data_durable[other] + 1 == now)
        if ((op.kind != OpKind::kDirect && lasts) || other != id) moment.data_durable[other] = now;
  }
  // Where stores in place last by themselves, only fsync sees to those of direct mappers elsewhere in the file.
  const bool all_of_it = op.kind == OpKind::kFsync || !setting.strict_data() || !setting.strict_names();
  if (syncs_inode && all_of_it) moment.data_durable[id] = now;
  if (op.kind == OpKind::kSyncAll || op.kind == OpKind::kRemount || op.kind == OpKind::kKill ||
      op.kind == OpKind::kKillMapped)
    all_durable(moment, now);
  history.push_back(std::move(moment));
  return true;
}

}  // namespace pindax::crash
