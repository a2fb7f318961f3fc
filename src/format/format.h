// SPDX-License-Identifier: BSD-3-Clause
//
// Every struct that Pindax keeps on media, format version 1. docs/format.md is the
// same in prose, with a hexdump that a test regenerates.
//
// Rules of the room: little-endian wrappers only; explicit zeroed reserved fields;
// size asserts for every struct; magic, version and self-location in each; crc32c is
// the last field and covers all bytes before it. Nobody else casts media: the decode
// functions (format/decode.h) return a Result, and only then is a struct read.
#pragma once

#include "base/little_endian.h"
#include "base/types.h"

namespace pindax::format {

inline constexpr u32 kVersion = 1;

inline constexpr u64 kSuperblockMagic = 0x3153'4658'444e'4950;  // "PINDXFS1"
inline constexpr u32 kStateMagic = 0x5453'5850;                 // "PXST"
inline constexpr u32 kAgMagic = 0x4741'5850;                    // "PXAG"
inline constexpr u32 kBitmapMagic = 0x4d42'5850;                // "PXBM"
inline constexpr u32 kInodeMagic = 0x4e49'5850;                 // "PXIN"
inline constexpr u32 kNodeMagic = 0x4e54'5850;                  // "PXTN"
inline constexpr u32 kBlobMagic = 0x4f42'5850;                  // "PXBO"
inline constexpr u32 kJournalMagic = 0x484a'5850;               // "PXJH"
inline constexpr u32 kRecordMagic = 0x524a'5850;                // "PXJR"

// Feature bits. compat: ignore; ro_compat: mount read-only; incompat: refuse. Version 1 sets none of the hooks below
// until the structures behind them are used.
inline constexpr u64 kCompatNone = 0;
inline constexpr u64 kRoCompatShareCounts = 1u << 0;  // AG refcount trees hold counts: a writer must keep them
inline constexpr u64 kRoCompatReverseMap = 1u << 1;   // AG reverse-map trees are complete
inline constexpr u64 kRoCompatBadBlocks = 1u << 2;    // StateRecord::bad_root lists blocks: a writer must never use them
inline constexpr u64 kIncompatSegments = 1u << 0;     // the pool is a directory of segment files, one per AG
inline constexpr u64 kKnownCompat = 0;
inline constexpr u64 kKnownRoCompat = kRoCompatShareCounts | kRoCompatReverseMap | kRoCompatBadBlocks;
inline constexpr u64 kKnownIncompat = 0;

// ---- Superblock -------------------------------------------------------------------------------------------------
// Two copies in different pages at fixed offsets; the valid one with the greater sequence wins. Written in place,
// the older copy first, each persisted before the other is touched.
inline constexpr u64 kSuperblockOffsets[2] = {0, 16 * kBlockSize};
inline constexpr u32 kMaxLostEpochs = 120;
inline constexpr u64 kMinPoolBytes = 8u << 20;
inline constexpr u64 kMaxPoolBytes = u64{1} << 48;
inline constexpr u64 kMinAgBlocks = 1024;                    // 4 MiB
inline constexpr u64 kMinLastAgBlocks = 256;                 // a shorter rest of the pool is left unused
inline constexpr u64 kMaxAgBlocks = (u64{1} << 30) >> kBlockShift;  // 1 GiB

enum class PoolState : u32 { kClean = 1, kMounted = 2 };

// Mount epochs whose provisional extents did not survive: [first, last].
struct LostEpochs {
  le32 first;
  le32 last;
};

struct Superblock {
  le64 magic;
  le32 version;
  le32 block_shift;
  le64 self_offset;  // bytes; which copy this is
  le64 sequence;
  le64 features_compat;
  le64 features_ro_compat;
  le64 features_incompat;
  u8 uuid[16];
  u8 label[64];  // UTF-8, zero padded
  le64 pool_blocks;
  le64 ag_blocks;  // blocks of every AG but the last, which may be shorter
  le32 ag_count;
  le32 inode_size;  // bytes
  le64 journal_block;
  le64 journal_blocks;
  le64 state_block;  // holds StateRecord
  le64 root_inode;
  le64 created_ns;
  u8 hash_key[16];  // SipHash key of directory and xattr names
  // What follows changes at mount and unmount.
  le32 state;        // PoolState
  le32 mount_epoch;  // grows with each mount; stamps provisional extents
  le64 mount_count;
  u8 boot_id[16];  // of the host at the last mount: the same boot means that no store was lost
  le64 mounted_ns;
  le32 confirmed_epoch;  // provisional extents of epochs up to here are written, but for lost_epochs
  le32 lost_count;
  LostEpochs lost[kMaxLostEpochs];
  u8 reserved[2868];
  le32 crc;
};
static_assert(sizeof(Superblock) == kBlockSize);

// ---- Global state, journalled -----------------------------------------------------------------------------------
struct StateRecord {
  le32 magic;
  le32 version;
  le64 self_block;
  le64 orphan_root;  // tree of OrphanValue by inode number; 0 is empty
  le64 orphan_count;
  le64 quarantine_root;  // tree of QuarantineValue by first block; 0 is empty
  le64 quarantine_blocks;
  le64 free_blocks;  // summary over all AGs; exact after replay
  le64 inodes_used;
  le64 inodes_allocated;  // slots in all inode blocks
  le64 next_generation;   // of inode numbers
  le64 bad_root;          // tree of BadBlockValue by block; 0 is empty
  le64 bad_blocks;        // in it
  le64 retired_blocks;    // of these, those that nobody owns any more
  u8 reserved[148];
  le32 crc;
};
static_assert(sizeof(StateRecord) == 256);

// ---- Allocation groups --------------------------------------------------------------------------------------------
// An AG begins with kAgReservedBlocks that only AG 0 uses (superblocks), then AgHeader's block, its block bitmap, its
// inode bitmap, then data. In AG 0 the journal and the state block follow the bitmaps.
inline constexpr u64 kAgReservedBlocks = 32;
inline constexpr u32 kBitmapBits = (4096 - 32) * 8;  // blocks described by one bitmap block

struct AgHeader {
  le32 magic;
  le32 version;
  le64 self_block;
  le32 ag;
  le32 bitmap_blocks;  // of each of the two bitmaps
  le64 blocks;
  le64 bitmap_block;        // first block of the allocation bitmap; bit set = not free
  le64 inode_bitmap_block;  // first block of the inode bitmap; bit set = the block holds inodes
  le64 first_data_block;
  le64 free_blocks;
  le64 inode_blocks;
  le64 free_inodes;     // unused slots in this AG's inode blocks
  le64 refcount_root;   // hook: tree of RefcountValue by first block; 0 is "every allocated block has one owner"
  le64 reverse_map_root;  // hook: tree of ReverseValue by first block
  u8 reserved[156];
  le32 crc;
};
static_assert(sizeof(AgHeader) == 256);

struct BitmapBlock {
  le32 magic;
  le32 version;
  le64 self_block;
  le32 ag;
  le32 index;  // which block of its bitmap
  le32 kind;   // 1 allocation, 2 inodes
  le32 crc;    // over the whole block with this field zero
  u8 bits[4096 - 32];
};
static_assert(sizeof(BitmapBlock) == kBlockSize);
static_assert(sizeof(BitmapBlock::bits) * 8 == kBitmapBits);

// ---- Inodes -----------------------------------------------------------------------------------------------------
// Inode number = block * kInodesPerBlock + slot. mode == 0 is a free slot (magic, self and generation stay valid).
inline constexpr u32 kInodeSize = 512;
inline constexpr u32 kInodesPerBlock = 8;
inline constexpr u32 kInlineExtentCount = 8;
inline constexpr u32 kInlineSymlinkBytes = 192;  // bytes, without terminator
inline constexpr u32 kMaxLinks = 65000;
inline constexpr u64 kMaxFileBytes = (u64{1} << 63) - 1;  // i_size limit

constexpr u64 inode_block(InodeNo n) { return n.value / kInodesPerBlock; }
constexpr PoolOffset inode_offset(InodeNo n) { return PoolOffset(n.value * kInodeSize); }

// An extent as file systems know it. state: see ExtentState. epoch: mount epoch of a provisional extent.
enum class ExtentState : u32 { kWritten = 0, kUnwritten = 1, kProvisional = 2 };
inline constexpr u32 kExtentStateMask = 3;
inline constexpr u32 kExtentShared = 1u << 2;  // hook: look the share count up before a store
inline constexpr u32 kExtentFlagBits = 4;      // flags_epoch = epoch << kExtentFlagBits | flags

struct Extent {
  le64 file_block;
  le64 block;
  le32 length_blocks;
  le32 flags_epoch;
};
static_assert(sizeof(Extent) == 24);

// Value of an extent tree; its key is the file block.
struct ExtentValue {
  le64 block;
  le32 length_blocks;
  le32 flags_epoch;
};
static_assert(sizeof(ExtentValue) == 16);

enum class DataKind : u16 {
  kNone = 0,            // sockets, fifos, devices (rdev)
  kInlineExtents = 1,   // body.extents
  kTree = 2,            // body.root: extent tree of a file, or entries of a directory
  kInlineSymlink = 3,   // body.symlink
  kBlobSymlink = 4,     // body.blob
};

// A run of metadata blocks with BlobHeader that holds a long symlink or xattr value.
inline constexpr u32 kBlobPayload = 4096 - 32;
inline constexpr u32 kMaxBlobBlocks = 17;  // 64 KiB + change
struct BlobRef {
  le32 length_bytes;
  le32 block_count;
  le64 blocks[kMaxBlobBlocks];
};
static_assert(sizeof(BlobRef) == 144);
struct BlobHeader {
  le32 magic;
  le32 version;
  le64 self_block;
  le64 owner;  // inode
  le32 length_bytes;
  le32 crc;  // over the whole block with this field zero
};
static_assert(sizeof(BlobHeader) == 32);

// FS_IOC_GETFLAGS bits that are kept: append, immutable, nodump, noatime, sync, dirsync. The rest is refused.
inline constexpr u32 kFlagSync = 0x00000008;
inline constexpr u32 kFlagImmutable = 0x00000010;
inline constexpr u32 kFlagAppend = 0x00000020;
inline constexpr u32 kFlagNoDump = 0x00000040;
inline constexpr u32 kFlagNoAtime = 0x00000080;
inline constexpr u32 kFlagDirSync = 0x00010000;
inline constexpr u32 kKnownFlags =
    kFlagSync | kFlagImmutable | kFlagAppend | kFlagNoDump | kFlagNoAtime | kFlagDirSync;

enum class BusyPolicy : u16 { kInherit = 0, kWait = 1, kRefuse = 2, kQuarantine = 3, kEvict = 4 };

// What is still to be done about [pending_begin, pending_end) of an inode. Recovery finishes a shift before anybody looks at the
// file, since its extents have the wrong file blocks meanwhile.
//   kNone      its blocks leave the file
//   kCollapse  its blocks leave the file, and what begins at pending_end or behind it moves down by its length
//   kInsert    it is empty, and what begins in [pending_floor, pending_begin) moves up by its length
enum class PendingShift : u32 { kNone = 0, kCollapse = 1, kInsert = 2 };

struct Inode {
  le32 magic;
  le16 version;
  le16 data_kind;  // DataKind
  le64 self;       // inode number
  le32 generation;
  le32 mode;  // S_IFMT and permissions; 0 = free slot
  le32 uid;
  le32 gid;
  le32 links;
  le32 flags;  // kFlag…
  le64 size_bytes;
  le64 blocks;  // data blocks, extent-tree, directory, xattr and blob blocks
  le64 rdev;
  le64 atime_s;
  le64 mtime_s;
  le64 ctime_s;
  le64 crtime_s;
  le32 atime_ns;
  le32 mtime_ns;
  le32 ctime_ns;
  le32 crtime_ns;
  le32 project;
  le16 extent_count;  // inline ones
  le16 busy_policy;   // BusyPolicy
  le32 busy_deadline_ms;
  le32 subdirs;       // of a directory: its links are 2 + subdirs
  le64 xattr_root;    // tree of XattrValue by name hash; 0 is none
  le64 parent;        // directory of the first link; 0 for orphans and the root
  le64 parent_key;    // its key in that directory
  le64 parents_root;  // tree of ParentValue for the other links; 0 is none
  le64 pending_begin;  // bytes: a range whose blocks are still being freed (pending_end > pending_begin) after a change
  le64 pending_end;    // that is already committed; the inode is on the orphan list meanwhile
  le64 entries;        // of a directory: names in it
  le64 version_counter;  // grows with each change (statx change cookie, NFS)
  le64 pending_floor;  // bytes: see PendingShift
  le32 pending_shift;  // PendingShift
  u8 reserved[32];
  union {
    Extent extents[kInlineExtentCount];
    le64 root;
    u8 symlink[kInlineSymlinkBytes];
    BlobRef blob;
    u8 raw[kInlineExtentCount * sizeof(Extent)];
  } body;
  u8 reserved_tail[76];
  le32 crc;
};
static_assert(sizeof(Inode) == kInodeSize);

// ---- Trees ------------------------------------------------------------------------------------------------------
// B+trees with 64-bit unique keys and values of up to kMaxTreeValue bytes. A leaf is a slotted page: slots grow from the
// front, sorted by key, values from the back. An inner node is sorted (least key, child) pairs.
enum class TreeKind : u16 {
  kExtents = 1,
  kDirectory = 2,
  kXattrs = 3,
  kParents = 4,
  kQuarantine = 5,
  kRefcount = 6,
  kReverse = 7,
  kOrphans = 8,
  kBadBlocks = 9,
};

struct NodeHeader {
  le32 magic;
  le16 version;
  le16 kind;   // TreeKind
  le64 self_block;
  le64 owner;  // inode number; AG number for AG trees; 0 for the quarantine
  le16 level;  // 0 is a leaf
  le16 count;  // slots or pairs
  le16 heap;   // leaf: offset in the block where the value heap begins; it ends before the crc
  le16 dead;   // leaf: bytes in the heap that no slot refers to
};
static_assert(sizeof(NodeHeader) == 32);
struct LeafSlot {
  le64 key;
  le16 offset;  // in the block
  le16 length;  // bytes
  le32 reserved;
};
static_assert(sizeof(LeafSlot) == 16);
struct InnerPair {
  le64 key;
  le64 child;
};
static_assert(sizeof(InnerPair) == 16);
inline constexpr u32 kNodeCrcOffset = 4092;  // le32 over the bytes before it
inline constexpr u32 kMaxTreeValue = 1200;   // bytes: three values fit into a leaf

struct DirectoryValue {  // then name_length bytes of name
  le64 inode;
  u8 type;  // DT_*
  u8 name_length;
  le16 reserved;
  le32 reserved2;
};
static_assert(sizeof(DirectoryValue) == 16);
struct XattrValue {  // then name_length bytes of full name ("user.x"), then the value or a BlobRef
  u8 name_length;
  u8 external;  // 1: a BlobRef follows the name, not the value
  le16 value_length;  // inline bytes
};
static_assert(sizeof(XattrValue) == 4);
struct ParentValue {
  le64 parent;
  le64 key;
};
struct QuarantineValue {
  le64 length_blocks;
  le64 since_ns;
  le32 reason;  // QuarantineReason
  le32 reserved;
};
enum class QuarantineReason : u32 { kPinned = 1, kFormerClient = 2, kKernelIo = 3, kUnacknowledged = 4 };
// An inode that is unlinked but in use, or has a range still to be freed (Inode::pending_begin).
struct OrphanValue {
  le64 since_ns;
  le32 pending_shift;  // PendingShift of the inode: mount looks for these
  le32 reserved;
};
// A block of which the media cannot give back what it holds. It is never given out again. In use: somebody has it still (or it was
// given up and not retired yet); retired: nobody has it, its bit in the bitmap stays set for good.
enum class BadBlockState : u32 { kInUse = 1, kRetired = 2 };
struct BadBlockValue {
  le32 state;  // BadBlockState
  le32 reserved;
  le64 since_ns;
};
static_assert(sizeof(BadBlockValue) == 16);
struct RefcountValue {
  le32 length_blocks;
  le32 owners;
};
struct ReverseValue {
  le64 owner;  // inode
  le64 file_block;
  le32 length_blocks;
  le32 reserved;
};

// Keys of directory entries and xattrs: 48 bits of hash, 15 bits to tell collisions apart; the key is the readdir
// cookie, so it never changes while the entry lives. Cookies 0..2 are "start", ".", "..".
inline constexpr u32 kNameHashBits = 48;
inline constexpr u32 kCollisionBits = 15;
inline constexpr u64 kFirstCookie = 3;

// ---- Journal ------------------------------------------------------------------------------------------------------
// The first two blocks of the journal hold copies of JournalHeader (the greater sequence wins); the rest is a ring in
// which byte `lsn % ring bytes` holds stream byte `lsn`. Records are 8-byte aligned and may wrap.
struct JournalHeader {
  le32 magic;
  le32 version;
  le64 self_block;
  le64 sequence;
  le64 head;   // Lsn of the first record that replay needs
  le64 epoch;  // seeds every record's checksum; each recovery makes a new one durable before it appends
  u8 reserved[20];
  le32 crc;
};
static_assert(sizeof(JournalHeader) == 64);

// Odd. Without it, a stretch of a record that is a struct with a crc32c of its own could be exchanged unseen.
inline constexpr u64 kRecordSumFactor = 0x9e37'79b9'7f4a'7c15;
struct RecordHeader {
  le32 magic;
  le32 crc;  // over the whole record with this field zero, its 64-bit words times kRecordSumFactor, seeded with the crc of
             // the epoch
  le64 lsn;  // of this header's first byte
  le64 epoch;
  le32 length_bytes;  // with header and padding; multiple of 8
  le32 range_count;
};
static_assert(sizeof(RecordHeader) == 32);
// A range lies within one block. kRangeRevoke (length 0, offset of a block): the block was freed, so replay skips what
// earlier records hold for it; it may be a file's data by now.
inline constexpr u32 kRangeRevoke = 1u << 0;
struct RecordRange {  // then length_bytes of content, padded to 8
  le64 offset;        // bytes in the pool
  le32 length_bytes;
  le32 flags;
};
static_assert(sizeof(RecordRange) == 16);

}  // namespace pindax::format
