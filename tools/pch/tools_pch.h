// SPDX-License-Identifier: BSD-3-Clause
//
// Precompiled: the large headers that nearly every command includes. Sources include what they use all the same.

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
