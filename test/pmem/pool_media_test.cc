// SPDX-License-Identifier: BSD-3-Clause
#include "pmem/pool_media.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/little_endian.h"
#include "catch.h"
#include "format/format.h"
#include "pmem/bus_guard.h"

using namespace pindax;

namespace {

constexpr u64 kSize = 16u << 20;
constexpr u64 kSegment = 4u << 20;

// A name in a directory of the host, removed at the end.
class TempPath {
 public:
  explicit TempPath(const char* directory) : path_(std::string(directory) + "/pindax-test-XXXXXX") {
    const int fd = ::mkstemp(path_.data());
    REQUIRE(fd >= 0);
    ::close(fd);
  }
  ~TempPath() { ::unlink(path_.c_str()); }
  TempPath(const TempPath&) = delete;
  TempPath& operator=(const TempPath&) = delete;
  const std::string& str() const { return path_; }

 private:
  std::string path_;
};

const char* const kDirectories[] = {"/dev/shm", "/var/tmp"};

std::unique_ptr<PoolMedia> create(const TempPath& path, bool sparse = true) {
  auto media = PoolMedia::create(path.str(), kSize, sparse, false);
  INFO(media.status().message());
  REQUIRE(media.ok());
  return std::move(media).value();
}

// Runs `body` in a child and returns its exit status; a signal counts as 1000 + its number.
template <class F>
int in_child(F body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool mentions(const Status& s, const std::string& text) {
  return std::string(s.message()).find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("pool: what is stored is read back, across segments and after reopening") {
  for (const char* directory : kDirectories) {
    TempPath path(directory);
    std::vector<u8> out(300000), in(300000);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<u8>(i * 7);
    const PoolOffset at(kSegment - 100000);
    {
      auto media = create(path);
      CHECK(media->size() == kSize);
      if (const char* forced = std::getenv("PMEM2_FORCE_GRANULARITY"); forced == nullptr)
        CHECK((media->granularity() == Granularity::kVolatile) == (media->kind() == PoolKind::kRamFile));
      else
        CHECK((media->granularity() == Granularity::kPage) == (std::string(forced) == "PAGE"));
      CHECK(media->view(PoolOffset(0), kSegment) != nullptr);
      CHECK(media->view(PoolOffset(kSegment), 1) == nullptr);
      CHECK(media->write(at, in.data(), in.size()).code() == Errc::kInvalid);
      media->set_segment_size(kSegment);
      REQUIRE(media->write(at, in.data(), in.size()).ok());
      REQUIRE(media->write_nt(PoolOffset(kSegment * 3), in.data(), 100).ok());
      REQUIRE(media->persist(at, in.size()).ok());
      REQUIRE(media->sync_all().ok());
      CHECK(media->view(at, 100000) != nullptr);
      CHECK(media->view(at, 100001) == nullptr);
      CHECK(media->view(PoolOffset(kSize), 1) == nullptr);
      CHECK(media->write(PoolOffset(kSize - 1), in.data(), 2).code() == Errc::kInvalid);
      CHECK(media->read(PoolOffset(~u64{0}), out.data(), 2).code() == Errc::kInvalid);
    }
    auto media = std::move(*PoolMedia::open(path.str(), {}));
    media->set_segment_size(kSegment);
    REQUIRE(media->read(at, out.data(), out.size()).ok());
    CHECK(out == in);
    REQUIRE(media->zero(at, 5).ok());
    CHECK(*media->view(at, 1) == std::byte{0});
  }
}

TEST_CASE("pool: opened for reading only it refuses stores and shares with other readers") {
  TempPath path("/dev/shm");
  create(path);
  auto first = PoolMedia::open(path.str(), {.read_only = true});
  REQUIRE(first.ok());
  CHECK((*first)->write(PoolOffset(0), "x", 1).code() == Errc::kReadOnly);
  CHECK((*first)->punch(PoolOffset(0), kBlockSize).code() == Errc::kReadOnly);
  CHECK(PoolMedia::open(path.str(), {.read_only = true}).ok());
  CHECK(PoolMedia::open(path.str(), {}).code() == Errc::kBusy);
}

TEST_CASE("pool: a second open is refused and names the owner's process") {
  for (const char* directory : kDirectories) {
    TempPath path(directory);
    create(path);
    int to_child[2], to_parent[2];
    REQUIRE(::pipe(to_child) == 0);
    REQUIRE(::pipe(to_parent) == 0);
    const pid_t owner = ::fork();
    if (owner == 0) {
      char c = 0;
      auto media = PoolMedia::open(path.str(), {});
      (void)!::write(to_parent[1], &c, 1);
      ::close(to_child[1]);
      (void)!::read(to_child[0], &c, 1);
      ::_exit(media.ok() ? 0 : 1);
    }
    char c;
    REQUIRE(::read(to_parent[0], &c, 1) == 1);
    auto second = PoolMedia::open(path.str(), {});
    CHECK(second.code() == Errc::kBusy);
    CHECK(mentions(second.status(), std::to_string(owner)));
    CHECK(PoolMedia::create(path.str(), 0, false, true).code() == Errc::kBusy);
    CHECK(PoolMedia::open(path.str(), {.read_only = true}).code() == Errc::kBusy);
    CHECK(PoolMedia::open(path.str(), {.read_only = true, .exclusive = false}).ok());
    for (int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]}) ::close(fd);
    int status = 1;
    ::waitpid(owner, &status, 0);
    CHECK(status == 0);
    CHECK(PoolMedia::open(path.str(), {}).ok());
  }
}

TEST_CASE("pool: create respects what is there") {
  TempPath path("/dev/shm");
  CHECK(PoolMedia::create(path.str(), 0, true, false).code() == Errc::kInvalid);
  CHECK(PoolMedia::create(path.str(), 1000, true, false).code() == Errc::kInvalid);
  {
    auto media = create(path);
    const le64 magic = format::kSuperblockMagic;
    REQUIRE(media->write(PoolOffset(format::kSuperblockOffsets[1]), &magic, 8).ok());
  }
  auto refused = PoolMedia::create(path.str(), kSize, true, false);
  CHECK(refused.code() == Errc::kExists);
  CHECK(mentions(refused.status(), "pool already"));
  {
    auto forced = PoolMedia::create(path.str(), 0, true, true);
    REQUIRE(forced.ok());
    CHECK((*forced)->size() == kSize);
    CHECK(*(*forced)->view(PoolOffset(format::kSuperblockOffsets[1]), 1) == std::byte{0});
  }
  refused = PoolMedia::create(path.str(), kSize, true, false);
  CHECK(refused.code() == Errc::kExists);
  CHECK(mentions(refused.status(), "not empty"));
  CHECK(PoolMedia::create("/dev/shm/no-such-directory-here/pool", kSize, true, false).code() == Errc::kNotFound);
  CHECK(PoolMedia::create("/dev/null", kSize, true, true).code() == Errc::kInvalid);
  CHECK(PoolMedia::open("/dev/shm/no-such-pool-here", {}).code() == Errc::kNotFound);
  const std::string huge = path.str() + "-huge";
  CHECK(PoolMedia::create(huge, u64{1} << 44, false, false).code() != Errc::kOk);
  CHECK(::access(huge.c_str(), F_OK) != 0);
}

TEST_CASE("pool: unless sparse its space is reserved, and still after a punch") {
  for (const char* directory : kDirectories)
    for (bool sparse : {false, true}) {
      TempPath path(directory);
      auto media = create(path, sparse);
      struct stat st {};
      REQUIRE(::fstat(media->fd(), &st) == 0);
      CHECK((static_cast<u64>(st.st_blocks) * 512 >= kSize) == !sparse);
      REQUIRE(media->write(PoolOffset(8192), "abc", 3).ok());
      REQUIRE(media->punch(PoolOffset(8192), 4096).ok());
      CHECK(*media->view(PoolOffset(8192), 1) == std::byte{0});
      REQUIRE(::fstat(media->fd(), &st) == 0);
      CHECK((static_cast<u64>(st.st_blocks) * 512 >= kSize) == !sparse);
      CHECK(media->punch(PoolOffset(kSize), 4096).code() == Errc::kInvalid);
    }
}

TEST_CASE("pool: witness bytes tell which clients' descriptions live, also as a mapping alone") {
  for (const char* directory : kDirectories) {
    TempPath path(directory);
    auto media = create(path);
    CHECK(media->witnesses_held()->empty());
    UniqueFd first(::open(path.str().c_str(), O_RDWR | O_CLOEXEC));
    UniqueFd second(::open(path.str().c_str(), O_RDONLY | O_CLOEXEC));
    UniqueFd third(::open(path.str().c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(take_witness(first.get(), 7).ok());
    REQUIRE(take_witness(second.get(), kMaxWitnesses - 1).ok());
    REQUIRE(take_witness(third.get(), 0).ok());
    CHECK(take_witness(third.get(), 7).code() == Errc::kBusy);
    CHECK(*media->witness_held(7));
    CHECK_FALSE(*media->witness_held(8));
    CHECK(media->witness_held(kMaxWitnesses).code() == Errc::kInvalid);
    CHECK(*media->witnesses_held() == std::vector<u32>{0, 7, kMaxWitnesses - 1});
    CHECK(PoolMedia::create(path.str(), 0, true, true).code() == Errc::kBusy);
    void* mapping = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, first.get(), 0);
    REQUIRE(mapping != MAP_FAILED);
    first.reset();
    second.reset();
    third.reset();
    CHECK(*media->witnesses_held() == std::vector<u32>{7});
    media.reset();
    CHECK(PoolMedia::create(path.str(), 0, true, true).code() == Errc::kBusy);
    ::munmap(mapping, 4096);
    media = std::move(*PoolMedia::open(path.str(), {}));
    CHECK(media->witnesses_held()->empty());
  }
}

TEST_CASE("pool: a store or read beyond the end of a file that was truncated is kIo, not a signal") {
  for (const char* directory : kDirectories) {
    TempPath path(directory);
    auto media = create(path);
    media->set_segment_size(kSegment);
    char c = 0;
    REQUIRE(media->read(PoolOffset(kSegment * 2), &c, 1).ok());
    REQUIRE(::truncate(path.str().c_str(), kSegment) == 0);
    CHECK(media->read(PoolOffset(kSegment * 2), &c, 1).code() == Errc::kIo);
    // What is read in place is probed before, every line of it.
    CHECK(media->probe(PoolOffset(kSegment - 512), 512).ok());
    CHECK(media->probe(PoolOffset(kSegment * 2), 512).code() == Errc::kIo);
    CHECK(media->probe(PoolOffset(kSegment - 512), 4096).code() == Errc::kIo);
    std::vector<std::byte> bytes;
    CHECK(append_guarded(bytes, {media->view(PoolOffset(0), 100), 100}).ok());
    CHECK(append_guarded(bytes, {media->view(PoolOffset(kSegment * 2), 100), 100}).code() == Errc::kIo);
    CHECK(bytes.size() == 100);
    CHECK_FALSE(media->failed());
    CHECK(media->write(PoolOffset(kSegment * 2), "x", 1).code() == Errc::kIo);
    CHECK(media->failed());
    CHECK(media->zero(PoolOffset(kSegment * 2), 4096).code() == Errc::kIo);
    CHECK(media->write(PoolOffset(0), "x", 1).ok());
    // From several threads at once, again and again: the handler stays armed.
    std::vector<std::thread> threads;
    std::atomic<int> refused{0};
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, at = PoolOffset(kSegment * 2 + static_cast<pindax::u64>(t) * 64)] {
        for (int i = 0; i < 50; ++i)
          if (media->write(at, "x", 1).code() == Errc::kIo) ++refused;
      });
    for (auto& t : threads) t.join();
    CHECK(refused == 200);
  }
}

