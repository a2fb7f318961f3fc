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
  Plant plant;
  std::vector<const char*> settings;  // where it is a bug
  std::vector<unsigned> lengths;
};

const std::vector<NamedPlant>& plants();
const NamedPlant* find_plant(const std::string& name);

}  // namespace pindax::crash
