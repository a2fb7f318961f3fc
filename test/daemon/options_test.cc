// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/options.h"

#include "catch.h"

namespace pindax {
namespace {

Result<DaemonOptions> parse(std::vector<std::string> arguments) { return parse_arguments(arguments); }
Result<DaemonOptions> with(const std::string& list) { return parse({"/pool", "/mnt", "-o", list}); }

TEST_CASE("daemon: pool and mount point become absolute paths") {
  auto o = parse({"pool", "/a/../mnt/"});
  REQUIRE(o.ok());
  CHECK(o->pool.starts_with("/"));
  CHECK(o->pool.ends_with("/pool"));
  CHECK(o->mount_point == "/mnt");
  CHECK_FALSE(o->foreground);
  CHECK_FALSE(o->sync.has_value());
}

TEST_CASE("daemon: a pool without a mount point needs --no-mount and a socket") {
  CHECK(parse({"/pool"}).code() == Errc::kInvalid);
  CHECK(parse({}).code() == Errc::kInvalid);
  CHECK(parse({"--no-mount", "/pool"}).code() == Errc::kInvalid);
  CHECK(parse({"--no-mount", "--socket", "/s", "/pool", "/mnt"}).code() == Errc::kInvalid);
  CHECK(parse({"/pool", "/mnt", "/more"}).code() == Errc::kInvalid);
  CHECK(parse({"", "/mnt"}).code() == Errc::kInvalid);
  CHECK(parse({"/pool", ""}).code() == Errc::kInvalid);
  auto o = parse({"--no-mount", "--socket", "/run/x.sock", "/pool"});
  REQUIRE(o.ok());
  CHECK(o->socket_path == "/run/x.sock");
  CHECK(o->mount_point.empty());
}

TEST_CASE("daemon: mount options set what they name") {
  auto o = with(
      "posix,ro,noatime,on_busy=refuse,busy_deadline=2.5,recall_deadline=200ms,commit_interval=1,long_term_pins=1.5G,lease_deadline=2,"
      "stuck_after=30s,"
      "share_userfaultfd,attr_timeout=0.5,allow_other,threads=7");
  REQUIRE(o.ok());
  CHECK(o->sync == SyncMode::kPosix);
  CHECK(o->fs.read_only);
  CHECK(o->fs.access_times == MountOptions::AccessTimes::kNever);
  CHECK(o->fs.layout.policy == BusyPolicy::kRefuse);
  CHECK(o->fs.layout.deadline == std::chrono::milliseconds(2500));
  CHECK(o->fs.layout.recall_deadline == std::chrono::milliseconds(200));
  CHECK(o->fs.commit_interval == std::chrono::seconds(1));
  CHECK(o->fs.layout.allow_longterm);
  CHECK(o->fs.layout.longterm_quota_bytes == u64{3} << 29);
  CHECK(o->fs.layout.lease_deadline == std::chrono::seconds(2));
  CHECK(o->fs.layout.stuck_after == std::chrono::seconds(30));
  CHECK(o->share_userfaultfd);
  CHECK(o->attr_timeout_s == 0.5);
  CHECK(o->allow_other);
  CHECK(o->threads == 7);
}

TEST_CASE("daemon: norecovery is a word for what ro does anyway, and means nothing without it") {
  CHECK(parse({"/pool", "/mnt", "-o", "ro,norecovery"}).ok());
  const auto refused = parse({"/pool", "/mnt", "-o", "norecovery"});
  CHECK(refused.code() == Errc::kInvalid);
  CHECK(std::string(refused.status().message()).find("norecovery goes with ro") != std::string::npos);
}

TEST_CASE("daemon: of the words for access times the last one counts") {
  using AccessTimes = MountOptions::AccessTimes;
  CHECK(with("rw").value().fs.access_times == AccessTimes::kRelative);
  CHECK(with("noatime,strictatime").value().fs.access_times == AccessTimes::kAlways);
  CHECK(with("strictatime,relatime").value().fs.access_times == AccessTimes::kRelative);
  CHECK(with("nodiratime").value().fs.nodiratime);
  CHECK_FALSE(with("nodiratime,diratime").value().fs.nodiratime);
}

TEST_CASE("daemon: a policy brings its time along, as the attribute of a file does") {
  auto o = with("on_busy=wait=1.5");
  REQUIRE(o.ok());
  CHECK(o->fs.layout.policy == BusyPolicy::kRefuse);
  CHECK(o->fs.layout.deadline == std::chrono::milliseconds(1500));
  o = with("on_busy=evict=200ms,long_term_pins");
  REQUIRE(o.ok());
  CHECK(o->fs.layout.policy == BusyPolicy::kEvict);
  CHECK(o->fs.layout.deadline == std::chrono::milliseconds(200));
  CHECK(o->fs.layout.allow_longterm);
  CHECK(o->fs.layout.longterm_quota_bytes == ~u64{0});
  o = with("on_busy=quarantine");
  REQUIRE(o.ok());
  CHECK_FALSE(o->fs.layout.deadline.has_value());
}

TEST_CASE("daemon: lists add up over several -o and the attached form") {
  auto o = parse({"-oro", "/pool", "-o", "dev,suid", "/mnt", "-f"});
  REQUIRE(o.ok());
  CHECK(o->fs.read_only);
  CHECK(o->foreground);
  CHECK(o->kernel_options == std::vector<std::string>{"dev", "suid"});
}

TEST_CASE("daemon: what fstab adds is ignored") {
  CHECK(with("defaults,rw,auto,nofail,_netdev,x-systemd.automount,relatime,user,default_permissions,").ok());
}

TEST_CASE("daemon: an escaped comma stays in the value") {
  auto o = with("fsname=a\\,b\\\\c,ro");
  REQUIRE(o.ok());
  CHECK(o->source == "a,b\\c");
  CHECK(o->fs.read_only);
}

TEST_CASE("daemon: an unknown or unusable option is named in the error") {
  for (const char* list :
       {"stict", "on_busy=later", "on_busy=wait=", "on_busy=wait=5parsecs", "long_term_pins=many", "stuck_after=-1", "busy_deadline=soon", "busy_deadline=-1", "foo=bar", "commit_interval=0",
        "threads=1", "subtype=other", "loglevel=loud", "attr_timeout="}) {
    auto o = with(list);
    CHECK(o.code() == Errc::kInvalid);
    const std::string name = std::string(list).substr(0, std::string(list).find('='));
    CHECK(std::string(o.status().message()).find(name) != std::string::npos);
  }
  CHECK(parse({"/pool", "/mnt", "--frobnicate"}).code() == Errc::kInvalid);
  CHECK(parse({"/pool", "/mnt", "-o"}).code() == Errc::kInvalid);
}

}  // namespace
}  // namespace pindax