TEST_CASE("pool: a SIGBUS that is not the pool's goes to whoever handled it before") {
  // Nobody handled it before in this program: the default, which is to die of it. (A sanitizer's handler exits.)
  const auto foreign_fault = [] {
    const int fd = ::memfd_create("x", MFD_CLOEXEC);
    auto* p = static_cast<volatile char*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0));
    return static_cast<int>(*p);
  };
  TempPath path("/dev/shm");
  create(path);
  CHECK(in_child([&] {
          auto media = PoolMedia::open(path.str(), {});
          return foreign_fault();
        }) != 0);
  CHECK(in_child([&] {
          auto media = PoolMedia::open(path.str(), {});
          return ::raise(SIGBUS);
        }) != 0);
}

TEST_CASE("pool: mapping it takes no addresses that another thread maps meanwhile") {
  for (const char* directory : kDirectories) {
    TempPath path(directory);
    create(path);
    std::atomic<bool> stop{false}, lost{false};
    // As thread stacks and the heap come and go.
    std::thread other([&] {
      constexpr std::size_t kBytes = 2u << 20, kAtOnce = 32;
      while (!stop) {
        volatile u8* areas[kAtOnce];
        for (auto& area : areas) {
          void* p = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          if (p == MAP_FAILED) std::abort();
          area = static_cast<volatile u8*>(p);
          *area = 0x5a;
        }
        for (auto& area : areas) {
          if (*area != 0x5a) lost = true;
          ::munmap(const_cast<u8*>(area), kBytes);
        }
      }
    });
    for (int i = 0; i < 1000 && !lost; ++i) {
      auto media = PoolMedia::open(path.str(), {});
      REQUIRE(media.ok());
      (*media)->set_segment_size(kSegment);
      for (u64 at = 0; at < kSize; at += kSegment) CHECK((*media)->view(PoolOffset(at), 1) != nullptr);
    }
    stop = true;
    other.join();
    CHECK_FALSE(lost);
  }
}

