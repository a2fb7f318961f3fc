// SPDX-License-Identifier: BSD-3-Clause
//
// Layout and ClientLayout in one object over a Core.
#pragma once

#include "layout/break.h"

namespace pindax {

class LayoutImpl final : public Layout, public ClientLayout {
 public:
  LayoutImpl(Executor& executor, const LayoutOptions& options) : core_(std::make_shared<Core>(executor, options)) {}
  ~LayoutImpl() override;

  // ---- Layout (layout_impl.cc) ----
  InodeLayoutPtr attach(InodeNo ino) override;
  void set_kernel_cache(KernelCache* cache) override { core_->kernel_cache.store(cache); }
  void set_quarantine_owner(QuarantineOwner* owner) override { core_->quarantine_owner.store(owner); }
  void with_shared(InodeLayout& inode, ByteRange range, std::function<void(SharedHold)> go) override;
  std::shared_ptr<Change> with_fill(InodeLayout& inode, ByteRange range, bool writable,
                                    std::function<void(Result<SharedHold>)> go) override;
  void with_cache_dropped(InodeLayout& inode, ByteRange range, CachedPages which,
                          std::function<void(Result<SharedHold>)> go) override;
  u64 first_cached(InodeLayout& inode, ByteRange range) const override;
  bool may_write_back(InodeLayout& inode, ByteRange range) override;
  std::shared_ptr<Change> change(InodeLayout& inode, const ChangeRequest& request,
                                 std::function<Status(const ChangeGrant&)> apply,
                                 std::function<void(Status)> done) override;
  void set_shared(InodeLayout& inode, ByteRange range, bool shared) override;
  void set_damaged(InodeLayout& inode) override;
  bool has_kernel_pages(InodeLayout& inode) const override;
  std::vector<ByteRange> maybe_dirty(InodeLayout& inode) const override;
  bool ever_mapped(const InodeLayout& inode) const override { return inode.ever_mapped.load(); }
  bool in_use(const InodeLayout& inode) const override;

  // ---- ClientLayout (client_layout.cc) ----
  void add_client(std::shared_ptr<ClientPort> client) override;
  void client_gone(ClientPort& client) override;
  void client_memory_gone(ClientPort& client) override;
  Mapping* add_mapping(InodeLayout& inode, ClientPort& client, u32 id, ByteRange range, bool writable,
                       bool indirect) override;
  void remove_mapping(Mapping* mapping) override;
  bool id_reusable(ClientPort& client, u32 id) override;
  u64 generation(Mapping& mapping) override;
  void grant(Mapping& mapping, const SharedHold& hold, const std::vector<GrantPiece>& pieces) override;
  void recall_acknowledged(ClientPort& client, u64 recall) override;
  void with_fault(Mapping& mapping, ByteRange range, FaultKind kind, std::function<void(Result<SharedHold>)> go) override;
  void doorbell(ClientPort& client) override;
  std::shared_ptr<Change> pin(Mapping& mapping, const PinRequest& request, std::function<void(Result<u64>)> done) override;
  Status unpin(ClientPort& client, u64 pin) override;
  void set_uncommitted(InodeLayout& inode, bool uncommitted) override;
  void set_size(InodeLayout& inode, u64 size_bytes) override;

  // ---- Listings (listings.cc) ----
  std::vector<PinRow> list_pins() override;
  std::vector<PinRow> list_stuck_pins() override;
  std::vector<ChangeRow> list_changes() override;
  std::vector<MappingRow> list_mappings() override;
  LayoutTotals totals() const override;

 private:
  static void with_hold(InodeLayout& inode, ByteRange range, RangeLock::Mode mode, std::function<void(SharedHold)> go);
  std::vector<std::shared_ptr<Break>> operations();
  const std::shared_ptr<Core> core_;
};

}  // namespace pindax
