// SPDX-License-Identifier: BSD-3-Clause
//
// Faults: from an offset to blocks (F1). Look-up and enqueueing of the grant happen under one shared hold.
//
// Most faults find blocks that exist: one hold, one look-up, and the neighbours come along for free. A write that meets a hole
// lets go and takes its own block with the intent to write, so that nobody else's zero pages are recalled for blocks that nobody
// stores to; a run of such writes takes some blocks ahead, where that costs nobody anything (server/fault_ahead.h). A write that meets a shared block does the same with the intent to copy it (fs/share.h).

#include <cerrno>

#include "base/steps.h"
#include "server/session.h"

namespace pindax {

Status Session::handle_fault(Packet& p) {
  proto::FaultBody body;
  PINDAX_TRY(take_body(p, body));
  if (body.write > 1 || (body.offset & kBlockMask) != 0 || (body.length & kBlockMask) != 0 || body.length == 0)
    return Status(Errc::kProtocol, "nonsense in a fault");
  const u64 request = p.header.request;
  EntryPtr entry = find_mapping(body.mapping);
  if (!entry) {  // unmapped while the fault was on its way
    if (request != 0) reply(request, Status(Errc::kInvalid, "no such mapping"));
    return {};
  }
  const u64 length = std::min(body.length, request != 0 ? kMaxPopulateBytes : kMaxFaultBytes);
  const ByteRange range = intersect(entry->range, {body.offset, body.offset + length});
  if (entry->indirect || range.empty() || range.begin != body.offset || (body.write == 1 && !entry->writable))
    return Status(Errc::kProtocol, "a fault outside the mapping or its rights");
  PINDAX_STEP("server.fault");
  auto self = shared_from_this();
  fault(entry, range, body.write == 1, [self, request](const Status& status, u64 covered_end) {
    if (request == 0) return;
    if (!status.ok()) return self->reply(request, status);
    self->reply_body(request, proto::FaultReply{.populated_end = covered_end});
  });
  return {};
}

void Session::fault(const EntryPtr& entry, ByteRange range, bool write, FaultDone done) {
  begin_use(entry);
  // Pages that the kernel's cache owns are taken over one by one, as they are needed.
  const u64 cached = context_.fs.layout().first_cached(*entry->inode->layout(), range);
  range.end = std::min(range.end, std::max(cached, range.begin + kBlockSize));
  auto self = shared_from_this();
  auto go = [self, entry, range, write, done = std::move(done)](Result<SharedHold> hold) {
    Result<bool> served = false;
    u64 covered_end = range.begin + kBlockSize;
    if (hold.ok()) {
      PINDAX_STEP("server.fault_held");
      served = self->grant_existing(*entry, range, write, *hold, &covered_end);
      hold->release();
    } else {
      served = hold.status();
    }
    const ByteRange block{range.begin, range.begin + kBlockSize};
    if (served.ok() && !*served) {
      self->store_into_hole(entry, range, done);
    } else {
      if (!served.ok()) self->grant_error(*entry, block, served.status());
      done(served.status(), covered_end);
    }
    self->end_use(entry);
  };
  context_.clients().with_fault(*entry->mapping, range, FaultKind::kRead, std::move(go));
}

namespace {

// `copies`: this client keeps copies of what its mapping may be stored to but shares with other files (client/pieces.cc, install_copy()).
GrantPiece piece_of(const Translation& t, bool writable_mapping, bool copies) {
  GrantPiece piece;
  piece.range = {t.file_offset, t.file_offset + t.length};
  switch (t.kind) {
    case Translation::Kind::kBlocks:
      piece.kind = GrantPiece::Kind::kBlocks;
      piece.pool_offset = t.pool_offset.value;
      piece.writable = t.writable && writable_mapping;
      piece.copied = !t.writable && writable_mapping && copies;
      break;
    case Translation::Kind::kHole: piece.kind = GrantPiece::Kind::kHole; break;
    case Translation::Kind::kBeyondEnd: piece.kind = GrantPiece::Kind::kBeyondEnd; break;
    case Translation::Kind::kBad:
      piece.kind = GrantPiece::Kind::kBad;
      piece.error = EIO;
      break;
  }
  return piece;
}

// Whoever touches it gets an error.
bool refused(const GrantPiece& piece) { return piece.kind == GrantPiece::Kind::kBeyondEnd || piece.kind == GrantPiece::Kind::kBad; }

}  // namespace

Result<bool> Session::grant_existing(MappingEntry& entry, ByteRange range, bool write, const SharedHold& hold,
                                     u64* covered_end) {
  PINDAX_ASSIGN(const std::vector<Translation> found, context_.fs.translate(*entry.inode, range, false));
  std::vector<GrantPiece> pieces;
  bool writable = false;
  for (const Translation& t : found) {
    *covered_end = std::min(range.end, t.file_offset + t.length);
    const bool first = t.file_offset <= range.begin && range.begin < t.file_offset + t.length;
    GrantPiece piece = piece_of(t, entry.writable, static_cast<bool>(userfaultfd_));
    piece.range = intersect(piece.range, range);
    if (piece.kind == GrantPiece::Kind::kBlocks) piece.pool_offset += piece.range.begin - t.file_offset;
    if (first && write && !refused(piece) && !piece.writable) return false;
    if (piece.kind == GrantPiece::Kind::kHole) {
      // Zeros cost the client memory: only near the block that was asked for.
      const u64 limit = range.begin + kMaxHoleGrantBytes;
      if (piece.range.begin >= limit || (write && !first)) continue;
      piece.range.end = std::min(piece.range.end, limit);
    } else if (refused(piece)) {
      if (!first) continue;
      piece.range.end = range.begin + kBlockSize;
    }
    writable |= piece.writable;
    pieces.push_back(piece);
    if (pieces.size() == kMaxFaultPieces) break;
  }
  if (pieces.empty() || pieces.front().range.begin != range.begin)
    return Status(Errc::kIo, "the file system had no answer for a fault");
  if (writable) {
    context_.uncommitted.granted(*entry.inode);
    for (const auto& piece : pieces)
      if (piece.writable) context_.fs.note_direct_stores(*entry.inode, piece.range);
  }
  context_.clients().grant(*entry.mapping, hold, pieces);
  return true;
}

void Session::store_into_hole(const EntryPtr& entry, ByteRange range, const FaultDone& done) {
  const auto size = context_.fs.size(*entry->inode);
  const u64 file_end = size.ok() ? round_up(*size, kBlockSize) : 0;
  ByteRange wanted{range.begin, range.begin + entry->ahead.wanted(range.begin)};
  wanted.end = std::max(range.begin + kBlockSize, std::min({wanted.end, range.end, file_end}));
  const FaultKind kind = wanted.end - wanted.begin > kBlockSize ? FaultKind::kWriteAhead : FaultKind::kWrite;
  allocate_and_grant(entry, wanted, kind, [done, end = range.begin + kBlockSize](const Status& status) { done(status, end); });
}

void Session::allocate_and_grant(const EntryPtr& entry, ByteRange range, FaultKind kind, std::function<void(Status)> done) {
  begin_use(entry);
  auto self = shared_from_this();
  auto go = [self, entry, range, kind, done = std::move(done)](Result<SharedHold> hold) {
    Status status = hold.status();
    if (hold.ok()) {
      PINDAX_STEP("server.fault_allocate");
      FileSystem& fs = self->context_.fs;
      auto made = fs.translate(*entry->inode, range, true, kind == FaultKind::kCopy ? &hold->grant() : nullptr);
      status = made.status();
      if (made.ok()) {
        self->grant_made(*entry, *made, range, *hold);
        entry->ahead.allocated(range);
      }
      hold->release();
    }
    const ByteRange block{range.begin, range.begin + kBlockSize};
    if (!status.ok() && kind == FaultKind::kWriteAhead) {
      self->allocate_and_grant(entry, block, FaultKind::kWrite, done);
    } else if (status.code() == Errc::kTryAgain && kind == FaultKind::kWrite) {
      self->allocate_and_grant(entry, block, FaultKind::kCopy, done);
    } else {
      if (!status.ok()) self->grant_error(*entry, block, status);
      done(status);
    }
    self->end_use(entry);
  };
  context_.clients().with_fault(*entry->mapping, range, kind, std::move(go));
}

void Session::grant_made(MappingEntry& entry, const std::vector<Translation>& made, ByteRange range, const SharedHold& hold) {
  std::vector<GrantPiece> pieces;
  for (const Translation& t : made) {
    GrantPiece piece = piece_of(t, entry.writable, static_cast<bool>(userfaultfd_));
    const ByteRange whole = piece.range;
    piece.range = intersect(whole, range);
    if (piece.range.empty()) continue;
    if (refused(piece) && piece.range.begin > range.begin) continue;  // whoever touches it is told
    piece.pool_offset += piece.range.begin - whole.begin;
    pieces.push_back(piece);
  }
  context_.uncommitted.granted(*entry.inode);
  context_.fs.note_direct_stores(*entry.inode, range);
  PINDAX_STEP("server.fault_allocated");
  context_.clients().grant(*entry.mapping, hold, pieces);
}

void Session::grant_error(const MappingEntry& entry, ByteRange range, const Status& why) {
  GrantPiece piece;
  piece.kind = GrantPiece::Kind::kError;
  piece.range = {range.begin, range.begin + kBlockSize};
  piece.error = to_errno(why.code());
  send_grant(entry.id, piece, 0);
}

}  // namespace pindax
