// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/pool.h"

#include <sys/stat.h>

#include <span>

#include "fs/file_system_impl.h"

namespace pindax::fuzz {
namespace {

const std::string kBootId(16, 'b');

template <class T>
T sure(Result<T> r) {
  FUZZ_REQUIRE(r.ok(), r.status().message());
  return std::move(r).value();
}
void sure(const Status& s) { FUZZ_REQUIRE(s.ok(), s.message()); }

InodeRef make(FileSystem& fs, const std::string& path, u32 mode, std::string_view target = {}) {
  const std::size_t slash = path.rfind('/');
  InodeRef dir = sure(fs.resolve(path.substr(0, slash)));
  return sure(fs.create(*dir, path.substr(slash + 1), {.mode = mode, .symlink_target = target}, {}));
}

void write(FileSystem& fs, const InodeRef& file, u64 offset, const std::string& text) {
  FileSystem::WriteRequest request;
  request.offset = offset;
  request.data = std::as_bytes(std::span(text));
  fs.write(file, request, [&](Result<u64> n) { sure(n.status()); });
  executor().drain();
}

void fill(FileSystem& fs) {
  for (const char* d : {"/a", "/a/b", "/big", "/empty"}) make(fs, d, S_IFDIR | 0755);
  for (int i = 0; i < 12; ++i)
    write(fs, make(fs, "/a/f" + std::to_string(i), S_IFREG | 0644), 0, "contents " + std::to_string(i));
  for (int i = 0; i < 220; ++i) make(fs, "/big/entry-with-a-long-name-" + std::to_string(i), S_IFREG | 0600);
  // Holes keep the extents apart: a tree of several leaves.
  InodeRef sparse = make(fs, "/a/b/sparse", S_IFREG | 0644);
  for (u64 i = 0; i < 150; ++i) write(fs, sparse, i * 3 * kBlockSize, "block " + std::to_string(i));
  InodeRef few = make(fs, "/a/few", S_IFREG | 0644);
  for (u64 i = 0; i < 4; ++i) write(fs, few, i * 3 * kBlockSize, "few " + std::to_string(i));
  fs.fallocate(few, 0, 32 * kBlockSize, 4 * kBlockSize, {}, [](const Status& s) { sure(s); });
  executor().drain();
  make(fs, "/a/short", S_IFLNK | 0777, "target");
  make(fs, "/a/long", S_IFLNK | 0777, std::string(1000, 'l'));
  make(fs, "/a/pipe", S_IFIFO | 0644);
  InodeRef linked = make(fs, "/a/linked", S_IFREG | 0644);
  for (int i = 0; i < 120; ++i)
    sure(fs.link(*linked, *sure(fs.resolve(i % 2 == 0 ? "/a/b" : "/empty")), "link" + std::to_string(i)));
  for (int i = 0; i < 20; ++i)
    sure(fs.set_xattr(*few, "user.n" + std::to_string(i), std::string(300, static_cast<char>('a' + i)), 0, {}));
  sure(fs.set_xattr(*few, "user.large", std::string(9000, 'x'), 0, {}));
  Transaction tx(fs.store());
  const auto run = sure(fs.allocator().allocate(tx, {.wanted = 7}));
  sure(fs.allocator().quarantine(tx, run, format::QuarantineReason::kPinned));
  sure(tx.commit().status());
}

void fill_after(FileSystem& fs) {
  for (int i = 0; i < 8; ++i)
    write(fs, make(fs, "/a/b/late" + std::to_string(i), S_IFREG | 0644), 0, std::string(9000, 'p'));
  InodeRef orphan = sure(fs.resolve("/a/f3"));
  sure(fs.unlink(*sure(fs.resolve("/a")), "f3"));
  sure(fs.unlink(*sure(fs.resolve("/a")), "long"));
}

}  // namespace

Executor& executor() {
  static Executor instance(1);
  return instance;
}

std::unique_ptr<FileSystem> mount(Media& media, const MountChoice& choice, Status* why) {
  MountOptions options;
  options.background = false;
  options.read_only = choice.read_only;
  options.sync = choice.posix ? SyncMode::kPosix : SyncMode::kStrict;
  options.boot_id = choice.same_boot ? kBootId : std::string(16, 'c');
  auto mounted = FileSystem::mount(media, executor(), options);
  if (why != nullptr) *why = mounted.status();
  executor().drain();
  return mounted.ok() ? std::move(*mounted) : nullptr;
}

void end(std::unique_ptr<FileSystem> fs, bool killed) {
  if (!fs) return;
  executor().drain();
  if (!killed) (void)fs->unmount();
  executor().drain();
  static_cast<FileSystemImpl&>(*fs).take_dirty();
  fs.reset();
  executor().drain();
}

Pool::Pool(Left left)
    : image_(kPoolBytes), media_(std::make_unique<RecordingMedia>(kPoolBytes, Granularity::kPage)) {
  sure(make_file_system(*media_, {.label = "fuzz", .zeroed = true}));
  auto fs = mount(*media_, {});
  FUZZ_REQUIRE(fs != nullptr, "the new pool");
  fill(*fs);
  end(std::move(fs), false);
  if (left == Left::kKilled) {
    fs = mount(*media_, {.posix = true});
    FUZZ_REQUIRE(fs != nullptr, "the filled pool");
    fill_after(*fs);
    end(std::move(fs), true);
  }
  sure(media_->read(PoolOffset(0), image_.data(), kPoolBytes));
  media_->load(image_.data());
  format::Superblock sb;
  std::memcpy(&sb, image_.data(), sizeof sb);
  geometry_ = format::geometry_of(sb);
  find_structures();
}

void Pool::find_structures() {
  structures_ = {0, 16, geometry_.journal_block, geometry_.journal_block + 1};
  for (u64 block = 1; block < geometry_.pool_blocks; ++block) {
    u32 magic;
    std::memcpy(&magic, image_.data() + block * kBlockSize, sizeof magic);
    for (const u32 known : {format::kStateMagic, format::kAgMagic, format::kBitmapMagic, format::kInodeMagic,
                            format::kNodeMagic, format::kBlobMagic})
      if (magic == known) structures_.push_back(block);
  }
}

void Pool::seal(u64 block, u32 offset) {
  alignas(64) std::byte bytes[kBlockSize];
  std::memcpy(bytes, media_->bytes() + block * kBlockSize, kBlockSize);
  u32 magic;
  std::memcpy(&magic, image_.data() + block * kBlockSize, sizeof magic);
  if (block == 0 || block == 16) format::seal(*reinterpret_cast<format::Superblock*>(bytes));
  else if (magic == format::kJournalMagic) format::seal(*reinterpret_cast<format::JournalHeader*>(bytes));
  else if (magic == format::kStateMagic) format::seal(*reinterpret_cast<format::StateRecord*>(bytes));
  else if (magic == format::kAgMagic) format::seal(*reinterpret_cast<format::AgHeader*>(bytes));
  else if (magic == format::kBitmapMagic) format::seal(*reinterpret_cast<format::BitmapBlock*>(bytes));
  else if (magic == format::kInodeMagic) format::seal(reinterpret_cast<format::Inode*>(bytes)[offset / format::kInodeSize]);
  else if (magic == format::kNodeMagic) format::seal_node(bytes);
  else if (magic == format::kBlobMagic) format::seal_blob(bytes);
  media_->poke(block * kBlockSize, bytes, kBlockSize);
}

void Pool::edit(Input& in) {
  const u8 how = in.byte();
  const u64 block = pick_structure(in);
  const u32 offset = in.half() % kBlockSize;
  const u64 at = block * kBlockSize + offset;
  const auto store = [&](const void* bytes, u64 length) {
    media_->poke(at, bytes, std::min<u64>(length, kBlockSize - offset));
  };
  switch (how % 8) {
    case 0: {
      const std::string_view bytes = in.bytes(1 + in.byte() % 24);
      store(bytes.data(), bytes.size());
      break;
    }
    case 1: {
      const u64 number = in.odd_number();
      store(&number, sizeof number);
      break;
    }
    case 2: {
      const u64 number = pick_structure(in);
      store(&number, sizeof number);
      break;
    }
    case 3: {
      const u64 number = in.odd_number();
      store(&number, sizeof(u32));
      break;
    }
    case 4: {
      const u64 number = in.odd_number();
      store(&number, sizeof(u16));
      break;
    }
    case 5: {  // another block's bytes, with a place that is right
      alignas(8) std::byte bytes[kBlockSize];
      std::memcpy(bytes, media_->bytes() + pick_structure(in) * kBlockSize, kBlockSize);
      if ((how & 0x40) != 0) std::memcpy(bytes + 8, &block, sizeof block);
      media_->poke(block * kBlockSize, bytes, kBlockSize);
      break;
    }
    case 6: {
      const std::byte zeros[kBlockSize] = {};
      store(zeros, 1 + in.half() % kBlockSize);
      break;
    }
    default: {
      const u8 flipped = static_cast<u8>(static_cast<u8>(media_->bytes()[at]) ^ (1u << (how >> 3 & 7)));
      store(&flipped, 1);
    }
  }
  if ((how & 0x80) == 0) seal(block, offset);
}

}  // namespace pindax::fuzz
