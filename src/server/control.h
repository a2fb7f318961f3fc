// SPDX-License-Identifier: BSD-3-Clause
//
// The JSON requests of tools (proto/control.h). Run on the executor, with the credentials of the session's peer.
#pragma once

#include <nlohmann/json.hpp>

#include <functional>

#include "server/context.h"
#include "server/session.h"

namespace pindax::control {

using Json = nlohmann::ordered_json;

// What an operation gets: the caller's rights are checked by the operation itself.
struct Request {
  ServerContext& context;
  const Peer& peer;
  const Caller& caller;
  bool sees_all;  // root or the mount's owner
  const Json& arguments;
  KernelNews& news;  // what the operation changed: announced before it is answered
};

// An argument, or kInvalid with its name.
Result<std::string> text_argument(const Request& r, const char* key);
Result<u64> number_argument(const Request& r, const char* key);
std::optional<u64> optional_number(const Request& r, const char* key);

// A look through many inodes, a task of the executor's for each step: others get on in between. `step` says whether there is more;
// `done` comes after the last one, or the first that fails.
void in_steps(Executor& executor, std::function<Result<bool>()> step, std::function<void(const Status&)> done);

// control_listings.cc
Result<Json> list_pins(const Request& r);
Result<Json> list_clients(const Request& r);
Result<Json> list_waiters(const Request& r);
// control_places.cc
Result<Json> show_layout(const Request& r);
Json describe_block(ServerContext& context, const FileSystem::OwnerScan& scan);
// control_info.cc
Result<Json> show_info(const Request& r);
// control_bad.cc: completes `row` with what bad blocks have destroyed.
void show_damage(const Request& r, Json row, std::function<void(Result<Json>)> done);
Result<Json> scrub_some(const Request& r);

// control_names.cc
Result<Json> list_directory(const Request& r);
Result<Json> show_stat(const Request& r);
Result<Json> make_directory(const Request& r);
Result<Json> make_symlink(const Request& r);
Result<Json> read_symlink(const Request& r);
Result<Json> remove_name(const Request& r);
Result<Json> change_attributes(const Request& r);

}  // namespace pindax::control
