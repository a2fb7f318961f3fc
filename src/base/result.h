// SPDX-License-Identifier: BSD-3-Clause
//
// How every room reports failure: a closed set of codes and a message that is
// static or was formatted where the error arose. No exceptions cross a room.
// A code becomes an errno in exactly one function (to_errno) at the edges.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"

namespace pindax {

enum class Errc : int {
  kOk = 0,
  kNotFound,         // ENOENT
  kExists,           // EEXIST
  kNotDirectory,     // ENOTDIR
  kIsDirectory,      // EISDIR
  kNotEmpty,         // ENOTEMPTY
  kInvalid,          // EINVAL
  kNoSpace,          // ENOSPC
  kNoInodes,         // ENOSPC, inode space
  kTooBig,           // EFBIG
  kNameTooLong,      // ENAMETOOLONG
  kTooManyLinks,     // EMLINK
  kPermission,       // EPERM
  kAccess,           // EACCES
  kReadOnly,         // EROFS
  kBusy,             // EBUSY
  kTextBusy,         // ETXTBSY: policy "refuse" on a pinned range
  kInterrupted,      // EINTR
  kTryAgain,         // EAGAIN
  kDeadlock,         // EDEADLK
  kTimedOut,         // ETIMEDOUT
  kNoData,           // ENODATA: no such xattr
  kRange,            // ERANGE: buffer too small
  kTooLong,          // E2BIG: xattr too large
  kNotSupported,     // EOPNOTSUPP
  kNoDevice,         // ENXIO: SEEK_DATA beyond the end
  kStale,            // ESTALE: inode number or generation of the past
  kIo,               // EIO: the host failed us
  kCorrupt,          // EUCLEAN: bytes on media fail their check; never a silent default
  kPoisoned,         // EIO: a bad block under the data
  kNoMemory,         // ENOMEM
  kProtocol,         // EPROTO: a client message that breaks the protocol
  kWouldCross,       // EXDEV
  kNotConnected,     // ENOTCONN
  kBadDescriptor,    // EBADF
  kIncompatible,     // version or feature that this build does not know
};

const char* errc_name(Errc code);
int to_errno(Errc code);  // positive errno; 0 for kOk
Errc from_errno(int err);

// Cheap when ok (one pointer); carries a message otherwise.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Errc code, std::string message)  // NOLINT: implicit on purpose nowhere; two arguments
      : detail_(code == Errc::kOk ? nullptr : std::make_unique<Detail>(Detail{code, std::move(message)})) {}
  explicit Status(Errc code) : Status(code, errc_name(code)) {}

  Status(Status&&) noexcept = default;
  Status& operator=(Status&&) noexcept = default;
  Status(const Status& o) : detail_(o.detail_ ? std::make_unique<Detail>(*o.detail_) : nullptr) {}
  Status& operator=(const Status& o) {
    detail_ = o.detail_ ? std::make_unique<Detail>(*o.detail_) : nullptr;
    return *this;
  }
  ~Status() = default;

  bool ok() const { return detail_ == nullptr; }
  explicit operator bool() const { return ok(); }
  Errc code() const { return detail_ ? detail_->code : Errc::kOk; }
  std::string_view message() const { return detail_ ? std::string_view(detail_->message) : std::string_view("ok"); }
  // The same code with "context: " before the message.
  Status with_context(std::string_view context) const {
    if (ok()) return {};
    return Status(code(), std::string(context) + ": " + detail_->message);
  }

 private:
  struct Detail {
    Errc code;
    std::string message;
  };
  std::unique_ptr<Detail> detail_;
};

// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}  // NOLINT: implicit so that `return value;` reads well
  Result(Status status) : state_(std::move(status)) {  // NOLINT: likewise
    PINDAX_ASSERT(!std::get<Status>(state_).ok());
  }
  Result(Errc code) : state_(Status(code)) {}  // NOLINT: likewise

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  T& value() & { PINDAX_ASSERT(ok()); return std::get<T>(state_); }
  const T& value() const& { PINDAX_ASSERT(ok()); return std::get<T>(state_); }
  T&& value() && { PINDAX_ASSERT(ok()); return std::get<T>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  Errc code() const { return ok() ? Errc::kOk : std::get<Status>(state_).code(); }

 private:
  std::variant<T, Status> state_;
};

// Returns early with the error of a Status or Result expression.
#define PINDAX_TRY(expr)                              \
  do {                                                \
    if (auto pindax_try_ = (expr); !pindax_try_.ok()) \
      return ::pindax::as_status(pindax_try_);        \
  } while (0)

#define PINDAX_CONCAT_(a, b) a##b
#define PINDAX_CONCAT(a, b) PINDAX_CONCAT_(a, b)
// PINDAX_ASSIGN(auto x, f()): x = value of f(), or returns early with its error.
#define PINDAX_ASSIGN(decl, expr) PINDAX_ASSIGN_(PINDAX_CONCAT(pindax_result_, __LINE__), decl, expr)
#define PINDAX_ASSIGN_(tmp, decl, expr) \
  auto tmp = (expr);                    \
  if (!tmp.ok()) return tmp.status();   \
  decl = std::move(tmp).value()

inline const Status& as_status(const Status& s) { return s; }
template <class T>
Status as_status(const Result<T>& r) { return r.status(); }

}  // namespace pindax
