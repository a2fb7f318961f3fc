// SPDX-License-Identifier: BSD-3-Clause
//
// The beginning of a session: hello, gates, the client's own descriptor of the pool, its slots, doorbell and userfaultfd.
#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>

#include "server/session.h"

namespace pindax {

Status Session::handle_hello(Packet& p) {
  proto::HelloBody hello;
  PINDAX_TRY(take_body(p, hello));
  if (hello.version != proto::kProtocolVersion) {
    reply(p.header.request, Status(Errc::kIncompatible, "the library and the daemon speak different protocol versions: "
                                                        "install both from the same release"));
    return {};
  }
  if ((hello.flags & ~proto::kHelloControlOnly) != 0) return Status(Errc::kProtocol, "unknown flags in hello");
  Token token;
  std::copy(std::begin(hello.token), std::end(hello.token), token.begin());
  if (std::any_of(token.begin(), token.end(), [](u8 b) { return b != 0; })) {
    if (auto grant = context_.tokens.redeem(token, peer_.pid); !grant.ok()) {
      reply(p.header.request, grant.status());
      return {};
    }
  }
  control_only_ = (hello.flags & proto::kHelloControlOnly) != 0;

  proto::WelcomeBody welcome{};
  welcome.version = proto::kProtocolVersion;
  welcome.session = id();
  welcome.pool_bytes = context_.fs.media().size();
  welcome.granularity = static_cast<u32>(context_.fs.media().granularity());
  welcome.sync_mode = static_cast<u32>(context_.fs.options().sync);
  std::string pool_path;
  if (const PoolMedia* pool = context_.options.pool) {
    welcome.pool_device = context_.pool_identity.device;
    welcome.pool_inode = context_.pool_identity.inode;
    pool_path = pool->path();
    if (pool->kind() == PoolKind::kRamFile && !pool->huge_pages()) welcome.flags |= proto::kWelcomeWatchPool;
  }
  welcome.pool_path_bytes = static_cast<u32>(pool_path.size());
  welcome.mount_path_bytes = static_cast<u32>(context_.options.mount_point.size());
  std::vector<UniqueFd> descriptors;
  if (!control_only_) {
    PINDAX_ASSIGN(gates_, make_gate_area(id()));
    descriptors.push_back(std::move(gates_.fd));
    if (context_.options.share_userfaultfd) {
      UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
      if (device) {
        welcome.flags |= proto::kWelcomeShareUserfaultfd;
        descriptors.push_back(std::move(device));
      }
    }
  }
  const std::string paths = pool_path + context_.options.mount_point;
  phase_ = Phase::kWelcomed;
  reply_body(p.header.request, welcome, std::as_bytes(std::span(paths.data(), paths.size())), std::move(descriptors));
  return {};
}

Result<std::string> Session::accept_pool(UniqueFd& fd, bool writable) {
  PoolMedia* pool = context_.options.pool;
  if (pool == nullptr) return Status(Errc::kProtocol, "a pool descriptor where there is no pool to map");
  PINDAX_ASSIGN(const DescriptorIdentity identity, identify_descriptor(fd.get(), &context_.pool_identity));
  if (identity.kind != DescriptorKind::kPool) return std::string("the file the client opened is not the daemon's pool");
  const int flags = ::fcntl(fd.get(), F_GETFL);
  const int access = flags & O_ACCMODE;
  if ((flags & O_PATH) != 0 || (access != O_RDWR && (writable || access != O_RDONLY)))
    return Status(Errc::kProtocol, "the pool descriptor's access mode is not the one announced");
  // A read-only description may carry a shared lock just as well.
  PINDAX_ASSIGN(const u32 witness, context_.witnesses.allocate(*pool));
  if (Status s = take_witness(fd.get(), witness); !s.ok()) {
    context_.witnesses.release(witness);
    return s.with_context("the witness lock");
  }
  witness_.store(witness);
  fd.reset();  // the pool itself: closing it cannot hang, and our copy would keep the lock alive
  return std::string();
}

Status Session::handle_attach_pool(Packet& p) {
  proto::AttachPoolBody attach;
  PINDAX_TRY(take_body(p, attach));
  if (control_only_) return Status(Errc::kProtocol, "a tool without shared memory attaches nothing");
  if (attach.has_pool > 1 || attach.pool_writable > 1 || attach.has_userfaultfd > 1 || attach.revocable > 1 ||
      (attach.revocable == 1 && (attach.has_userfaultfd == 0 || attach.pool_writable == 0)))
    return Status(Errc::kProtocol, "nonsense in the attach message");
  if (p.descriptors.size() != 2u + attach.has_pool + attach.has_userfaultfd)
    return Status(Errc::kProtocol, "the attach message brings the wrong number of descriptors");
  std::size_t next = attach.has_pool;
  UniqueFd& slots = p.descriptors[next++];
  UniqueFd& doorbell = p.descriptors[next++];

  PINDAX_ASSIGN(slots_, map_slot_area(slots.get()));
  slots.reset();
  PINDAX_ASSIGN(const DescriptorIdentity bell, identify_descriptor(doorbell.get(), nullptr));
  if (bell.kind != DescriptorKind::kEventfd) return Status(Errc::kProtocol, "the doorbell is not an eventfd");
  if (attach.has_userfaultfd == 1) {
    UniqueFd& uffd = p.descriptors[next++];
    PINDAX_ASSIGN(const DescriptorIdentity kind, identify_descriptor(uffd.get(), nullptr));
    if (kind.kind != DescriptorKind::kUserfaultfd) return Status(Errc::kProtocol, "the userfaultfd is something else");
    userfaultfd_ = std::move(uffd);
  }
  faults_by_signals_ = attach.has_userfaultfd == 0;
  std::string reason;
  if (context_.options.pool == nullptr) {
    reason = "the daemon's pool is in its own memory";
  } else if (attach.has_pool == 0) {
    reason = "the client could not open the pool";
  } else if (peer_.pid == 0) {
    reason = "the client's process is in a foreign pid namespace";
  } else {
    PINDAX_ASSIGN(reason, accept_pool(p.descriptors[0], attach.pool_writable == 1));
  }
  direct_.store(reason.empty());
  const PoolMedia* pool = context_.options.pool;
  revocable_.store(reason.empty() && attach.revocable == 1 && pool->kind() == PoolKind::kRamFile);
  doorbell_ = std::move(doorbell);
  in_layout_ = true;
  phase_ = Phase::kAttached;
  context_.clients().add_client(shared_from_this());
  attached_.store(true);
  struct epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = watch_tag(id(), WatchKind::kDoorbell);
  ::epoll_ctl(context_.epoll_fd, EPOLL_CTL_ADD, doorbell_.get(), &event);
  const proto::AttachPoolReply body{.direct = reason.empty() ? 1u : 0u, .reserved = 0};
  reply_body(p.header.request, body, std::as_bytes(std::span(reason.data(), reason.size())));
  return {};
}

}  // namespace pindax
