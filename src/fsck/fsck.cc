// SPDX-License-Identifier: BSD-3-Clause
//
// Superblocks and journal headers, which must be good before anything else can be read, and the rounds of walk and repair.
#include "fsck/fsck.h"

#include <cstddef>
#include <cstring>

#include "fmt/format.h"
#include "fsck/repair.h"
#include "pmem/pool_media.h"

namespace pindax {

using fsck_detail::Checker;
using fsck_detail::Repair;

const char* fsck_severity_name(FsckSeverity s) {
  switch (s) {
    case FsckSeverity::kNote: return "note";
    case FsckSeverity::kWarning: return "warning";
    case FsckSeverity::kError: return "error";
  }
  return "error";
}

namespace {

// Trees come back in the first round, names in the second, counts in the third; damage within damage takes longer.
constexpr unsigned kRoundsMax = 8;

const std::string kTornText = "a crash came while it was written: the other copy is good, and the next mount writes this one anew";

// Whether a copy that fails its check may be a crash in the middle of its writing: what never changes is right, and only what each
// mount, unmount or checkpoint writes is not. A mount heals that.
bool torn_by_crash(const format::Superblock& bad, const format::Superblock& good) {
  format::Superblock expected = bad;
  constexpr std::size_t kFixed = offsetof(format::Superblock, state);
  std::memcpy(reinterpret_cast<std::byte*>(&expected), &good, kFixed);
  expected.self_offset =
      format::kSuperblockOffsets[good.self_offset == format::kSuperblockOffsets[0] ? 1 : 0];
  expected.sequence = bad.sequence;
  std::memcpy(expected.reserved, good.reserved, sizeof expected.reserved);
  return std::memcmp(&expected, &bad, sizeof bad) == 0;
}

bool torn_by_crash(const format::JournalHeader& bad, BlockNo self) {
  format::JournalHeader expected{};
  expected.magic = format::kJournalMagic;
  expected.version = format::kVersion;
  expected.self_block = self.value;
  expected.sequence = bad.sequence;
  expected.head = bad.head;
  expected.epoch = bad.epoch;
  expected.crc = bad.crc;
  return std::memcmp(&expected, &bad, sizeof bad) == 0;
}

class Run {
 public:
  Run(Media& media, const FsckOptions& options) : media_(media), options_(options) {}
  Result<FsckReport> run();

 private:
  void add(FsckFinding f);
  Status superblocks();
  Status store_copy(unsigned i);
  Status journal_headers(bool* usable);
  Status rounds();
  void conclude(const std::vector<FsckFinding>& left);

