// SPDX-License-Identifier: BSD-3-Clause
//
// What a clone or a dedupe is asked for, by the sizes of the moment; errors are those of Linux
// (generic_remap_file_range_prep).
#include <algorithm>

#include "fs/clone.h"

namespace pindax {

namespace {

constexpr u64 kMostDedupeBytes = u64{16} << 20;  // compared under both locks

}  // namespace

Result<u64> clone_length(const FileSystem::CloneRequest& ask, const format::Inode& from,
                         const format::Inode& to) {
  const u64 size_in = from.size_bytes, size_out = to.size_bytes;
  const u64 in = ask.source_offset, out = ask.destination_offset;
  if (!is_regular(from) || !is_regular(to)) {
    if (is_directory(from) || is_directory(to)) return Errc::kIsDirectory;
    return Status(Errc::kInvalid, "only regular files share blocks");
  }
  if (!ask.dedupe)
    PINDAX_TRY(check_data_change(to, false));
  else if ((to.flags & format::kFlagImmutable) != 0)
    return Errc::kPermission;
  if (in % kBlockSize != 0 || out % kBlockSize != 0)
    return Status(Errc::kInvalid, "offsets must be multiples of 4096");
  u64 length = ask.length;
  if (length == 0) {
    if (ask.dedupe || in == size_in) return u64{0};
    if (in < size_in) length = size_in - in;
  }
  if (in >= size_in) return Status(Errc::kInvalid, "the source ends before the range");
  if (out > format::kMaxFileBytes || length > format::kMaxFileBytes - out) return Errc::kTooBig;
  u64 count = std::min(length, size_in - in);
  if (ask.dedupe && (out >= size_out || count > size_out - out || count < length))
    return Status(Errc::kInvalid, "a range reaches beyond its file");
  // A part of a block can only be shared where both files end in it.
  const bool to_the_end =
      in + count == size_in && (ask.dedupe ? out + count == size_out : out + count >= size_out);
  if (!to_the_end) count = round_down(count, kBlockSize);
  if (count < length && !ask.may_shorten && !ask.dedupe)
    return Status(Errc::kInvalid,
                  "the length must be a multiple of 4096, or end where the source ends and not inside the "
                  "destination");
  if (ask.source == ask.destination && in < out + round_up(count, kBlockSize) &&
      out < in + round_up(count, kBlockSize))
    return Status(Errc::kInvalid, "the ranges overlap");
  return ask.dedupe ? std::min(count, kMostDedupeBytes) : count;
}

}  // namespace pindax