TEST_CASE("pool: a part that cannot be mapped is an error for those who want it, no more") {
  TempPath path("/dev/shm");
  auto media = create(path);
  media->set_segment_size(kSegment);
  REQUIRE(::truncate(path.str().c_str(), 8u << 20) == 0);
  CHECK(media->write(PoolOffset(kSegment * 2 - 4096), "x", 1).ok());
  CHECK(media->write(PoolOffset(kSegment * 2), "x", 1).code() == Errc::kIo);
  CHECK(media->view(PoolOffset(kSegment * 2), 1) == nullptr);
  CHECK_FALSE(media->failed());
}

TEST_CASE("memory media: behaves like a pool that never fails") {
  auto media = make_memory_media(kSize, Granularity::kByte);
  CHECK(media->size() == kSize);
  CHECK(media->granularity() == Granularity::kByte);
  u64 value = 9;
  REQUIRE(media->write(PoolOffset(kSize - 8), &value, 8).ok());
  CHECK(media->write(PoolOffset(kSize - 4), &value, 8).code() == Errc::kInvalid);
  CHECK(media->view(PoolOffset(kSize - 8), 8) != nullptr);
  CHECK(media->view(PoolOffset(kSize - 8), 9) == nullptr);
  value = 0;
  REQUIRE(media->read(PoolOffset(kSize - 8), &value, 8).ok());
  CHECK(value == 9);
  REQUIRE(media->punch(PoolOffset(kSize - kBlockSize), kBlockSize).ok());
  REQUIRE(media->read(PoolOffset(kSize - 8), &value, 8).ok());
  CHECK(value == 0);
}
