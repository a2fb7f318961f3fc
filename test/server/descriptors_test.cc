// SPDX-License-Identifier: BSD-3-Clause
#include "server/descriptors.h"

#include <sys/stat.h>

#include "raw_client.h"

using namespace pindax;
using pindax::test::RawClient;

TEST_CASE("server: descriptors are known for what they are") {
  UniqueFd memory(::memfd_create("x", MFD_CLOEXEC));
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd in(ends[0]), out(ends[1]);
  CHECK(identify_descriptor(memory.get(), nullptr)->kind == DescriptorKind::kMemfd);
  CHECK(identify_descriptor(event.get(), nullptr)->kind == DescriptorKind::kEventfd);
  CHECK(identify_descriptor(file.get(), nullptr)->kind == DescriptorKind::kUnknown);
  CHECK(identify_descriptor(in.get(), nullptr)->kind == DescriptorKind::kUnknown);
}

TEST_CASE("server: the pool is told from other files by device and inode") {
  char name[] = "/dev/shm/pindax-test-XXXXXX";
  UniqueFd pool(::mkstemp(name));
  struct stat s = {};
  REQUIRE(::fstat(pool.get(), &s) == 0);
  const PoolIdentity identity{.device = s.st_dev, .inode = s.st_ino, .special = 0, .mode = s.st_mode};
  UniqueFd again(::open(name, O_RDWR | O_CLOEXEC));
  CHECK(identify_descriptor(again.get(), &identity)->kind == DescriptorKind::kPool);
  // A new file of the same name is another file.
  ::unlink(name);
  UniqueFd other(::open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK(identify_descriptor(other.get(), &identity)->kind == DescriptorKind::kUnknown);
  ::unlink(name);
}

TEST_CASE("server: only a slot area with the right seals and size is mapped") {
  CHECK(map_slot_area(RawClient::make_slots().get()).ok());
  CHECK(map_slot_area(RawClient::make_slots(0).get()).code() == Errc::kProtocol);
  CHECK(map_slot_area(RawClient::make_slots(F_SEAL_GROW).get()).code() == Errc::kProtocol);
  CHECK(map_slot_area(RawClient::make_slots(F_SEAL_SHRINK).get()).code() == Errc::kProtocol);
  CHECK(map_slot_area(RawClient::make_slots(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE).get()).code() == Errc::kProtocol);
  CHECK(map_slot_area(RawClient::make_slots(F_SEAL_SHRINK | F_SEAL_GROW, 4096).get()).code() == Errc::kProtocol);
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  CHECK(map_slot_area(event.get()).code() == Errc::kProtocol);
}

TEST_CASE("server: nobody but the daemon can write the gates") {
  auto gates = make_gate_area(5);
  REQUIRE(gates.ok());
  const int fd = gates->fd.get();
  CHECK(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK(::pwrite(fd, "x", 1, 0) < 0);
  CHECK(::ftruncate(fd, 0) != 0);
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd reopened(::open(link.c_str(), O_RDWR | O_CLOEXEC));
  if (reopened) CHECK(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.get(), 0) == MAP_FAILED);
  void* view = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  REQUIRE(view != MAP_FAILED);
  // The daemon's own mapping still can.
  auto* mine = reinterpret_cast<proto::GateHeader*>(gates->area.data());
  mine->ticket.store(9);
  CHECK(static_cast<const proto::GateHeader*>(view)->ticket.load() == 9);
  ::munmap(view, 4096);
}
