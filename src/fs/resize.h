// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "pmem/media.h"

namespace pindax {

struct ResizeReport {
  u64 old_bytes = 0, new_bytes = 0;  // that the file system uses
};
// Makes the file system of a pool that nobody has mounted as large as its media, which has grown (a file got longer, a device
// was exchanged). Finishes a growth that was cut short. kBusy unless the pool was unmounted; kInvalid if the media is smaller.
Result<ResizeReport> grow_file_system(Media& media);

}  // namespace pindax
