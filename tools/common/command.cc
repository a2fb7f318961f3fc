// SPDX-License-Identifier: BSD-3-Clause
#include "common/command.h"

#include <fmt/format.h>

#include <cstdio>

#include "common/text.h"

namespace pindax::tools {

int fail(const char* command, const Status& status) {
  fmt::print(stderr, "pindax {}: {}\n", command, escape(status.message()));
  return kFailed;
}

int usage(const char* command, const std::string& message) {
  fmt::print(stderr, "pindax {}: {}\nSee 'pindax {} --help'.\n", command, message, command);
  return kUsage;
}

namespace {
template <class Parse>
CLI::Option* add_parsed(CLI::App* sub, const std::string& name, u64& value, const std::string& about, Parse parse,
                        const char* type) {
  return sub
      ->add_option_function<std::string>(
          name,
          [&value, parse, name](const std::string& text) {
            auto parsed = parse(text);
            if (!parsed.ok()) throw CLI::ValidationError(name, std::string(parsed.status().message()));
            value = *parsed;
          },
          about)
      ->type_name(type);
}
}  // namespace

CLI::Option* add_size(CLI::App* sub, const std::string& name, u64& value, const std::string& about) {
  return add_parsed(sub, name, value, about, parse_size, "SIZE");
}

CLI::Option* add_duration(CLI::App* sub, const std::string& name, u64& milliseconds, const std::string& about) {
  return add_parsed(sub, name, milliseconds, about, parse_duration_ms, "TIME");
}

}  // namespace pindax::tools
