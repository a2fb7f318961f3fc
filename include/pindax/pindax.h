/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libpindax: map a Pindax file's blocks, load and store at memory speed, and pin what a device, a DMA engine or a long copy
 * is using.
 *
 * Conventions. Every call returns 0 (or what its comment says) or a negative errno; pindax_last_error() then says in words
 * what went wrong and what to do. Offsets and lengths are bytes. Objects belong to the client that made them and end
 * with it.
 *   thread-safe   may be called from any number of threads at once
 *   thread-bound  one thread at a time per object
 *
 * Trust. A client with a writable direct mapping can overwrite any byte of the pool, by mistake or on purpose: give the pool
 * file's permissions only to whom you would give the device. Whoever may not open the pool gets the same calls, served through
 * the mount.
 *
 * Kernel I/O. Memory of a mapping may be handed to system calls that finish before they return (read, write, send). I/O that
 * outlives its call (io_uring, libaio, vmsplice, RDMA registration) needs a pin over the range for as long as it runs.
 *
 * Signals. Where this process may not have a userfaultfd (vm.unprivileged_userfaultfd, and no -o share_userfaultfd), the library
 * handles SIGSEGV for its mappings and hands all others to the handler that was there before. Loads and stores keep all promises.
 * System calls on memory that is not translated at that moment fail with EFAULT: touch it first, or map with
 * PINDAX_MAP_POPULATE, and pin what must stay. Do not block SIGSEGV; a handler of your own that is installed later must call
 * pindax_handle_signal() first.
 *
 * fork. A child has no mappings: its calls fail with -ENOTCONN, and touching a mapping's address is a SIGSEGV.
 * exec ends the attachment with all its pins and mappings. The library may be loaded by dlopen; it stays loaded after dlclose.
 */
#ifndef PINDAX_PINDAX_H
#define PINDAX_PINDAX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
/* struct pindax_pin and the call pindax_pin share their name, as struct stat and stat do: in C++ write `struct pindax_pin`. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#endif

#if defined(__GNUC__)
#define PINDAX_API __attribute__((visibility("default")))
#else
#define PINDAX_API
#endif

struct pindax_client;
struct pindax_mapping;

struct pindax_attach_options {
  size_t size;            /* sizeof(struct pindax_attach_options): later versions append fields */
  uint32_t flags;         /* PINDAX_ATTACH_… */
  const char *pool_path;  /* opens this path for the pool instead of the one the daemon names; NULL */
  /* Asks to end a lease (pindax_unpin, from any thread) within deadline_ms, because a layout change waits for it; afterwards the
   * change's policy decides: the blocks are kept aside until the unpin, or the change fails, or this process is killed. Called
   * once for each lease, on a thread of the library's own, which may call anything but pindax_detach. NULL: leases are
   * refused. */
  void (*lease_recall)(struct pindax_mapping *mapping, size_t offset, size_t length, uint32_t deadline_ms, void *context);
  void *lease_context;
};
#define PINDAX_ATTACH_INDIRECT 1u /* map through the mount even if the pool could be opened */
/* On a pool in shared memory the daemon can take pages back without this process's help, and the kernel maps them one by one.
 * With this flag it asks this process instead, as it must on other pools. */
#define PINDAX_ATTACH_COOPERATIVE 2u
/* Notice faults by SIGSEGV even if there is a userfaultfd (also: environment PINDAX_FAULTS=signals), and: never by SIGSEGV. */
#define PINDAX_ATTACH_SIGNALS 4u
#define PINDAX_ATTACH_NO_SIGNALS 8u

/* A pin, in the caller's memory; valid from a successful pin to its unpin. Do not copy while pinned. */
struct pindax_pin {
  uint64_t opaque[4];
  uint64_t generation; /* of the block numbers that pindax_mapping_extents gave (rule G5) */
};

/* Opens a session. `mountpoint_or_socket`: any path on the mount, or the socket of pindaxd --no-mount. `opt` may be NULL.
 * -ENOTCONN: no daemon there; -EPROTONOSUPPORT: another version; -ENOMEM. Thread-safe. */
PINDAX_API int pindax_attach(const char *mountpoint_or_socket, const struct pindax_attach_options *opt,
                             struct pindax_client **out);
/* Unmaps, unpins, closes. No call of this client may be under way. */
PINDAX_API int pindax_detach(struct pindax_client *);
/* 1 if mappings are direct, 0 if they go through the mount; `why` (may be NULL) gets a sentence that lives with the client: why
 * not, or why faults come as signals, else "". */
