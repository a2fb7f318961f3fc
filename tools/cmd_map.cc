// SPDX-License-Identifier: BSD-3-Clause
//
// pindax map FILE: maps a file directly and tells about the mapping, dumps it, or fills it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "common/command.h"
#include "common/session.h"
#include "common/text.h"

namespace pindax::tools {
namespace {

struct Options {
  std::string file, socket, fill;
  u64 offset = 0, length = 0, hold_ms = 0;
  bool dump = false, hex = false, json = false;
};

void hex_dump(const unsigned char* bytes, u64 length, u64 offset) {
  for (u64 at = 0; at < length; at += 16) {
    std::string hex, text;
    for (u64 i = at; i < at + 16; ++i) {
      hex += i < length ? fmt::format("{:02x} ", bytes[i]) : "   ";
      if (i < length) text += bytes[i] >= 0x20 && bytes[i] < 0x7f ? static_cast<char>(bytes[i]) : '.';
    }
    fmt::print("{:012x}  {} {}\n", offset + at, hex, text);
  }
}

void print_info(const Options& o, const struct pindax_mapping_info& info, const std::string& why_signals) {
  if (o.json) {
    fmt::print("{{\"inode\": {}, \"offset_bytes\": {}, \"length_bytes\": {}, \"direct\": {}, \"extents\": {}, \"mapped_bytes\": {}, "
               "\"huge_bytes\": {}, \"pmd_mapped_bytes\": {}, \"file_size_bytes\": {}, \"faults\": \"{}\"}}\n",
               info.inode, o.offset, o.length, info.direct != 0, info.extents, info.mapped_bytes, info.huge_bytes,
               info.pmd_mapped_bytes, info.file_size, info.direct == 0 ? "mount" : why_signals.empty() ? "userfaultfd" : "signals");
    return;
  }
  fmt::print("{} {}: {}, {} mapped in {} pieces, {} of it 2 MiB aligned, {} by 2 MiB pages just now\n", escape(o.file), range_text(o.offset, o.length),
             info.direct != 0 ? "direct" : "through the mount", size_text(info.mapped_bytes), info.extents, size_text(info.huge_bytes),
             size_text(info.pmd_mapped_bytes));
  if (info.direct == 0 && info.why_indirect != nullptr) fmt::print("not direct: {}\n", info.why_indirect);
  if (!why_signals.empty()) fmt::print("faults come as signals, and system calls on memory that was not touched yet fail with EFAULT: {}\n", why_signals);
}

int run(Options& o) {
  const bool write = !o.fill.empty();
  auto session = Session::open(o.file, o.socket, write ? O_RDWR : O_RDONLY);
  if (!session.ok()) return fail("map", session.status());
  const u64 size = session->size_bytes();
  if (o.length == 0) o.length = size > o.offset ? size - o.offset : 0;
  if (o.length == 0) return fail("map", Status(Errc::kInvalid, "nothing to map: --offset is at or beyond the end of the file"));
  if ((o.dump || o.hex || write) && (o.offset > size || o.length > size - o.offset))
    return fail("map", Status(Errc::kInvalid, fmt::format("the file ends at {}: memory beyond it cannot be touched", size)));
  const u64 begin = round_down(o.offset, kBlockSize);
  auto mapping = session->map(begin, round_up(o.offset + o.length, kBlockSize) - begin, write ? PROT_READ | PROT_WRITE : PROT_READ,
                              PINDAX_MAP_POPULATE);
  if (!mapping.ok()) return fail("map", mapping.status());
  auto* bytes = static_cast<unsigned char*>(pindax_mapping_address(*mapping)) + (o.offset - begin);
  if (write) {
    for (u64 i = 0; i < o.length; ++i) bytes[i] = static_cast<unsigned char>(o.fill[i % o.fill.size()]);
    if (const int error = pindax_persist(*mapping, o.offset - begin, o.length); error != 0) return fail("map", library_status(error));
  }
  if (o.hex) hex_dump(bytes, o.length, o.offset);
  else if (o.dump) {
    if (std::fwrite(bytes, 1, o.length, stdout) != o.length) return fail("map", Status(Errc::kIo, "standard output took no more"));
  } else {
    // The kernel sets pages up when they are touched, large ones where it can.
    for (u64 i = 0; o.offset + i < std::min(o.offset + o.length, size); i += kHugePageSize) (void)*static_cast<const volatile unsigned char*>(bytes + i);
    struct pindax_mapping_info info{};
    info.size = sizeof(info);
    if (const int error = pindax_mapping_info(*mapping, &info); error != 0) return fail("map", library_status(error));
    const char* why = "";
    const bool direct = pindax_is_direct(session->client(), &why) != 0;
    print_info(o, info, direct ? why : "");
  }
  std::fflush(stdout);
  if (o.hold_ms != 0) ::usleep(static_cast<useconds_t>(o.hold_ms * 1000));
  return kDone;
}

}  // namespace

void add_map(Commands& commands) {
  auto o = std::make_shared<Options>();
  auto* sub = commands.add("map", "Map a file directly: show the mapping, dump or fill the memory");
  sub->add_option("FILE", o->file, "a file on a mount; with --socket a path inside the file system")->required();
  add_size(sub, "--offset", o->offset, "first byte (0)");
  add_size(sub, "--length", o->length, "bytes (to the end of the file)");
  sub->add_flag("--dump", o->dump, "write the bytes to standard output");
  sub->add_flag("--hex", o->hex, "print the bytes in hexadecimal");
  sub->add_option("--fill", o->fill, "store this text over and over, and persist it")->type_name("TEXT");
  add_duration(sub, "--hold", o->hold_ms, "keep the mapping for this long");
  sub->add_flag("--json", o->json, "print an object");
  sub->add_option("--socket", o->socket, "use this daemon without a mount")->type_name("SOCKET");
  commands.run(sub, [o] { return run(*o); });
}

}  // namespace pindax::tools
