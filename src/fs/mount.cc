// SPDX-License-Identifier: BSD-3-Clause
//
// Mount, recovery and unmount.
//
// Mount: the superblock (the better copy) -> the journal's replay -> which provisional extents survived -> the superblock
// says "mounted" with a new epoch -> unfinished freeing -> orphans. Only superblock and journal are read before replay ends.
//
// Epochs. Every mount has one; it stamps the provisional extents that it makes. Those of epochs up to confirmed_epoch hold
// what was written, but for the ranges in the table of lost epochs, which read as zeros. After a mount that was not ended:
// the same boot id means that no store was lost (the pool is synced once); another one that epochs after
// confirmed_epoch are lost.
// A crash at any point leaves the old superblock, from which the same is concluded again.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "base/steps.h"
#include "base/unique_fd.h"
#include "fs/file_system_impl.h"
#include "pmem/pool_media.h"

namespace pindax {
namespace {

constexpr u32 kBootIdBytes = 16;

// "0b6f6c1e-….": 32 hexadecimal digits. Zeros if the host does not tell, which equals nothing.
std::string read_boot_id() {
  std::string id;
  UniqueFd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[64];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text) : 0;
  int high = -1;
  for (ssize_t i = 0; i < n && id.size() < kBootIdBytes; ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high < 0) {
      high = digit;
    } else {
      id.push_back(static_cast<char>(high * 16 + digit));
      high = -1;
    }
  }
  id.resize(kBootIdBytes, '\0');
  return id;
}

bool same_boot(const format::Superblock& sb, const std::string& id) {
  return id != std::string(kBootIdBytes, '\0') && std::memcmp(sb.boot_id, id.data(), kBootIdBytes) == 0;
}

}  // namespace

Result<std::unique_ptr<FileSystem>> FileSystem::mount(Media& media, Executor& executor, const MountOptions& options) {
  auto fs = std::make_unique<FileSystemImpl>(media, executor, options);
  PINDAX_TRY(fs->start());
  return std::unique_ptr<FileSystem>(std::move(fs));
}

Status FileSystemImpl::start() {
  if (options_.boot_id.empty()) options_.boot_id = read_boot_id();
  options_.boot_id.resize(kBootIdBytes, '\0');
  PINDAX_TRY(load_superblock());
  const format::Geometry geometry = format::geometry_of(superblock_);
  if (auto* pool = dynamic_cast<PoolMedia*>(&media_)) pool->set_segment_size(geometry.ag_blocks * kBlockSize);
  // The journal of a sparse pool may have holes, if the pool was copied.
  if (!options_.read_only) PINDAX_TRY(media_.reserve(PoolOffset(0), geometry.first_data(0).value << kBlockShift, 0));
  layout_ = Layout::create(executor_, options_.layout);
  layout_->set_quarantine_owner(this);
  PINDAX_ASSIGN(store_, MetaStore::open(media_, geometry, options_.sync, options_.read_only));
  PINDAX_STEP("mount.replayed");
  PINDAX_ASSIGN(allocator_, Allocator::open(*store_));
  allocator_->set_bad_listener([this] {
    MutexLock lock(timer_mutex_);
    bad_news_ = true;
    timer_wake_.notify_all();
  });
  media_.set_poison_listener([this](BlockNo block) { allocator_->note_bad(block); });
  (void)read_bad_list();  // without a list, whoever meets them finds them
  PINDAX_TRY(settle_epochs());
  PINDAX_STEP("mount.epochs_settled");
  if (!options_.read_only) PINDAX_TRY(store_superblock());
  PINDAX_TRY(load_orphan_root());
  if (options_.read_only) return {};

  PINDAX_TRY(find_former_clients());
  PINDAX_TRY(recover_shifts());
  PINDAX_TRY(recover_orphans());
  (void)write_bad_list();  // nobody has anything yet, and nobody is harmed if it must wait
  if (options_.background) start_commit_timer();
  return {};
}

// ---- Superblock -----------------------------------------------------------------------------------------------------

Status FileSystemImpl::load_superblock() {
  format::Superblock copy[2];
  Status checked[2];
  for (unsigned i = 0; i < 2; ++i) {
    const u64 at = format::kSuperblockOffsets[i];
    checked[i] = media_.read(PoolOffset(at), &copy[i], sizeof copy[i]);
    if (checked[i].ok()) checked[i] = format::check_superblock(copy[i], at);
  }
  if (!checked[0].ok() && !checked[1].ok()) {
    const bool incompatible = checked[1].code() == Errc::kIncompatible;
    return checked[incompatible ? 1 : 0].with_context("no superblock of Pindax that can be used");
  }
  const unsigned best = !checked[0].ok()   ? 1
                        : !checked[1].ok() ? 0
                                           : (copy[1].sequence > copy[0].sequence ? 1 : 0);
  superblock_ = copy[best];
  next_copy_ = 1 - best;
  const u64 bytes = superblock_.pool_blocks * kBlockSize;
  if (media_.size() < bytes) {
    return Status(Errc::kCorrupt, "the pool has " + std::to_string(media_.size()) + " bytes, its superblock says " +
                                      std::to_string(bytes) + ": restore the missing end or run pindax fsck");
  }
  if ((superblock_.features_ro_compat & ~format::kKnownRoCompat) != 0 && !options_.read_only) {
    return Status(Errc::kIncompatible, "the pool uses features that this version can only read: mount it read-only");
  }
  return {};
}

// The older copy first; each is durable before the other is touched.
Status FileSystemImpl::store_superblock() {
  superblock_.sequence += 1;
  for (const unsigned i : {next_copy_, 1 - next_copy_}) {
    const PoolOffset at(format::kSuperblockOffsets[i]);
    superblock_.self_offset = at.value;
    format::seal(superblock_);
    PINDAX_TRY(media_.write(at, &superblock_, sizeof superblock_));
    PINDAX_TRY(media_.persist(at, sizeof superblock_));
    PINDAX_STEP("mount.superblock_copy");
  }
  return {};
}

