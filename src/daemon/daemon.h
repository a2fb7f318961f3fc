// SPDX-License-Identifier: BSD-3-Clause
//
// The daemon's life: open the pool, mount the file system, serve clients and the kernel, end in good order.
#pragma once

#include "daemon/options.h"
#include "daemon/readiness.h"

namespace pindax {

// Returns when the mount is gone or a signal or a tool asked for the end, with everything written and the
// pool free. Tells `readiness` when the pool is served. SIGTERM and SIGINT end the daemon in good order,
// SIGHUP is ignored.
Status run_daemon(const DaemonOptions& options, Readiness& readiness);

}  // namespace pindax