PINDAX_API int pindax_is_direct(struct pindax_client *, const char **why);

/* A descriptor for the calls below: of the mount if there is one, else of this session; close it with pindax_close.
 * `path`: inside the file system ("/a/b"), or on the mount. flags, mode: as open(2). Returns the descriptor. Thread-safe. */
PINDAX_API int pindax_open(struct pindax_client *, const char *path, int flags, unsigned mode);
PINDAX_API int pindax_close(struct pindax_client *, int fd);

/* pread(2) and pwrite(2), at memory speed for descriptors from pindax_open: through a mapping of the library's own where the file
 * has blocks, else by a system call or a message. Counts and errors are those of the system calls (-errno). A write that only
 * overwrites is as durable as a store, and moves mtime as one does: fsync(2) or pindax_persist of a mapping make it last;
 * with O_SYNC, O_DSYNC or O_APPEND it is an ordinary write. A bad block is a SIGBUS where a mapping is read. Thread-safe. */
PINDAX_API ssize_t pindax_pread(struct pindax_client *, int fd, void *buffer, size_t length, uint64_t offset);
PINDAX_API ssize_t pindax_pwrite(struct pindax_client *, int fd, const void *buffer, size_t length, uint64_t offset);
/* For a program's own SIGSEGV handler (SA_SIGINFO), with that handler's arguments: 1 if the fault was a mapping's and has been
 * served, so that the handler just returns; 0 if it is none of this library's. */
PINDAX_API int pindax_handle_signal(int number, void *siginfo, void *context);

#define PINDAX_MAP_POPULATE 1 /* translate what exists now, instead of at the first touch */

/* Maps [offset, offset + length) of `fd` to one contiguous address range, however scattered its extents. offset: multiple of
 * 4096. prot: PROT_READ, PROT_WRITE (the descriptor must allow it). The mapping may reach beyond the end of file: touching
 * pages there is a SIGBUS until the file grows. Loads from holes give zeros and allocate nothing; the first store allocates.
 * -EACCES, -EINVAL, -ENOMEM (too many mappings: see vm.max_map_count). Thread-safe. */
PINDAX_API int pindax_map(struct pindax_client *, int fd, uint64_t offset, size_t length, int prot, int flags,
                          struct pindax_mapping **out);
PINDAX_API void *pindax_mapping_address(const struct pindax_mapping *);
PINDAX_API size_t pindax_mapping_length(const struct pindax_mapping *);
/* Unmaps the memory. Pins through the mapping stay until unpinned (-EBUSY is not given for them). No other thread may use the
 * mapping any more, but for unpin. */
PINDAX_API int pindax_unmap(struct pindax_mapping *);

#define PINDAX_PIN_TRANSIENT 0u
#define PINDAX_PIN_LEASE 1u    /* the client is asked to end it (lease_recall) and must by the deadline */
#define PINDAX_PIN_LONGTERM 2u /* only where the mount allows it: else -EOPNOTSUPP; -ENOMEM beyond the client's quota */
#define PINDAX_PIN_WRITE 0x100u /* the pinned memory will be written: its blocks are allocated and unshared first */
#define PINDAX_PIN_TRANSFERABLE 0x200u /* any thread may end it: a thread that waits for its own pin is not called a deadlock */

/* Promise-me-it-stays on [offset, offset + length) of the mapping: until unpin no truncate, punch or the like takes these
 * blocks away. No message, a few nanoseconds, unless a layout change has closed the range: then it waits behind that change.
 * A read pin of a hole promises nothing about the hole. -EINVAL (range, length 0), -EDEADLK, -ENOSPC (write pins), -ENOTCONN.
 * Thread-safe. */
PINDAX_API int pindax_pin(struct pindax_mapping *, size_t offset, size_t length, unsigned flags, struct pindax_pin *out);
/* The same, but -EAGAIN instead of waiting. */
PINDAX_API int pindax_try_pin(struct pindax_mapping *, size_t offset, size_t length, unsigned flags, struct pindax_pin *out);
/* Ends a pin; from any thread, also after the mapping was unmapped (the first argument may then be NULL), not after detach.
 * -EINVAL: not pinned. */
PINDAX_API int pindax_unpin(struct pindax_mapping *, struct pindax_pin *);

