// SPDX-License-Identifier: BSD-3-Clause
//
// Bugs to be planted between the file system and the media, and the proof that the explorer sees them.
#pragma once

#include <string>
#include <vector>

#include "explorer.h"

namespace pindax::crash {

struct NamedPlant {
  const char* name;
  const char* what;
  Plant plant;  // null: the bug is in code, see mutate.py
  std::vector<const char*> settings;  // where it is a bug
  std::vector<unsigned> lengths;
  // Workloads that may show it begin and end with one of these; empty: any.
  std::vector<OpKind> first = {}, last = {};
  u64 recovery_every = Limits().recovery_every;
};

const std::vector<NamedPlant>& plants();
const std::vector<NamedPlant>& code_plants();
const NamedPlant* find_plant(const std::string& name);
// Wakes a bug in code; empty: none.
void wake_planted(const std::string& name);

}  // namespace pindax::crash
