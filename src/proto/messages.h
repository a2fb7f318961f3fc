// SPDX-License-Identifier: BSD-3-Clause
//
// Messages between client and daemon over one SOCK_SEQPACKET socket, host byte order (both ends are on one machine).
// Every packet is a Header, the body of its type, and for some types trailing bytes (paths, data, JSON).
//
// The daemon's direction is one FIFO per client: replies, grants and recalls leave in the order in which they were
// decided (F1). The receiver checks type, size and every field; a violation ends the session, never the process.
#pragma once

#include "base/types.h"

namespace pindax::proto {

inline constexpr u32 kProtocolVersion = 1;
inline constexpr u32 kMaxMessageBytes = 128 * 1024;
inline constexpr u32 kMaxDataBytes = 64 * 1024;  // of one kRead or kWrite
inline constexpr u32 kTokenBytes = 16;

enum class Type : u32 {
  // client -> daemon; each is answered by a kReply with its request id unless noted
  kHello = 1,       // HelloBody -> WelcomeBody, then pool path and mount point; control data: gate memfd
  kAttachPool = 2,  // AttachPoolBody; control data: pool, slot memfd, doorbell, userfaultfd if any -> AttachPoolReply, then a reason (text)
  kOpen = 3,        // OpenBody, then the path -> OpenReply
  kClose = 4,       // CloseBody
  kMap = 5,         // MapBody -> MapReply
  kUnmap = 6,       // UnmapBody: replied after every translation of it is forgotten
  kFault = 7,       // FaultBody: grants follow; then, if the request id is not 0 (populate), a FaultReply
  kPin = 8,         // PinBody -> PinReply (slow path; may wait)
  kCancel = 9,      // CancelBody: not answered; the request it names ends with EINTR if it still waits
  kPersist = 10,    // PersistBody
  kFallocate = 11,  // FallocateBody (may wait)
  kTruncate = 12,   // TruncateBody (may wait)
  kClone = 13,      // CloneBody -> CloneReply (may wait)
  kRead = 14,       // ReadBody -> bytes
  kWrite = 15,      // WriteBody, then bytes -> WriteReply
  kStat = 16,       // FileRef -> StatReply
  kRecallAck = 17,  // RecallAckBody: not answered
  kControl = 18,    // JSON text -> JSON text; longer than a message: control data holds a memfd with it
  kUnpinMessage = 19,  // UnpinBody: for pins without a slot (clients without shared memory)
  kSync = 20,       // FileRef: fsync
  // daemon -> client
  kReply = 100,   // ReplyBody, then what the request's type says
  kGrant = 101,   // GrantBody
  kRecall = 102,  // RecallBody: remove the translations, then send kRecallAck
  kPinRecall = 103,  // PinRecallBody: please end this lease
};

struct Header {
  Type type;
  u32 size;  // bytes of the packet, header included
  u64 request;  // the client's choice; echoed by the reply
};
static_assert(sizeof(Header) == 16);

// Names a file: a handle of this session, or (handle 0) a single-use token for a descriptor of the mount.
struct FileRef {
  u64 handle;
  u8 token[kTokenBytes];
};
static_assert(sizeof(FileRef) == 24);

struct HelloBody {
  u32 version;
  u32 flags;  // kHello…
  u8 token[kTokenBytes];  // from the mount's ioctl; zeros without a mount
};
inline constexpr u32 kHelloControlOnly = 1;  // a command-line tool: no shared memory follows
struct WelcomeBody {
  u32 version;
  u32 flags;  // kWelcome…
  u64 session;
  u64 pool_bytes;
  u64 pool_device, pool_inode;
  u32 witness;      // byte index to expect
  u32 granularity;  // Granularity of pmem/media.h
  u32 sync_mode;    // SyncMode
  u32 pool_path_bytes;   // the path follows the body,
  u32 mount_path_bytes;  // then this one; 0 without a mount
  u32 reserved;
};
inline constexpr u32 kWelcomeShareUserfaultfd = 1;  // the reply's control data also holds /dev/userfaultfd
inline constexpr u32 kWelcomeWatchPool = 2;         // a pool in shared memory with small pages: its pages can be watched

struct AttachPoolBody {
  u32 has_pool;  // 1: the first descriptor is the pool, opened by the client itself
  u32 pool_writable;
  u32 has_userfaultfd;
  u32 revocable;  // 1: whatever it maps of the pool is watched by the userfaultfd: MISSING, MINOR and WP
};
struct AttachPoolReply {
  u32 direct;    // 1: mappings are direct; 0: served through the mount, the reason follows as text
  u32 reserved;
};

struct OpenBody {
  u32 flags;  // O_*
  u32 mode;
  u32 umask;  // of the caller, for a new file without a default ACL
  u32 thread;  // of the caller (R37: who waits for its own pin), 0: unknown
  // then the path, not terminated: from the root of the file system, with or without a leading slash
};
struct OpenReply {
  u64 handle;
  u64 inode;
  u64 size_bytes;
  u32 mode;
  u32 reserved;
};
struct CloseBody { u64 handle; };

struct MapBody {
  FileRef file;
  u64 offset;  // bytes, block aligned
  u64 length;  // bytes
  u32 prot;    // PROT_READ, PROT_WRITE
  u32 flags;   // kMap…
};
inline constexpr u32 kMapIndirect = 2;  // pins only: the client maps through the mount
struct MapReply {
  u32 mapping;  // id: index of its gate
  u32 reserved;
  u64 inode;
  u64 size_bytes;
  u64 generation;
};
struct UnmapBody { u32 mapping; u32 reserved; };

struct FaultBody {
  u32 mapping;
  u32 write;
  u64 offset;  // bytes of the file, block aligned: the block that is needed
  u64 length;  // bytes from there that are welcome, block aligned; only the first block is allocated for a write. The
               // daemon may grant less, but always something for the first block
};

enum class GrantKind : u32 { kBlocks = 1, kHole = 2, kBeyondEnd = 3, kError = 4 };
struct GrantBody {
  u32 mapping;
  GrantKind kind;
  u64 offset;       // bytes of the file
  u64 length;       // bytes
  u64 pool_offset;  // kBlocks
  u32 writable;
  u32 error;        // kError: errno; SIGBUS at the place of the fault
  u64 generation;
};

struct RecallBody {
  u64 recall;  // acknowledge with it
  u32 mapping;
  u32 downgrade;  // 1: only take the right to write away
  u64 begin, end;  // bytes of the file
};
struct RecallAckBody { u64 recall; };
// Sent again now and then while the lease lasts and somebody waits.
struct PinRecallBody {
  u32 slot;  // or kNoSlot
  u32 deadline_ms;  // from now
  u64 pin;  // PinReply::pin, where there is no slot
};

struct PinBody {
  u32 mapping;
  u32 slot;   // in state kAsked, filled; kNoSlot without shared memory
  u32 kind;   // PinKind | kPinFlags
  u32 flags;  // kPinTry…
  u64 begin, end;
  u64 age;
  u32 thread, episode;
};
inline constexpr u32 kNoSlot = ~u32{0};
inline constexpr u32 kPinTry = 1;  // EAGAIN instead of waiting
struct PinReply {
  u64 pin;  // for kUnpinMessage
  u64 generation;
  // Around the pinned range: allocated and unshared as long as the gate's word stays what it was before the request. A write
  // pin in here needs no further message (P4). Empty: unknown.
  u64 writable_begin, writable_end;
};
struct UnpinBody { u64 pin; };
struct CancelBody { u64 request; };
struct PersistBody {
  u32 mapping;
  u32 reserved;
  u64 begin, end;
};
struct FallocateBody {
  FileRef file;
  u32 mode;  // FALLOC_FL_*
  u32 policy;  // BusyPolicy, 0 inherits
  u64 offset, length;
  u64 deadline_ms;  // 0: inherits
  u32 thread;       // as OpenBody::thread
  u32 reserved;
};
struct TruncateBody {
  FileRef file;
  u64 size;
  u32 policy;
  u32 thread;  // as OpenBody::thread
  u64 deadline_ms;
};
struct CloneBody {
  FileRef source, destination;
  u64 source_offset, destination_offset, length;  // length 0: to the source's end; a dedupe of 0 bytes is one of nothing
  u32 flags;   // kClone…
  u32 thread;  // as OpenBody::thread
};
inline constexpr u32 kCloneDedupe = 1;  // only if both ranges hold the same bytes
struct CloneReply { u64 bytes; };       // shared; 0 for a dedupe of different contents
struct ReadBody { FileRef file; u64 offset; u64 length; };
struct WriteBody { FileRef file; u64 offset; u32 length; u32 append; };
struct FaultReply { u64 populated_end; };  // bytes of the file: everything before it was looked at
struct WriteReply { u64 written; };
struct StatReply {
  u64 inode, size_bytes, blocks_512;
  u32 mode, uid, gid, links;
  i64 mtime_s;
  u32 mtime_ns, reserved;
};

struct ReplyBody {
  i64 status;  // 0 or a negative errno
  // then the body of the request's reply, or on error a message (text)
};
static_assert(sizeof(ReplyBody) == 8);

}  // namespace pindax::proto
