// SPDX-License-Identifier: BSD-3-Clause
//
// The JSON requests of the command-line tools (Type::kControl). A request is an object with "op" and arguments, a reply is
// what the op says or {"error": text, "errno": n}. Keys are snake_case and end in their unit.
//
//   {"op":"pins", "path"?:P, "inode"?:N, "pid"?:N, "pages"?:true}  -> [ {path, inode, offset_bytes, length_bytes, blocks:[{block,
//        length_blocks}], pid, uid, command, thread, kind, write, age_ms, stuck, waited_by:[{operation, pid, command, waiting_ms}]} ]
//   {"op":"clients"}  -> [ {session, pid, uid, command, direct, mappings, mapped_bytes, pins, age_ms, recalls_pending, witness} ]
//   {"op":"waiters"}  -> [ {operation, path, inode, offset_bytes, length_bytes, pid, thread, uid, command, policy, phase, waiting_ms,
//        scans, retries, busy_page_offset_bytes, deadline_ms, waits_for:[{pid, uid, command, thread, kind, offset_bytes, length_bytes, age_ms}],
//        hint} ]
//   {"op":"info"}     -> {pool, uuid, label, mount_point, daemon_pid, granularity, promise, sync_mode, space…}
//   {"op":"layout", "path":P} -> {path, inode, size_bytes, extents:[…], mappings:[…], pins:[…]}
//   {"op":"ls", "path":P}     -> [ {name, inode, type, mode, uid, gid, size_bytes, mtime} ]
//   {"op":"stat", "path":P}   -> {…}
//   {"op":"mkdir", "path":P, "mode":N}, {"op":"symlink", "path":P, "target":T}, {"op":"readlink","path":P},
//   {"op":"unlink", "path":P}, {"op":"set_attributes", "path":P, "mode"?, "uid"?, "gid"?, "mtime_s"?, "mtime_ns"?}
//   {"op":"recall", "path":P} -> {} when no client has a translation of the file left
//   {"op":"defragment", "path":P, "offset_bytes":N, "wait_ms"?:N} -> {next_bytes, moved_bytes, no_room_bytes, busy}: moves the next
//        chunk at or behind the offset; the end of the file is next_bytes 2^64-1. busy: a pin was in its way
//   {"op":"evict", "pid"|"session":N} -> {pid, session}: SIGKILL by pidfd (the process's owner, the mount's owner, root)
//   {"op":"shutdown"} -> {} then the daemon stops as after SIGTERM (owner or root)
// Rows of other users are shown to root and the mount's owner only; others get counts: {"hidden_rows": n} as last row.
#pragma once
