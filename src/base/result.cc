// SPDX-License-Identifier: BSD-3-Clause
#include "base/result.h"

#include <cerrno>
#include <array>

namespace pindax {
namespace {

struct Row {
  Errc code;
  const char* name;
  int err;
};

// The one table between our codes and the system's; the first row with an errno wins in from_errno.
constexpr std::array kRows{
    Row{Errc::kOk, "ok", 0},
    Row{Errc::kNotFound, "not found", ENOENT},
    Row{Errc::kExists, "exists already", EEXIST},
    Row{Errc::kNotDirectory, "not a directory", ENOTDIR},
    Row{Errc::kIsDirectory, "is a directory", EISDIR},
    Row{Errc::kNotEmpty, "directory not empty", ENOTEMPTY},
    Row{Errc::kInvalid, "invalid argument", EINVAL},
    Row{Errc::kNoSpace, "no space left in the pool", ENOSPC},
    Row{Errc::kNoInodes, "no space left for inodes", ENOSPC},
    Row{Errc::kTooBig, "file too large", EFBIG},
    Row{Errc::kNameTooLong, "name too long", ENAMETOOLONG},
    Row{Errc::kTooManyLinks, "too many links", EMLINK},
    Row{Errc::kPermission, "operation not permitted", EPERM},
    Row{Errc::kAccess, "permission denied", EACCES},
    Row{Errc::kReadOnly, "read-only file system", EROFS},
    Row{Errc::kBusy, "busy", EBUSY},
    Row{Errc::kTextBusy, "range is pinned", ETXTBSY},
    Row{Errc::kInterrupted, "interrupted", EINTR},
    Row{Errc::kTryAgain, "try again", EAGAIN},
    Row{Errc::kDeadlock, "would deadlock", EDEADLK},
    Row{Errc::kTimedOut, "timed out", ETIMEDOUT},
    Row{Errc::kNoData, "no such attribute", ENODATA},
    Row{Errc::kRange, "buffer too small", ERANGE},
    Row{Errc::kTooLong, "value too long", E2BIG},
    Row{Errc::kNotSupported, "not supported", EOPNOTSUPP},
    Row{Errc::kNoDevice, "no such offset", ENXIO},
    Row{Errc::kStale, "stale file handle", ESTALE},
    Row{Errc::kIo, "input/output error", EIO},
    Row{Errc::kCorrupt, "structure needs cleaning", EUCLEAN},
    Row{Errc::kPoisoned, "bad block", EIO},
    Row{Errc::kNoMemory, "out of memory", ENOMEM},
    Row{Errc::kProtocol, "protocol error", EPROTO},
    Row{Errc::kWouldCross, "crosses file systems", EXDEV},
    Row{Errc::kNotConnected, "not connected", ENOTCONN},
    Row{Errc::kBadDescriptor, "bad file descriptor", EBADF},
    Row{Errc::kIncompatible, "incompatible version or feature", EPROTONOSUPPORT},
};

}  // namespace

const char* errc_name(Errc code) {
  for (const Row& row : kRows)
    if (row.code == code) return row.name;
  return "unknown error";
}

int to_errno(Errc code) {
  for (const Row& row : kRows)
    if (row.code == code) return row.err;
  return EIO;
}

Errc from_errno(int err) {
  for (const Row& row : kRows)
    if (row.err == err) return row.code;
  return Errc::kIo;
}

}  // namespace pindax
