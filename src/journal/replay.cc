// SPDX-License-Identifier: BSD-3-Clause
//
// Making and recovering the journal. Recovery fills the overlay from the ring and then does what a checkpoint does:
//   1. Scan: follow the chain of valid records from the head; note which blocks were revoked, and where.
//   2. Make those records durable: after the death of a daemon they may be no further than the host's page cache, and
//      bytes in place may only be overwritten by durable records (I1).
//   3. Apply every range that no later record revokes, store the blocks in place, make them durable.
//   4. Store the header: a new epoch, head at the end of the chain. A torn record's valid successors are of the old
//      epoch from here on and can never follow a new record.
// A crash anywhere before 4 leaves the same ring, and recovery does the same again. Nothing but the journal is read
// before 3, and there only to fill up blocks of which the record has parts.
#include <sys/random.h>

#include <algorithm>
#include <unordered_map>

#include "base/steps.h"
#include "journal/meta_store_impl.h"

namespace pindax {
namespace {

// Not 0, so that Lsn(0) is before every record.
constexpr Lsn kFirstLsn{4096};

}  // namespace

Status MetaStore::format_journal(Media& media, const format::Geometry& geometry) {
  // An old pool's records may still be in the ring: no epoch of theirs comes again.
  u64 epoch = 0;
  if (::getrandom(&epoch, sizeof epoch, 0) != sizeof epoch)
    return Status(Errc::kIo, "the system gives no random numbers");
  Ring ring(media, geometry);
  PINDAX_TRY(ring.store_header(kFirstLsn, epoch));
  return ring.store_header(kFirstLsn, epoch);
}

class MetaStoreImpl::Replay {
 public:
  Replay(MetaStoreImpl& store, Lsn head, u64 epoch) : store_(store), head_(head), epoch_(epoch), end_(head) {}

  Status scan() {
    return for_each_record([this](const std::vector<std::byte>& record, Lsn begin) {
      end_ = begin + record.size();
      store_.report_.records += 1;
      store_.report_.bytes += record.size();
      return for_each_range(record, store_.geometry_, [&](const RangeView& range) {
        if (range.revoke) revoked_[offset_block(range.at).value] = begin;
        return Status();
      });
    });
  }

  Status apply() {
    return for_each_record([this](const std::vector<std::byte>& record, Lsn begin) {
      return for_each_range(record, store_.geometry_, [&](const RangeView& range) {
        const BlockNo block = offset_block(range.at);
        if (range.revoke) return Status();
        if (auto it = revoked_.find(block.value); it != revoked_.end() && begin < it->second) return Status();
        PINDAX_TRY(store_.overlay_.prepare(block, range.length == kBlockSize));
        store_.overlay_.install(range.at, range.bytes, range.length, changed_lines(range.at, range.length),
                                Overlay::Source::kReplay);
        return Status();
      });
    });
  }

  Lsn end() const { return end_; }

 private:
  // Visits valid records from the head on, until one is not.
  Status for_each_record(const std::function<Status(const std::vector<std::byte>&, Lsn)>& visit) {
    Ring& ring = store_.ring_;
    std::vector<std::byte> record;
    Lsn at = head_;
    for (;;) {
      const u64 left = ring.bytes() - (at - head_);
      format::RecordHeader header;
      if (left < sizeof header) return {};
      PINDAX_TRY(ring.read(at, &header, sizeof header));
      if (!plausible_record(header, at, epoch_, left)) return {};
      record.resize(header.length_bytes);
      PINDAX_TRY(ring.read(at, record.data(), record.size()));
      if (!valid_record(record, epoch_)) return {};
      PINDAX_TRY(visit(record, at));
      at += record.size();
    }
  }

  MetaStoreImpl& store_;
  const Lsn head_;
  const u64 epoch_;
  Lsn end_;
  std::unordered_map<u64, Lsn> revoked_;  // block -> begin of the last record that revokes it
};

Status MetaStoreImpl::recover() {
  PINDAX_ASSIGN(const format::JournalHeader header, ring_.load_header());
  Replay replay(*this, Lsn(header.head), header.epoch);
  PINDAX_TRY(replay.scan());
  const Lsn end = replay.end();
  report_.old_epoch = header.epoch;
  report_.was_clean = report_.records == 0;
  appended_.store(end.value);
  durable_.store(end.value);
  announced_.store(end.value);
  head_.store(header.head);
  epoch_ = header.epoch + 1;
  if (read_only_) return replay.apply();

  PINDAX_STEP("journal.replay_scanned");
  PINDAX_TRY(ring_.flush(Lsn(header.head), end));
  PINDAX_TRY(media_.drain());
  PINDAX_TRY(replay.apply());
  overlay_.freeze();
  Lsn forgotten;
  PINDAX_TRY(overlay_.write_frozen(forgotten));
  PINDAX_STEP("journal.replay_stored");
  PINDAX_TRY(ring_.store_header(end, epoch_));
  PINDAX_STEP("journal.replay_head");
  overlay_.drop_frozen();
  head_.store(end.value);
  return {};
}

}  // namespace pindax
