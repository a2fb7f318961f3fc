// SPDX-License-Identifier: BSD-3-Clause
//
// Rows and parts of rows that several listings of the control protocol show. Free functions without state; any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "server/control.h"

namespace pindax::control {

const char* kind_name(u32 kind);  // of a pin
const char* policy_name(BusyPolicy p);

// Rows of other users are for root and the mount's owner.
inline bool may_see(const Request& r, u32 uid) { return r.sees_all || uid == r.caller.uid; }

// One of the inode's names; empty if it has none.
std::string path_of(ServerContext& context, InodeNo ino);

Json client_row(const ClientIdentity& who);
Json pin_row(const PinRow& pin);
// Who maps what; joined with the sessions, since a row of the layout room knows only their numbers.
class MappingRows {
 public:
  explicit MappingRows(ServerContext& context);
  // f(row of the layout room, its client), for each mapping of the inode whose session lives.
  template <class F>
  void each_of(InodeNo ino, F f) const {
    for (const MappingRow& m : mappings_)
      if (const auto it = who_.find(m.session); m.ino == ino && it != who_.end()) f(m, it->second);
  }

 private:
  std::map<u64, ClientIdentity> who_;
  std::vector<MappingRow> mappings_;
};

}  // namespace pindax::control
