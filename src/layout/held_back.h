// SPDX-License-Identifier: BSD-3-Clause
//
// What a change left behind: a pin that outlives it (policy quarantine, C6), or a translation whose recall nobody
// acknowledged (F4). The blocks behind are in quarantine; here is who still holds them, and when they may go back.
//
//   pins       until each of the publications ended, or the client's pins ended (D1)
//   recall     then the translations that the pin had protected are recalled, too
//   released   acknowledged, unmapped, or the client's memory is gone; every run that nobody else holds back is
//              given to QuarantineOwner::release on the executor
//
// A client that is gone but whose memory is not (D1) holds everything back until client_memory_gone. A crash forgets
// all this: recovery decides by the witness bytes (D2).
#pragma once

#include <memory>
#include <vector>

#include "layout/inode_layout.h"

namespace pindax {

// The runs that one change quarantined, and which of its leftovers hold each.
class HeldSet : public std::enable_shared_from_this<HeldSet> {
 public:
  explicit HeldSet(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  u32 add(ByteRange range) EXCLUDES(mutex_);  // a leftover; returns its number
  void quarantined(ByteRange file_range, u64 block, u64 length_blocks) EXCLUDES(mutex_);  // inside apply() only
  void released(u32 number) EXCLUDES(mutex_);
  // The change is over: runs that nothing holds back go at once.
  void activate() EXCLUDES(mutex_);

 private:
  struct Leftover {
    ByteRange range;
    bool released = false;
  };
  struct Run {
    ByteRange file_range;
    u64 block = 0, length_blocks = 0;
  };
  std::vector<Run> take_free_runs() REQUIRES(mutex_);
  void give_back(const std::vector<Run>& runs) EXCLUDES(mutex_);

  const std::shared_ptr<Core> core_;
  Mutex mutex_{LockRank::kLeaf};  // quarantined() is called inside a transaction
  std::vector<Leftover> leftovers_ GUARDED_BY(mutex_);
  std::vector<Run> runs_ GUARDED_BY(mutex_);
  bool active_ GUARDED_BY(mutex_) = false;
};

class HeldBack final : public Wakeable, public std::enable_shared_from_this<HeldBack> {
 public:
  struct Spec {
    std::shared_ptr<Mapping> mapping;
    ByteRange range;  // bytes of the file
    std::optional<SeenPin> pin;
    u64 message_pin = 0;  // 0: none
  };
  HeldBack(Spec spec, std::shared_ptr<HeldSet> set, u32 number)
      : spec_(std::move(spec)), set_(std::move(set)), number_(number) {}

  void start();
  void wake() override;  // check() on the executor
  // Takes the inode's mutex; idempotent.
  void check();

 private:
  bool pin_lasts();
  void rearm();

  const Spec spec_;
  const std::shared_ptr<HeldSet> set_;
  const u32 number_;
  // Guarded by the inode's mutex.
  bool recalled_ = false;
  bool released_ = false;
};

}  // namespace pindax
