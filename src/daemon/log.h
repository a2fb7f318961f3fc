// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "daemon/options.h"

namespace pindax {

// Sets spdlog's default logger: standard error in the foreground, else a file or syslog.
Status start_log(const DaemonOptions& options);

}  // namespace pindax
