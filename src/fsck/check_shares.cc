// SPDX-License-Identifier: BSD-3-Clause
//
// Share counts against the extents that the walk found: a block with two owners or more stands in its group's
// tree, with that number; no other block does. Which extents may share is check_extent's: only those that are
// flagged.
#include <algorithm>
#include <cstring>

#include "fmt/format.h"
#include "fsck/checker.h"

namespace pindax::fsck_detail {

using enum FsckSeverity;

namespace {

void append(std::vector<ShareRun>& list, const ShareRun& run) {
  if (run.begin >= run.end) return;
  if (!list.empty() && list.back().end == run.begin && list.back().owners == run.owners)
    list.back().end = run.end;
  else
    list.push_back(run);
}

}  // namespace

// The records of a group's tree, as they are read.
void Checker::note_share_record(u32 ag, u64 key, TreeBytes value) {
  format::RefcountValue v{};
  if (format::check_value(TreeKind::kRefcount, value).ok()) std::memcpy(&v, value.data(), sizeof v);
  auto& list = share_records_[ag];
  const bool good = v.length_blocks != 0 && v.owners >= 2 &&
                    geometry_.is_data(BlockNo(key), v.length_blocks) && geometry_.ag_of(BlockNo(key)) == ag &&
                    (list.empty() || list.back().end <= key);
  if (good) return append(list, {key, key + v.length_blocks, v.owners});
  find(kError, "share counts", fmt::format("block {}", key), "record makes no sense");
  plan_.shares.insert(ag);
}

// What the trees should say.
void Checker::count_shares() {
  std::sort(shared_extents_.begin(), shared_extents_.end());
  std::vector<u64> ends;  // of extents that are open at the place of the sweep, the least last
  u64 at = 0;
  const auto close_until = [&](u64 place) {
    while (!ends.empty()) {
      const u64 stop = std::min(ends.back(), place);
      if (ends.size() >= 2) append(shares_, {at, stop, ends.size()});
      at = std::max(at, stop);
      if (ends.back() > place) break;
      ends.pop_back();
    }
    at = place;
  };
  for (const auto& [begin, end] : shared_extents_) {
    close_until(begin);
    ends.insert(std::upper_bound(ends.begin(), ends.end(), end, std::greater<>()), end);
  }
  close_until(~u64{0});
  shared_extents_.clear();
  // No record crosses a group.
  std::vector<ShareRun> cut;
  for (const ShareRun& s : shares_)
    for (u64 b = s.begin; b < s.end;) {
      const u32 ag = geometry_.ag_of(BlockNo(b));
      const u64 stop = std::min(s.end, geometry_.ag_start(ag) + geometry_.ag_length(ag));
      cut.push_back({b, stop, s.owners});
      b = stop;
    }
  shares_ = std::move(cut);
}

std::vector<ShareRun> Checker::expected_shares(u32 ag) const {
  std::vector<ShareRun> out;
  for (const ShareRun& s : shares_)
    if (geometry_.ag_of(BlockNo(s.begin)) == ag) out.push_back(s);
  return out;
}

void Checker::check_shares() {
  count_shares();
  for (u32 ag = 0; ag < geometry_.ag_count; ++ag) {
    progress("share counts", ag, geometry_.ag_count);
    const std::vector<ShareRun> want = expected_shares(ag);
    const std::vector<ShareRun>& has = share_records_[ag];
    if (want == has) continue;
    u64 wrong = 0, first = 0, says = 0, is = 0;
    bool too_low = false;
    auto w = want.begin();
    auto h = has.begin();
    const u64 end = geometry_.ag_start(ag) + geometry_.ag_length(ag);
    for (u64 at = geometry_.ag_start(ag); at < end;) {
      while (w != want.end() && w->end <= at) ++w;
      while (h != has.end() && h->end <= at) ++h;
      u64 stop = end;
      const auto value = [&](auto it, auto last) -> u64 {
        if (it == last) return 1;
        stop = std::min(stop, it->begin <= at ? it->end : it->begin);
        return it->begin <= at ? it->owners : 1;
      };
      const u64 real = value(w, want.end()), record = value(h, has.end());
      if (real != record) {
        if (wrong == 0) first = at, says = record, is = real;
        wrong += stop - at;
        too_low = too_low || record < real;
      }
      at = stop;
    }
    find(too_low ? kError : kWarning, "share counts", fmt::format("allocation group {}", ag),
         fmt::format(
             "{} blocks have a wrong number of owners (first: {} says {}, has {}); they are counted anew",
             wrong, first, says, is));
    plan_.shares.insert(ag);
  }
}

}  // namespace pindax::fsck_detail
