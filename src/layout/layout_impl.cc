// SPDX-License-Identifier: BSD-3-Clause
#include "layout/layout_impl.h"

#include "base/steps.h"

namespace pindax {

std::unique_ptr<Layout> Layout::create(Executor& executor, const LayoutOptions& options) {
  return std::make_unique<LayoutImpl>(executor, options);
}

ClientLayout& client_layout(Layout& layout) { return static_cast<LayoutImpl&>(layout); }

LayoutImpl::~LayoutImpl() {
  core_->kernel_cache.store(nullptr);
  core_->quarantine_owner.store(nullptr);
}

InodeLayoutPtr LayoutImpl::attach(InodeNo ino) {
  auto inode = std::make_shared<InodeLayout>(core_, ino);
  inode->self = inode;
  return InodeLayoutPtr(inode.get());
}

void LayoutImpl::with_hold(InodeLayout& inode, ByteRange range, RangeLock::Mode mode, std::function<void(SharedHold)> go) {
  auto state = std::make_unique<SharedHold::State>(inode.shared_from_this());
  SharedHold::State* s = state.release();  // owned by the continuation, or by us if the hold came at once
  s->go = std::move(go);
  const bool held = inode.range_lock.acquire(s->own, range, mode, [s] {
    auto run = std::move(s->go);
    run(SharedHold(std::unique_ptr<SharedHold::State>(s)));
  });
  if (!held) return;
  auto run = std::move(s->go);
  run(SharedHold(std::unique_ptr<SharedHold::State>(s)));
}

void LayoutImpl::with_shared(InodeLayout& inode, ByteRange range, std::function<void(SharedHold)> go) {
  with_hold(inode, range, RangeLock::Mode::kShared, std::move(go));
}

std::shared_ptr<Change> LayoutImpl::with_fill(InodeLayout& inode, ByteRange range, bool writable,
                                              std::function<void(Result<SharedHold>)> go) {
  const ByteRange pages = range.empty() ? range : block_aligned(range);
  std::vector<PageCacheOwners::Drop> drops;
  {
    // C4: this fill, not yet answered, proves that its pages are not cached. What waits for them to drain goes on, and
    // the fill queues behind it.
    MutexLock lock(inode.mutex);
    drops = inode.pages.fill_in_hand(pages);
    inode.recheck();
  }
  inode.issue(drops);
  PINDAX_STEP("layout.fill_in_hand");
  auto fill = Break::fill(inode.shared_from_this(), pages, writable, std::move(go));
  fill->begin();
  return fill;
}

// Fills hold their range exclusively: what is not cached under the hold stays so until it ends.
void LayoutImpl::with_cache_dropped(InodeLayout& inode, ByteRange range, CachedPages which,
                                    std::function<void(Result<SharedHold>)> go) {
  with_hold(inode, range, RangeLock::Mode::kShared,
            [in = inode.shared_from_this(), range, which, go = std::move(go)](SharedHold hold) mutable {
              bool cached = false;
              {
                MutexLock lock(in->mutex);
                cached = which == CachedPages::kAll ? in->pages.owns(range) : in->pages.may_be_dirty(range);
              }
              if (!cached) return go(std::move(hold));
              hold.release();
              Break::access(in, range, std::move(go))->begin();
            });
}

u64 LayoutImpl::first_cached(InodeLayout& inode, ByteRange range) const {
  MutexLock lock(inode.mutex);
  return inode.pages.first(range);
}

// C3. Only a change that is being applied makes a write-back pointless: until then it may still fail, and the data count.
bool LayoutImpl::may_write_back(InodeLayout& inode, ByteRange range) {
  MutexLock lock(inode.mutex);
  return std::none_of(inode.breaks.begin(), inode.breaks.end(),
                      [&](const std::shared_ptr<Break>& b) { return b->applying_in(range); });
}

std::shared_ptr<Change> LayoutImpl::change(InodeLayout& inode, const ChangeRequest& request,
                                           std::function<Status(const ChangeGrant&)> apply,
                                           std::function<void(Status)> done) {
  auto b = Break::change(inode.shared_from_this(), request, std::move(apply), std::move(done));
  b->begin();
  return b;
}

void LayoutImpl::set_shared(InodeLayout& inode, ByteRange range, bool shared) {
  MutexLock lock(inode.mutex);
  if (shared) inode.shared.assign(block_aligned(range), true);
  else inode.shared.erase(block_aligned(range));
  inode.mappings.each_overlapping(block_aligned(range), [&](Mapping& m) NO_THREAD_SAFETY_ANALYSIS {
    m.gate.set_slow(inode.slow_reasons(m.range));
    if (!shared) m.gate.count_out(nullptr, core_->generations.next());
  });
}

void LayoutImpl::set_damaged(InodeLayout& inode) {
  MutexLock lock(inode.mutex);
  if (std::exchange(inode.damaged, true)) return;
  inode.mappings.each_overlapping({0, ~u64{0}}, [&](Mapping& m) NO_THREAD_SAFETY_ANALYSIS { m.gate.set_slow(inode.slow_reasons(m.range)); });
}

bool LayoutImpl::has_kernel_pages(InodeLayout& inode) const {
  MutexLock lock(inode.mutex);
  return !inode.pages.empty();
}

std::vector<ByteRange> LayoutImpl::maybe_dirty(InodeLayout& inode) const {
  MutexLock lock(inode.mutex);
  return inode.pages.maybe_dirty();
}

bool LayoutImpl::in_use(const InodeLayout& inode) const {
  auto& in = const_cast<InodeLayout&>(inode);  // a look may find that a removed mapping is over
  std::vector<std::shared_ptr<Mapping>> removed;
  {
    MutexLock lock(in.mutex);
    in.mappings.each([&](Mapping& m) {
      if (m.removed) removed.push_back(m.shared_from_this());
    });
  }
  for (const auto& m : removed) in.purge(m);
  MutexLock lock(in.mutex);
  return !in.mappings.empty() || !in.breaks.empty() || !in.queued_pins.empty() || !in.held_back.empty();
}

}  // namespace pindax