Status FileSystemImpl::use_feature(u64 ro_compat) {
  MutexLock lock(superblock_mutex_);
  const u64 before = superblock_.features_ro_compat;
  if ((before & ro_compat) == ro_compat) return {};
  superblock_.features_ro_compat = before | ro_compat;
  const Status stored = store_superblock();
  if (!stored.ok()) superblock_.features_ro_compat = before;
  return stored;
}

// ---- Epochs -----------------------------------------------------------------------------------------------------------

bool FileSystemImpl::epoch_lost(u32 epoch) const {
  for (const auto& [first, last] : lost_epochs_) {
    if (first <= epoch && epoch <= last) return true;
  }
  return false;
}

// Concludes what the last mount left, and prepares the superblock of this one.
Status FileSystemImpl::settle_epochs() {
  format::Superblock& sb = superblock_;
  const u32 known = std::min<u32>(sb.lost_count, format::kMaxLostEpochs);
  for (u32 i = 0; i < known; ++i) lost_epochs_.emplace_back(sb.lost[i].first, sb.lost[i].last);
  const u32 last = sb.mount_epoch;
  if (sb.state != static_cast<u32>(format::PoolState::kClean) && sb.confirmed_epoch < last) {
    if (same_boot(sb, options_.boot_id)) {
      if (!options_.read_only) PINDAX_TRY(media_.sync_all());
    } else if (!lost_epochs_.empty() && lost_epochs_.back().second == sb.confirmed_epoch) {
      lost_epochs_.back().second = last;
    } else {
      lost_epochs_.emplace_back(sb.confirmed_epoch + 1, last);
    }
  }
  if (options_.read_only) return {};
  if (lost_epochs_.size() > format::kMaxLostEpochs) {
    PINDAX_TRY(settle_all_files());
    lost_epochs_.clear();
  }
  sb.confirmed_epoch = last;
  sb.lost_count = static_cast<u32>(lost_epochs_.size());
  for (u32 i = 0; i < format::kMaxLostEpochs; ++i) {
    sb.lost[i] = {};
    if (i < lost_epochs_.size()) sb.lost[i] = {lost_epochs_[i].first, lost_epochs_[i].second};
  }
  sb.mount_epoch = last + 1;
  sb.mount_count += 1;
  sb.state = static_cast<u32>(format::PoolState::kMounted);
  std::memcpy(sb.boot_id, options_.boot_id.data(), kBootIdBytes);
  const FileTime t = now();
  sb.mounted_ns = static_cast<u64>(t.seconds) * 1'000'000'000 + t.nanoseconds;
  return {};
}

// The table of lost epochs is full: every provisional extent becomes what it is, so that the table may be emptied.
Status FileSystemImpl::settle_all_files() {
  const format::Geometry& g = store_->geometry();
  for (u32 ag = 0; ag < g.ag_count; ++ag) {
    for (u32 index = 0; index < g.bitmap_blocks(ag); ++index) {
      const BlockNo at = g.inode_bitmap(ag, index);
      PINDAX_ASSIGN(const MetaView view, store_->view(block_offset(at), kBlockSize));
      const auto bitmap = view.as<format::BitmapBlock>();  // a copy: files are changed meanwhile
      PINDAX_TRY(format::check_bitmap(bitmap, ag, index, 2, at));
      for (u64 bit = 0; bit < format::kBitmapBits; ++bit) {
        if ((bitmap.bits[bit / 8] >> (bit % 8) & 1) == 0) continue;
        const u64 block = g.ag_start(ag) + u64{index} * format::kBitmapBits + bit;
        for (u64 slot = 0; slot < format::kInodesPerBlock; ++slot) {
          PINDAX_TRY(settle_file(InodeNo(block * format::kInodesPerBlock + slot)));
        }
      }
    }
  }
  return {};
}

Status FileSystemImpl::settle_file(InodeNo ino) {
  auto inode = get(ino, 0);
  if (inode.code() == Errc::kStale) return {};  // a free slot
  PINDAX_TRY(inode);
  for (u64 from = 0;;) {
    WriteLock lock((*inode)->mutex);
    PINDAX_ASSIGN(const SlotView slot, read_slot(**inode));
    if (!is_regular(*slot)) return {};
    Transaction tx(*store_);
    PINDAX_ASSIGN(const bool more, settle_provisional_step(tx, **inode, &from));
    if (!tx.empty()) PINDAX_TRY(tx.commit());
    if (!more) return {};
  }
}

// ---- Unmount ----------------------------------------------------------------------------------------------------------

Status FileSystemImpl::shut_down() {
  const Status synced = options_.read_only ? Status() : sync_all();
  shut_down_ = true;
  media_.give_up();
  return synced;
}

Status FileSystemImpl::unmount() {
  if (unmounted_) return {};
  stop_timer();
  end_tasks(Phase::kDraining);
  if (options_.read_only || shut_down_) {
    unmounted_ = true;
    return {};
  }
  (void)tend_bad_blocks();  // what cannot be written down is met again
  Status synced = sync_all();  // data, provisional extents, lazy times, journal
  unmounted_ = true;
  PINDAX_TRY(synced);
  PINDAX_TRY(store_->checkpoint());
  PINDAX_STEP("unmount.checkpointed");
  PINDAX_TRY(media_.sync_all());
  superblock_.confirmed_epoch = superblock_.mount_epoch;
  superblock_.state = static_cast<u32>(format::PoolState::kClean);
  return store_superblock();
}

}  // namespace pindax
