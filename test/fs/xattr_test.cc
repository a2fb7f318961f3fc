// SPDX-License-Identifier: BSD-3-Clause
#include <sys/xattr.h>

#include "fs/acl.h"
#include "helpers.h"

namespace pindax {
namespace {

using namespace test;

std::string acl_bytes(const std::vector<AclEntry>& entries) {
  std::string out("\2\0\0\0", 4);
  for (const AclEntry& e : entries) {
    const le16 tag(e.tag), permissions(e.permissions);
    const le32 id(e.id);
    out.append(reinterpret_cast<const char*>(&tag), 2).append(reinterpret_cast<const char*>(&permissions), 2);
    out.append(reinterpret_cast<const char*>(&id), 4);
  }
  return out;
}
constexpr u32 kNoId = ~u32{0};
std::string minimal(u16 user, u16 group, u16 other) {
  return acl_bytes({{AclEntry::kUserObj, user, kNoId}, {AclEntry::kGroupObj, group, kNoId},
                    {AclEntry::kOther, other, kNoId}});
}
// user::rwx user:77:rw- group::r-x mask::rwx other::r--
std::string with_user() {
  return acl_bytes({{AclEntry::kUserObj, 7, kNoId}, {AclEntry::kUser, 6, 77}, {AclEntry::kGroupObj, 5, kNoId},
                    {AclEntry::kMask, 7, kNoId}, {AclEntry::kOther, 4, kNoId}});
}

TEST_CASE("fs: attributes of every size come back, also after a remount") {
  TestFs fs;
  const std::vector<std::size_t> sizes{0, 1, 100, 1180, 1190, 1200, 4064, 4065, 20'000, 65'535, 65'536};
  const auto value = [](std::size_t n) {
    std::string v(n, 'v');
    for (std::size_t i = 0; i < n; i += 7) v[i] = static_cast<char>(i);
    return v;
  };
  {
    const auto f = fs.make(*fs.root(), "f");
    for (const std::size_t n : sizes) REQUIRE_OK(fs->set_xattr(*f, "user." + std::to_string(n), value(n), 0, root_caller()));
    const std::string too_large(65'537, 'x');
    REQUIRE_ERROR(fs->set_xattr(*f, "user.big", too_large, 0, root_caller()), kTooLong);
  }
  fs.remount();
  const auto f = fs.at("f");
  CHECK(TestFs::ok(fs->list_xattrs(*f)).size() == sizes.size());
  for (const std::size_t n : sizes) CHECK(TestFs::ok(fs->get_xattr(*f, "user." + std::to_string(n))) == value(n));
  CHECK(fs.stat(*f).blocks_512 > 0);
  for (const std::size_t n : sizes) REQUIRE_OK(fs->remove_xattr(*f, "user." + std::to_string(n)));
  CHECK(fs.stat(*f).blocks_512 == 0);
  CHECK(TestFs::ok(fs->list_xattrs(*f)).empty());
}

TEST_CASE("fs: create and replace flags of attributes are kept") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f");
  const Caller c = root_caller();
  REQUIRE_ERROR(fs->set_xattr(*f, "user.a", "1", XATTR_REPLACE, c), kNoData);
  REQUIRE_OK(fs->set_xattr(*f, "user.a", "1", XATTR_CREATE, c));
  REQUIRE_ERROR(fs->set_xattr(*f, "user.a", "2", XATTR_CREATE, c), kExists);
  REQUIRE_OK(fs->set_xattr(*f, "user.a", std::string(9000, 'z'), XATTR_REPLACE, c));
  REQUIRE_OK(fs->set_xattr(*f, "user.a", "short", 0, c));
  CHECK(TestFs::ok(fs->get_xattr(*f, "user.a")) == "short");
  REQUIRE_ERROR(fs->get_xattr(*f, "user.b"), kNoData);
  REQUIRE_ERROR(fs->remove_xattr(*f, "user.b"), kNoData);
  REQUIRE_ERROR(fs->set_xattr(*f, "strange.a", "1", 0, c), kNotSupported);
  REQUIRE_ERROR(fs->set_xattr(*f, "user.", "1", 0, c), kNotSupported);
  REQUIRE_ERROR(fs->set_xattr(*f, "user." + std::string(255, 'n'), "1", 0, c), kRange);
  const auto l = fs.make(*fs.root(), "l", S_IFLNK | 0777, "t");
  REQUIRE_ERROR(fs->set_xattr(*l, "user.a", "1", 0, c), kPermission);
  REQUIRE_OK(fs->set_xattr(*l, "trusted.a", "1", 0, c));
}

TEST_CASE("fs: hundreds of attributes on one file") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f");
  for (int i = 0; i < 800; ++i) REQUIRE_OK(fs->set_xattr(*f, "user.n" + std::to_string(i), std::to_string(i), 0, root_caller()));
  CHECK(TestFs::ok(fs->list_xattrs(*f)).size() == 800);
  for (int i = 0; i < 800; ++i) CHECK(TestFs::ok(fs->get_xattr(*f, "user.n" + std::to_string(i))) == std::to_string(i));
  REQUIRE_OK(fs->unlink(*fs.root(), "f"));
}

TEST_CASE("fs: an unlinked file's attributes are freed with it") {
  TestFs fs;
  const u64 before = TestFs::ok(fs->statfs()).f_bfree;
  fs.make(*fs.root(), "keep");  // the block of inodes stays
  const u64 with_inodes = TestFs::ok(fs->statfs()).f_bfree;
  CHECK(with_inodes < before);
  for (int i = 0; i < 5; ++i) {
    REQUIRE_OK(fs->set_xattr(*fs.make(*fs.root(), "f"), "user.big", std::string(60'000, 'x'), 0, root_caller()));
    REQUIRE_OK(fs->unlink(*fs.root(), "f"));
    REQUIRE_OK(fs->clean_orphans());
  }
  REQUIRE_OK(fs->allocator().reclaim());
  CHECK(TestFs::ok(fs->statfs()).f_bfree == with_inodes);
}

TEST_CASE("fs: a file's busy policy is an attribute") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f");
  const Caller c = root_caller();
  REQUIRE_ERROR(fs->get_xattr(*f, "user.pindax.on_busy"), kNoData);
  for (const char* text : {"wait", "refuse", "refuse=5", "quarantine", "evict=0.250"}) {
    REQUIRE_OK(fs->set_xattr(*f, "user.pindax.on_busy", text, 0, c));
    CHECK(TestFs::ok(fs->get_xattr(*f, "user.pindax.on_busy")) == text);
  }
  REQUIRE_OK(fs->set_xattr(*f, "user.pindax.on_busy", "wait=5", 0, c));
  CHECK(TestFs::ok(fs->get_xattr(*f, "user.pindax.on_busy")) == "refuse=5");
  REQUIRE_ERROR(fs->set_xattr(*f, "user.pindax.on_busy", "hope", 0, c), kInvalid);
  REQUIRE_ERROR(fs->set_xattr(*f, "user.pindax.on_busy", "wait=x", 0, c), kInvalid);
  CHECK(TestFs::ok(fs->list_xattrs(*f)).size() == 1);
  REQUIRE_OK(fs->remove_xattr(*f, "user.pindax.on_busy"));
  CHECK(TestFs::ok(fs->list_xattrs(*f)).empty());
}

TEST_CASE("fs: an access list sets the mode, and goes away if the mode says it all") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f", S_IFREG | 0600);
  const Caller c = root_caller();
  REQUIRE_OK(fs->set_xattr(*f, kAccessAcl, with_user(), 0, c));
  CHECK(fs.stat(*f).mode == (S_IFREG | 0774));
  CHECK(TestFs::ok(fs->get_xattr(*f, kAccessAcl)) == with_user());
  REQUIRE_OK(fs->access(*f, 6, user_caller(77, 1)));
  REQUIRE_ERROR(fs->access(*f, 1, user_caller(77, 1)), kAccess);
  REQUIRE_ERROR(fs->access(*f, 2, user_caller(78, 1)), kAccess);

  SetAttributes chmod;
  chmod.valid = SetAttributes::kMode;
  chmod.mode = 0640;
  REQUIRE_OK(fs->set_attributes(*f, chmod, c));
  const Acl acl = TestFs::ok(Acl::parse(TestFs::ok(fs->get_xattr(*f, kAccessAcl))));
  CHECK(acl.mode_bits() == 0640);
  REQUIRE_ERROR(fs->access(*f, 2, user_caller(77, 1)), kAccess);  // masked
  REQUIRE_OK(fs->access(*f, 4, user_caller(77, 1)));

  REQUIRE_OK(fs->set_xattr(*f, kAccessAcl, minimal(6, 4, 0), 0, c));
  REQUIRE_ERROR(fs->get_xattr(*f, kAccessAcl), kNoData);
  CHECK(fs.stat(*f).mode == (S_IFREG | 0640));
}

TEST_CASE("fs: access lists that are none are refused") {
  TestFs fs;
  const auto f = fs.make(*fs.root(), "f");
  const Caller c = root_caller();
  REQUIRE_ERROR(fs->set_xattr(*f, kAccessAcl, "x", 0, c), kInvalid);
  REQUIRE_ERROR(fs->set_xattr(*f, kAccessAcl, acl_bytes({{AclEntry::kUserObj, 7, kNoId}}), 0, c), kInvalid);
  REQUIRE_ERROR(fs->set_xattr(*f, kAccessAcl, minimal(9, 0, 0), 0, c), kInvalid);
  REQUIRE_ERROR(fs->set_xattr(*f, kDefaultAcl, minimal(7, 5, 0), 0, c), kAccess);
  // A name without a mask.
  REQUIRE_ERROR(fs->set_xattr(*f, kAccessAcl,
                              acl_bytes({{AclEntry::kUserObj, 7, kNoId}, {AclEntry::kUser, 7, 5},
                                         {AclEntry::kGroupObj, 7, kNoId}, {AclEntry::kOther, 7, kNoId}}),
                              0, c),
                kInvalid);
}

TEST_CASE("fs: a default list is inherited and the umask then does not count") {
  TestFs fs;
  const auto d = fs.make(*fs.root(), "d", S_IFDIR | 0777);
  const Caller c = root_caller();
  REQUIRE_OK(fs->set_xattr(*d, kDefaultAcl, with_user(), 0, c));
  FileSystem::NewInode what;
  what.mode = S_IFREG | 0666;
  const auto f = TestFs::ok(fs->create(*d, "f", what, user_caller(1, 1, 077)));
  CHECK(fs.stat(*f).mode == (S_IFREG | 0664));
  const Acl acl = TestFs::ok(Acl::parse(TestFs::ok(fs->get_xattr(*f, kAccessAcl))));
  CHECK(acl.mode_bits() == 0664);
  REQUIRE_ERROR(fs->get_xattr(*f, kDefaultAcl), kNoData);
  what.mode = S_IFDIR | 0777;
  const auto sub = TestFs::ok(fs->create(*d, "sub", what, user_caller(1, 1, 077)));
  CHECK(TestFs::ok(fs->get_xattr(*sub, kDefaultAcl)) == with_user());
  CHECK(fs.stat(*sub).mode == (S_IFDIR | 0774));
  REQUIRE_OK(fs->set_xattr(*d, kDefaultAcl, minimal(7, 5, 0), 0, c));
  what.mode = S_IFREG | 0666;
  const auto g = TestFs::ok(fs->create(*d, "g", what, user_caller(1, 1, 077)));
  CHECK(fs.stat(*g).mode == (S_IFREG | 0640));
  REQUIRE_ERROR(fs->get_xattr(*g, kAccessAcl), kNoData);
}

}  // namespace
}  // namespace pindax