/* Returning 0 means: these bytes, and the layout and size needed to find them, are as durable as the pool allows. Thread-safe. */
PINDAX_API int pindax_persist(struct pindax_mapping *, size_t offset, size_t length);

/* fallocate(2) and truncate(2) without the kernel's inode lock: other ranges of the file go on. mode: FALLOC_FL_*, with
 * COLLAPSE_RANGE, INSERT_RANGE and UNSHARE_RANGE, which the mount's fallocate(2) does not offer. May wait for
 * pins; -ETXTBSY where the policy is to refuse. Thread-safe. */
PINDAX_API int pindax_fallocate(struct pindax_client *, int fd, int mode, uint64_t offset, uint64_t length);
PINDAX_API int pindax_truncate(struct pindax_client *, int fd, uint64_t size);

/* What such a call does about pins in its way, instead of what the file (attribute user.pindax.on_busy) or the mount says. */
#define PINDAX_ON_BUSY_INHERIT 0u
#define PINDAX_ON_BUSY_WAIT 1u       /* for the pins to end; with a deadline, then -ETXTBSY */
#define PINDAX_ON_BUSY_REFUSE 2u     /* -ETXTBSY at once or at the deadline */
#define PINDAX_ON_BUSY_QUARANTINE 3u /* at once or at the deadline: complete, and keep the pinned blocks aside until they are unpinned */
/* At once or at the deadline: kill the processes that hold the pins, where the caller may signal them; others' blocks are
 * quarantined. Never the caller's own process. */
#define PINDAX_ON_BUSY_EVICT 4u
struct pindax_change_options {
  size_t size;          /* sizeof(struct pindax_change_options) */
  uint32_t on_busy;     /* PINDAX_ON_BUSY_… */
  uint32_t flags;       /* 0 */
  uint64_t deadline_ms; /* 0: none with an on_busy of its own, else what the file or the mount says */
};
PINDAX_API int pindax_fallocate_ext(struct pindax_client *, int fd, int mode, uint64_t offset, uint64_t length,
                                    const struct pindax_change_options *);
PINDAX_API int pindax_truncate_ext(struct pindax_client *, int fd, uint64_t size, const struct pindax_change_options *);
/* Shares the blocks of a range of `src_fd` with `dst_fd` (FICLONERANGE): no bytes are copied until one of the files is stored into.
 * Offsets and length: multiples of 4096, or the range ends where the source ends, and not inside the destination. length 0: to
 * the source's end. Waits for pins over both ranges. -EINVAL (alignment, overlap, beyond the end), -EBADF (rights of the
 * descriptors), -EAGAIN (the source is being written all the time), -ENOSPC, -ETXTBSY. Thread-safe. */
PINDAX_API int pindax_clone_range(struct pindax_client *, int src_fd, uint64_t src, int dst_fd, uint64_t dst, uint64_t length);
/* The same if both ranges hold the same bytes, else nothing (FIDEDUPERANGE). *deduped (may be NULL) gets how many bytes are shared now:
 * at most 16 MiB a call, 0 if the contents differ. Times do not change. */
PINDAX_API int pindax_dedupe_range(struct pindax_client *, int src_fd, uint64_t src, int dst_fd, uint64_t dst, uint64_t length,
                                   uint64_t *deduped);

struct pindax_mapping_info {
  size_t size;              /* in: sizeof */
  uint32_t direct;          /* 1: loads and stores touch the pool; 0: through the mount */
  uint32_t extents;         /* contiguous pieces mapped just now */
  uint64_t inode;
  uint64_t file_offset;     /* bytes */
  uint64_t mapped_bytes;    /* translated just now */
  uint64_t huge_bytes;      /* of these, how many lie so that 2 MiB pages can be used */
  uint64_t file_size;       /* bytes, as last seen */
  uint64_t generation;
  const char *why_indirect; /* a sentence, or NULL; lives with the client */
  uint64_t pmd_mapped_bytes; /* of mapped_bytes, how many the kernel maps by 2 MiB pages just now: read from /proc/self/smaps,
                                which costs with the number of the process's mappings; 0 if it does not say */
};
PINDAX_API int pindax_mapping_info(struct pindax_mapping *, struct pindax_mapping_info *out);

PINDAX_API const char *pindax_strerror(int code); /* of a negative return value; never NULL */
PINDAX_API const char *pindax_last_error(void);   /* thread-local; what the last failed call of this thread would have you do */

#ifdef __cplusplus
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}
#endif

#endif
