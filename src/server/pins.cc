// SPDX-License-Identifier: BSD-3-Clause
//
// The slow path of pins (P3), and pins of clients without slots.
//
// A pin for writing makes its range allocated, and every pin makes it unshared (P4): else a copy-on-write fault would have to wait
// for the pin of a reader, and two of them for each other. The pin comes first: once it is visible no break can take blocks away
// again, so what is made after that stays for as long as the pin; nobody relies on it before the answer.
#include "server/session.h"

namespace pindax {

namespace {
// How far around a pinned range the reply tells what is allocated.
constexpr u64 kWritableAround = u64{64} << 20;
constexpr u64 kPinPieceBytes = u64{2} << 20;  // made ready at once
// Bytes that are lost cannot be promised to anybody.
Status refuse_lost(const std::vector<Translation>& pieces) {
  for (const Translation& t : pieces)
    if (t.kind == Translation::Kind::kBad) return Status(Errc::kPoisoned, "a bad block in the range to pin");
  return {};
}

}  // namespace

Status Session::handle_pin(Packet& p) {
  proto::PinBody body;
  PINDAX_TRY(take_body(p, body));
  const u32 kind = body.kind & proto::kPinKindMask;
  if ((body.kind & ~(proto::kPinKindMask | proto::kPinFlags)) != 0 || kind > static_cast<u32>(proto::PinKind::kLongterm) ||
      (body.flags & ~proto::kPinTry) != 0 || (body.slot != proto::kNoSlot && body.slot >= proto::kMaxSlots))
    return Status(Errc::kProtocol, "nonsense in a pin request");
  const u64 request = p.header.request;
  EntryPtr entry = find_mapping(body.mapping);
  const ByteRange range{body.begin, body.end};
  if (!entry || range.empty() || !entry->range.contains(range)) {
    reply(request, Status(Errc::kInvalid, entry ? "a pin outside its mapping" : "no such mapping"));
    return {};
  }
  const bool write = (body.kind & proto::kPinWrite) != 0;
  if (write && !entry->writable) {
    reply(request, Status(Errc::kAccess, "a pin for writing needs a writable mapping"));
    return {};
  }
  if (!begin_pending(request)) return {};
  const PinRequest ask{.slot = body.slot == proto::kNoSlot ? proto::kMaxSlots : body.slot,
                       .kind = body.kind,
                       .try_only = (body.flags & proto::kPinTry) != 0,
                       .range = range,
                       .age = body.age,
                       .thread = body.thread,
                       .episode = body.episode};
  begin_use(entry);
  auto self = shared_from_this();
  auto done = [self, entry, range, write, request](Result<u64> pin) {
    const ByteRange blocks = block_aligned(range);
    if (pin.ok() && write)
      self->finish_write_pin(entry, blocks, blocks.begin, *pin, request);
    else if (pin.ok())
      self->finish_read_pin(entry, blocks, blocks.begin, *pin, request);
    else
      self->answer_pin(entry, range, pin.ok() ? *pin : 0, request, pin.status());
  };
  set_pending_change(request, context_.clients().pin(*entry->mapping, ask, std::move(done)));
  return {};
}

// Allocates the range piece by piece from `at` on, granting as it goes, then answers.
void Session::finish_write_pin(const EntryPtr& entry, ByteRange range, u64 at, u64 pin, u64 request) {
  auto self = shared_from_this();
  const ByteRange piece{at, std::min(range.end, at + kPinPieceBytes)};
  const auto shares = context_.fs.shares_blocks(*entry->inode, piece);
  const bool copies = shares.ok() && *shares;
  auto go = [self, entry, range, piece, copies, pin, request](Result<SharedHold> hold) {
    Status status = hold.status();
    if (hold.ok()) {
      auto made = self->context_.fs.translate(*entry->inode, piece, true, copies ? &hold->grant() : nullptr);
      status = made.status();
      if (made.ok()) status = refuse_lost(*made);
      if (made.ok() && entry->indirect) self->context_.uncommitted.granted(*entry->inode);
      // Others' zero pages were recalled; the mapping's own must give way to the blocks, which others may now store into.
      if (made.ok() && !entry->indirect) self->grant_made(*entry, *made, piece, *hold);
      hold->release();
    }
    const bool again = status.code() == Errc::kTryAgain && !copies;  // shared since the look at it
    if (!again && (!status.ok() || piece.end >= range.end)) return self->answer_pin(entry, range, pin, request, status);
    // Through the queue: a long range must not grow the stack.
    self->context_.fs.executor().post([self, entry, range, at = again ? piece.begin : piece.end, pin, request] {
      self->finish_write_pin(entry, range, at, pin, request);
    });
  };
  context_.clients().with_fault(*entry->mapping, piece, copies ? FaultKind::kCopy : FaultKind::kWrite, std::move(go));
}

// Makes what is shared in the range the file's own, piece by piece, then answers.
void Session::finish_read_pin(const EntryPtr& entry, ByteRange range, u64 at, u64 pin, u64 request) {
  if (at == range.begin && context_.fs.allocator().bad_count() != 0) {
    const auto found = context_.fs.translate(*entry->inode, range, false);
    if (const Status lost = found.ok() ? refuse_lost(*found) : found.status(); !lost.ok())
      return answer_pin(entry, range, pin, request, lost);
  }
  auto shares = context_.fs.shares_blocks(*entry->inode, {at, range.end});
  if (!shares.ok() || !*shares) return answer_pin(entry, range, pin, request, shares.status());
  auto self = shared_from_this();
  const ByteRange piece{at, std::min(range.end, at + kPinPieceBytes)};
  context_.clients().with_fault(*entry->mapping, piece, FaultKind::kCopy, [self, entry, range, piece, pin, request](Result<SharedHold> hold) {
    Status status = hold.status();
    if (hold.ok()) {
      status = self->context_.fs.unshare(*entry->inode, piece, hold->grant());
      hold->release();
    }
    if (!status.ok() || piece.end >= range.end) return self->answer_pin(entry, range, pin, request, status);
    self->context_.fs.executor().post(
        [self, entry, range, at = piece.end, pin, request] { self->finish_read_pin(entry, range, at, pin, request); });
  });
}

void Session::answer_pin(const EntryPtr& entry, ByteRange range, u64 pin, u64 request, const Status& status) {
  if (!status.ok()) {
    // A pin that stands is the client's to end where it has a slot (it sees the slot's state), ours otherwise.
    if (pin != 0) (void)context_.clients().unpin(*this, pin);
    reply(request, status);
  } else {
    proto::PinReply body{};
    body.pin = pin;
    body.generation = context_.clients().generation(*entry->mapping);
    if (entry->writable) {
      const ByteRange around = intersect(
          entry->range, {range.begin > kWritableAround ? round_down(range.begin - kWritableAround, kBlockSize) : 0,
                         round_up(range.end, kBlockSize) + kWritableAround});
      if (auto found = context_.fs.translate(*entry->inode, around, false); found.ok()) {
        u64 begin = 0, end = 0;
        for (const Translation& t : *found) {
          const bool good = t.kind == Translation::Kind::kBlocks && t.writable;
          if (!good && t.file_offset >= range.end) break;
          if (!good) begin = end = t.file_offset + t.length;
          if (good && end != t.file_offset) begin = t.file_offset;
          if (good) end = t.file_offset + t.length;
        }
        if (begin <= range.begin && range.end <= end) {
          body.writable_begin = begin;
          body.writable_end = end;
        }
      }
    }
    reply_body(request, body);
  }
  end_pending(request);
  end_use(entry);
}

Status Session::handle_unpin(Packet& p) {
  proto::UnpinBody body;
  PINDAX_TRY(take_body(p, body));
  reply(p.header.request, context_.clients().unpin(*this, body.pin));
  return {};
}

}  // namespace pindax
