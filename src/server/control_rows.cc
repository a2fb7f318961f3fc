// SPDX-License-Identifier: BSD-3-Clause
#include "server/control_rows.h"

namespace pindax::control {

const char* kind_name(u32 kind) {
  switch (static_cast<proto::PinKind>(kind & proto::kPinKindMask)) {
    case proto::PinKind::kTransient: return "transient";
    case proto::PinKind::kLease: return "lease";
    case proto::PinKind::kLongterm: return "longterm";
  }
  return "unknown";
}

const char* policy_name(BusyPolicy p) {
  switch (p) {
    case BusyPolicy::kInherit: return "inherit";
    case BusyPolicy::kWait: return "wait";
    case BusyPolicy::kRefuse: return "refuse";
    case BusyPolicy::kQuarantine: return "quarantine";
    case BusyPolicy::kEvict: return "evict";
  }
  return "unknown";
}

std::string path_of(ServerContext& context, InodeNo ino) {
  auto paths = context.fs.paths(ino, 1);
  return paths.empty() ? std::string() : std::move(paths.front());
}

Json client_row(const ClientIdentity& who) {
  return Json{{"session", who.session}, {"pid", who.pid}, {"uid", who.uid}, {"command", who.command}};
}

Json pin_row(const PinRow& pin) {
  Json row{{"inode", pin.ino.value}, {"offset_bytes", pin.range.begin}, {"length_bytes", pin.range.length()}};
  row.update(client_row(pin.client));
  row["thread"] = pin.thread;
  row["kind"] = kind_name(pin.kind);
  row["write"] = (pin.kind & proto::kPinWrite) != 0;
  row["transferable"] = (pin.kind & proto::kPinTransferable) != 0;
  row["age_ms"] = pin.age_ns / 1'000'000;
  row["stuck"] = pin.stuck;
  row["asked_ms"] = pin.asked_ns < 0 ? Json(nullptr) : Json(pin.asked_ns / 1'000'000);
  return row;
}

MappingRows::MappingRows(ServerContext& context) : mappings_(context.clients().list_mappings()) {
  for (const auto& s : context.sessions()) who_.emplace(s->id(), s->identity());
}

}  // namespace pindax::control
