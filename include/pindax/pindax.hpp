// SPDX-License-Identifier: BSD-3-Clause
//
// pindax.h for C++17 and later: owners that close, unmap and unpin by themselves, errors as std::system_error.
//
//   pindax::Client client("/mnt/pindax");
//   auto file = client.open("/table", O_RDWR);
//   auto mapping = client.map(file, 0, file_size, PROT_READ | PROT_WRITE);
//   {
//     pindax::Pin pin = mapping.pin(0, 4096, PINDAX_PIN_WRITE);   // no truncate takes these blocks away meanwhile
//     start_dma(mapping.data(), 4096);
//     wait_for_dma();
//   }
//   mapping.persist(0, 4096);
//
// Ownership. All owners move and do not copy. A Client outlives its Files and Mappings; a Pin may outlive its Mapping.
// Units, durability and thread words are those of pindax.h. Every call but the noexcept ones throws Error.
#ifndef PINDAX_PINDAX_HPP
#define PINDAX_PINDAX_HPP

#include <pindax/pindax.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace pindax {
inline namespace library {  // names of its own for the linker: the daemon has a pindax::Mapping, too

// code() holds the errno, what() the library's own words.
class Error : public std::system_error {
 public:
  explicit Error(int negative_errno)
      : std::system_error(-negative_errno, std::generic_category(), pindax_last_error()) {}
};

namespace detail {
inline int check(int result) {
  if (result < 0) throw Error(result);
  return result;
}
inline ssize_t check(ssize_t result) {
  if (result < 0) throw Error(static_cast<int>(result));
  return result;
}
}  // namespace detail

// A pinned range; unpins at its end. Thread-bound. Moving it keeps it pinned.
class Pin {
 public:
  Pin() = default;
  Pin(Pin&& o) noexcept : pin_(o.pin_) { o.pin_ = {}; }
  Pin& operator=(Pin&& o) noexcept {
    if (this != &o) {
      reset();
      pin_ = o.pin_;
      o.pin_ = {};
    }
    return *this;
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() { reset(); }

  explicit operator bool() const noexcept { return pin_.opaque[0] != 0; }
  // Unpins now. Nothing happens if nothing is pinned.
  void reset() noexcept {
    if (*this) (void)pindax_unpin(nullptr, &pin_);
    pin_ = {};
  }
  // Generation of the block numbers that were valid when the pin began.
  std::uint64_t generation() const noexcept { return pin_.generation; }

 private:
  friend class Mapping;
  struct pindax_pin pin_ = {};
};

// A file range in memory; unmaps at its end. The memory is shared by all threads, the object is thread-bound.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& o) noexcept : mapping_(std::exchange(o.mapping_, nullptr)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    if (this != &o) {
      reset();
      mapping_ = std::exchange(o.mapping_, nullptr);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  explicit operator bool() const noexcept { return mapping_ != nullptr; }
  void reset() noexcept {
    if (mapping_ != nullptr) (void)pindax_unmap(mapping_);
    mapping_ = nullptr;
  }
  std::byte* data() const noexcept { return static_cast<std::byte*>(pindax_mapping_address(mapping_)); }
  std::size_t size() const noexcept { return pindax_mapping_length(mapping_); }

  // Waits behind a layout change that has closed the range. Thread-safe.
  Pin pin(std::size_t offset, std::size_t length, unsigned flags = PINDAX_PIN_TRANSIENT) const {
    Pin p;
    detail::check(pindax_pin(mapping_, offset, length, flags, &p.pin_));
    return p;
  }
  // Nothing instead of waiting. Thread-safe.
  std::optional<Pin> try_pin(std::size_t offset, std::size_t length, unsigned flags = PINDAX_PIN_TRANSIENT) const {
    Pin p;
    const int result = pindax_try_pin(mapping_, offset, length, flags, &p.pin_);
    if (result == -static_cast<int>(std::errc::resource_unavailable_try_again)) return std::nullopt;
    detail::check(result);
    return p;
  }
  // On return the bytes, and the layout and size needed to find them, are as durable as the pool allows. Thread-safe.
  void persist(std::size_t offset, std::size_t length) const { detail::check(pindax_persist(mapping_, offset, length)); }
  struct pindax_mapping_info info() const {
    struct pindax_mapping_info i = {};
    i.size = sizeof(i);
    detail::check(pindax_mapping_info(mapping_, &i));
    return i;
  }
  struct pindax_mapping* get() const noexcept { return mapping_; }

 private:
  friend class Client;
  struct pindax_mapping* mapping_ = nullptr;
};

// A descriptor of the library; closed at its end. Thread-bound.
class File {
 public:
  File() = default;
  File(File&& o) noexcept : client_(o.client_), fd_(std::exchange(o.fd_, -1)) {}
  File& operator=(File&& o) noexcept {
    if (this != &o) {
      reset();
      client_ = o.client_;
      fd_ = std::exchange(o.fd_, -1);
    }
    return *this;
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { reset(); }

  explicit operator bool() const noexcept { return fd_ >= 0; }
  int fd() const noexcept { return fd_; }
  void reset() noexcept {
    if (fd_ >= 0) (void)pindax_close(client_, fd_);
    fd_ = -1;
  }
  // As pread(2) and pwrite(2): the count, which the end of file or a full pool may cut.
  std::size_t pread(void* to, std::size_t length, std::uint64_t offset) const {
    return static_cast<std::size_t>(detail::check(pindax_pread(client_, fd_, to, length, offset)));
  }
  std::size_t pwrite(const void* from, std::size_t length, std::uint64_t offset) const {
    return static_cast<std::size_t>(detail::check(pindax_pwrite(client_, fd_, from, length, offset)));
  }
  // May wait for pins of the range that goes away.
  void truncate(std::uint64_t size_bytes) const { detail::check(pindax_truncate(client_, fd_, size_bytes)); }
  void fallocate(int mode, std::uint64_t offset, std::uint64_t length) const {
    detail::check(pindax_fallocate(client_, fd_, mode, offset, length));
  }
  // The same with a policy of their own for pins in the way: OnBusy{PINDAX_ON_BUSY_REFUSE, 500}.
  struct OnBusy {
    unsigned policy = PINDAX_ON_BUSY_INHERIT;
    std::uint64_t deadline_ms = 0;
  };
  void truncate(std::uint64_t size_bytes, OnBusy on_busy) const {
    const struct pindax_change_options o = {sizeof(o), on_busy.policy, 0, on_busy.deadline_ms};
    detail::check(pindax_truncate_ext(client_, fd_, size_bytes, &o));
  }
  void fallocate(int mode, std::uint64_t offset, std::uint64_t length, OnBusy on_busy) const {
    const struct pindax_change_options o = {sizeof(o), on_busy.policy, 0, on_busy.deadline_ms};
    detail::check(pindax_fallocate_ext(client_, fd_, mode, offset, length, &o));
  }
  // This file's blocks at `to` become those of `source` at `from`. length 0: to the source's end.
  void clone_from(const File& source, std::uint64_t from, std::uint64_t to, std::uint64_t length) const {
    detail::check(pindax_clone_range(client_, source.fd_, from, fd_, to, length));
  }
  // The same where both hold the same bytes; how many are shared now.
  std::uint64_t dedupe_with(const File& source, std::uint64_t from, std::uint64_t to, std::uint64_t length) const {
    std::uint64_t bytes = 0;
    detail::check(pindax_dedupe_range(client_, source.fd_, from, fd_, to, length, &bytes));
    return bytes;
  }

 private:
  friend class Client;
  struct pindax_client* client_ = nullptr;
  int fd_ = -1;
};

// A session with a daemon; detaches at its end, which unmaps and unpins what is left. Its calls are thread-safe.
class Client {
 public:
  explicit Client(const std::string& mountpoint_or_socket, const struct pindax_attach_options* options = nullptr) {
    detail::check(pindax_attach(mountpoint_or_socket.c_str(), options, &client_));
  }
  Client(Client&& o) noexcept : client_(std::exchange(o.client_, nullptr)) {}
  Client& operator=(Client&& o) noexcept {
    if (this != &o) {
      (void)pindax_detach(client_);
      client_ = std::exchange(o.client_, nullptr);
    }
    return *this;
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { (void)pindax_detach(client_); }

  // False: mappings go through the mount; `why` says why.
  bool is_direct(std::string* why = nullptr) const {
    const char* text = nullptr;
    const bool direct = pindax_is_direct(client_, &text) == 1;
    if (why != nullptr) *why = text != nullptr ? text : "";
    return direct;
  }
  File open(const std::string& path, int flags, unsigned mode = 0644) const {
    File f;
    f.client_ = client_;
    f.fd_ = detail::check(pindax_open(client_, path.c_str(), flags, mode));
    return f;
  }
  // offset: a multiple of 4096. flags: PINDAX_MAP_POPULATE.
  Mapping map(const File& file, std::uint64_t offset, std::size_t length, int prot, int flags = 0) const {
    return map(file.fd(), offset, length, prot, flags);
  }
  // Also for a descriptor of the mount that somebody else opened.
  Mapping map(int fd, std::uint64_t offset, std::size_t length, int prot, int flags = 0) const {
    Mapping m;
    detail::check(pindax_map(client_, fd, offset, length, prot, flags, &m.mapping_));
    return m;
  }
  struct pindax_client* get() const noexcept { return client_; }

 private:
  struct pindax_client* client_ = nullptr;
};

}  // namespace library
}  // namespace pindax

#endif