  Media& media_;
  const FsckOptions& options_;
  format::Superblock sb_{};
  format::Geometry geometry_;
  FsckReport report_;
  std::vector<FsckFinding> findings_;
};

void Run::add(FsckFinding f) {
  if (!options_.repair && options_.found) options_.found(f);
  findings_.push_back(std::move(f));
}

Status Run::store_copy(unsigned i) {
  const PoolOffset at(format::kSuperblockOffsets[i]);
  format::Superblock copy = sb_;
  copy.self_offset = at.value;
  format::seal(copy);
  PINDAX_TRY(media_.write(at, &copy, sizeof copy));
  report_.modified = true;
  return media_.persist(at, sizeof copy);
}

Status Run::superblocks() {
  format::Superblock copy[2];
  Status checked[2];
  for (unsigned i = 0; i < 2; ++i) {
    const u64 at = format::kSuperblockOffsets[i];
    checked[i] = media_.read(PoolOffset(at), &copy[i], sizeof copy[i]);
    if (checked[i].ok()) checked[i] = format::check_superblock(copy[i], at);
    if (checked[i].code() == Errc::kIncompatible) return checked[i];
  }
  if (!checked[0].ok() && !checked[1].ok()) return checked[0].with_context("no superblock that can be used");
  const unsigned best = !checked[0].ok() ? 1 : !checked[1].ok() ? 0 : copy[1].sequence > copy[0].sequence ? 1 : 0;
  sb_ = copy[best];
  geometry_ = format::geometry_of(sb_);
  if (media_.size() < sb_.pool_blocks * kBlockSize)
    return Status(Errc::kCorrupt, fmt::format("the pool has {} bytes, its superblock says {}: restore its end first", media_.size(),
                                              sb_.pool_blocks * kBlockSize));
  const std::string where = fmt::format("copy at byte {}", format::kSuperblockOffsets[1 - best]);
  if (!checked[1 - best].ok()) {
    const bool torn = torn_by_crash(copy[1 - best], sb_);
    add({torn ? FsckSeverity::kNote : FsckSeverity::kError, "superblock", where,
         torn ? kTornText : std::string(checked[1 - best].message()), false});
  } else if (copy[0].sequence != copy[1].sequence) {
    add({FsckSeverity::kNote, "superblock", where, "is older than the other copy", false});
  } else {
    return {};
  }
  return options_.repair ? store_copy(1 - best) : Status();
}

Status Run::journal_headers(bool* usable) {
  format::JournalHeader copy[2];
  Status checked[2];
  for (unsigned i = 0; i < 2; ++i) {
    const BlockNo self(geometry_.journal_block + i);
    PINDAX_TRY(media_.read(block_offset(self), &copy[i], sizeof copy[i]));
    checked[i] = format::check_journal_header(copy[i], self);
  }
  *usable = checked[0].ok() || checked[1].ok();
  if (checked[0].ok() && checked[1].ok()) return {};
  for (unsigned i = 0; i < 2; ++i) {
    const BlockNo self(geometry_.journal_block + i);
    if (checked[i].ok()) continue;
    const bool torn = *usable && torn_by_crash(copy[i], self);
    add({torn ? FsckSeverity::kNote : FsckSeverity::kError, "journal", fmt::format("block {}", self.value),
         torn ? kTornText : std::string(checked[i].message()), false});
    if (!options_.repair || !*usable) continue;
    format::JournalHeader good = copy[1 - i];
    good.self_block = self.value;
    format::seal(good);
    PINDAX_TRY(media_.write(block_offset(self), &good, sizeof good));
    PINDAX_TRY(media_.persist(block_offset(self), sizeof good));
    report_.modified = true;
  }
  if (*usable) return {};
  add({FsckSeverity::kError, "journal", fmt::format("block {}", geometry_.journal_block),
       "no header is left; changes that were not checkpointed yet are lost", false});
  if (!options_.repair) return {};
  PINDAX_TRY(MetaStore::format_journal(media_, geometry_));
  report_.modified = true;
  *usable = true;
  return {};
}

Status Run::rounds() {
  PINDAX_ASSIGN(auto store, MetaStore::open(media_, geometry_, SyncMode::kPosix, !options_.repair));
  report_.journal_records = store->replay_report().records;
  if (store->replay_report().records != 0) {
    if (options_.repair) report_.modified = true;
    add({FsckSeverity::kNote, "journal", fmt::format("block {}", geometry_.journal_block),
         fmt::format("{} records were replayed", store->replay_report().records), false});
  }
  std::vector<FsckFinding> left;
  Status hindered;
  for (unsigned round = 0; round < kRoundsMax; ++round) {
    Checker checker(*store, sb_, options_.repair, report_, options_.progress);
    PINDAX_TRY(checker.walk());
    left = checker.findings();
    if (round == 0)
      for (const FsckFinding& f : left) add(f);
    bool damage = false;
    for (const FsckFinding& f : left) damage = damage || f.severity != FsckSeverity::kNote;
    if (!damage || !options_.repair || round + 1 == kRoundsMax) break;
    report_.modified = true;
    hindered = Repair(checker).run();
    PINDAX_TRY(store->health());
  }
  if (options_.repair) {
    PINDAX_TRY(store->checkpoint());
    conclude(left);
    if (report_.unrepaired != 0 && !hindered.ok())
      findings_.push_back({FsckSeverity::kNote, "repair", "pool", std::string(hindered.message()), false});
  }
  return {};
}

// What the last walk still found is unrepaired; everything else that was found is repaired.
void Run::conclude(const std::vector<FsckFinding>& left) {
  for (FsckFinding& f : findings_) {
    f.repaired = f.severity != FsckSeverity::kNote;
    for (const FsckFinding& l : left)
      if (l.severity != FsckSeverity::kNote && l.structure == f.structure && l.where == f.where) f.repaired = false;
  }
  for (const FsckFinding& l : left) {
    bool known = l.severity == FsckSeverity::kNote;
    for (const FsckFinding& f : findings_) known = known || (l.structure == f.structure && l.where == f.where);
    if (!known) findings_.push_back(l);
  }
  for (const FsckFinding& f : findings_)
    if (f.severity != FsckSeverity::kNote && !f.repaired) ++report_.unrepaired;
}

Result<FsckReport> Run::run() {
  PINDAX_TRY(superblocks());
  if (auto* pool = dynamic_cast<PoolMedia*>(&media_)) pool->set_segment_size(geometry_.ag_blocks * kBlockSize);
  if (sb_.state != static_cast<u32>(format::PoolState::kClean))
    add({FsckSeverity::kNote, "superblock", "both copies", "the pool was not unmounted; the journal is replayed", false});
  bool usable = false;
  PINDAX_TRY(journal_headers(&usable));
  if (usable) PINDAX_TRY(rounds());
  for (const FsckFinding& f : findings_) {
    if (f.severity == FsckSeverity::kNote) continue;
    ++report_.findings_total;
    if (!options_.repair) ++report_.unrepaired;
  }
  if (options_.repair && options_.found)
    for (const FsckFinding& f : findings_) options_.found(f);
  if (findings_.size() > options_.findings_max) findings_.resize(options_.findings_max);
  report_.findings = std::move(findings_);
  return std::move(report_);
}

}  // namespace

Result<FsckReport> fsck(Media& media, const FsckOptions& options) { return Run(media, options).run(); }

}  // namespace pindax
